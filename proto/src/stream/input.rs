//! Frames of streams as they arrive.

use alloc::string::String;

use super::api::{Event, FrameError, Violation};
use super::limits::{LEASE, Pool};
use super::message::{Mode, StreamId};
use super::recv::{self, End};
use super::streams::{MAX_LABEL, Streams, lease};
use super::table::owed;
use crate::codec::{DecodeError, Reader};
use crate::time::Instant;

/// Events that may wait to be polled; with more, the peer's OPEN is refused until they were polled.
const MAX_EVENTS: usize = 8192;

/// Frame types. `docs/protocol/streams.md` has their layouts.
pub(super) mod kind {
    pub const MAX_DATA: u8 = 0x08;
    pub const MAX_STREAMS: u8 = 0x09;
    pub const OPEN: u8 = 0x10;
    pub const DATA: u8 = 0x11;
    pub const RUN: u8 = 0x12;
    pub const FRAGMENT: u8 = 0x13;
    pub const ONCE_RUN: u8 = 0x14;
    pub const ONCE_FRAGMENT: u8 = 0x15;
    pub const SYNC: u8 = 0x16;
    pub const FIN: u8 = 0x17;
    pub const RESET: u8 = 0x18;
    pub const STOP: u8 = 0x19;
    pub const MAX_STREAM_DATA: u8 = 0x1a;
    pub const STREAM_BLOCKED: u8 = 0x1b;
    pub const DATA_BLOCKED: u8 = 0x1c;
}

pub(super) const fn mode_byte(mode: Mode) -> u8 {
    match mode {
        Mode::FireAndForget => 0,
        Mode::Reliable => 1,
        Mode::Unordered => 2,
    }
}

const FRAME: FrameError = FrameError::Violation(Violation::Frame);

impl From<DecodeError> for FrameError {
    fn from(_: DecodeError) -> Self {
        FRAME
    }
}

fn code(r: &mut Reader<'_>) -> Result<u16, FrameError> {
    Ok(r.u16("code")?)
}

impl Streams {
    /// Takes one frame whose type byte `kind` was read already; [`Self::handles`] says which. After a
    /// [`Violation`] the association is to be closed; after [`FrameError::Drop`] the rest of the packet
    /// is skipped and the packet not acknowledged. Bytes after the frame stay in `r`.
    pub fn handle_frame(
        &mut self,
        now: Instant,
        kind: u8,
        r: &mut Reader<'_>,
        pool: &mut Pool,
    ) -> Result<(), FrameError> {
        self.now = now;
        match kind {
            kind::MAX_DATA => {
                let limit = r.varint("limit")?;
                if limit > self.credit.limit {
                    self.credit.limit = limit;
                    self.serve_waiting();
                }
                return Ok(());
            }
            kind::MAX_STREAMS => {
                self.peer_streams = self.peer_streams.max(r.varint("limit")?);
                return Ok(());
            }
            kind::DATA_BLOCKED => {
                let (need, size) = (r.varint("need")?, r.varint("size")?);
                if size <= self.config.local.max_message.max(64) {
                    let (leased, base) = (&mut self.leased, self.window.base());
                    let grow = &mut |_, to: u64| lease(leased, pool, to.saturating_sub(base));
                    self.owed.data |= self.window.want(need, size, grow);
                }
                return Ok(());
            }
            kind::OPEN => return self.opened(r),
            _ => {}
        }
        let id = r.varint("stream")?;
        let Some(slot) = self.locate(id)? else { return skip(kind, r) };
        match kind {
            kind::STOP => {
                let code = code(r)?;
                self.stopped(slot, code);
                return Ok(());
            }
            kind::MAX_STREAM_DATA => {
                let limit = r.varint("limit")?;
                if let Some(s) = self.table.get_mut(slot).filter(|s| limit > s.send.limit) {
                    s.send.limit = limit;
                    s.send.grants += 1;
                    self.wake(slot);
                }
                return Ok(());
            }
            kind::STREAM_BLOCKED => {
                let (need, size) = (r.varint("need")?, r.varint("size")?);
                let max = self.config.local.max_message.max(64);
                let Some(s) = self.table.get_mut(slot) else { return Ok(()) };
                let open = s.recv.state == recv::State::Open && size <= max;
                if open && s.recv.window.want(need, size, &mut |_, _| true) {
                    s.recv.grants += 1;
                    self.owe(slot, owed::MAX);
                }
                return Ok(());
            }
            _ => {}
        }
        let late_room = LEASE.saturating_sub(self.prepaid);
        let Some(s) = self.table.get_mut(slot) else { return Err(FRAME) };
        let expected = match kind {
            kind::DATA => s.mode == Mode::Reliable,
            kind::RUN | kind::FRAGMENT => s.mode == Mode::Unordered,
            kind::ONCE_RUN | kind::ONCE_FRAGMENT | kind::SYNC => s.mode == Mode::FireAndForget,
            kind::FIN | kind::RESET => true,
            _ => false,
        };
        if !expected {
            return Err(FRAME);
        }
        let before = (s.recv.ahead, s.recv.prepaid);
        let received = s.recv.window.received;
        let result = match kind {
            kind::DATA => {
                let offset = r.varint("offset")?;
                s.recv.data(offset, r.bytes(usize::MAX, "data")?)
            }
            kind::RUN => {
                let first = r.varint("number")?;
                s.recv.unordered_run(first, r.bytes(usize::MAX, "run")?)
            }
            kind::FRAGMENT => {
                let number = r.varint("number")?;
                let (total, offset) = (r.varint("total")?, r.varint("offset")?);
                s.recv.unordered_fragment(number, total, offset, r.bytes(usize::MAX, "fragment")?)
            }
            kind::ONCE_RUN => {
                let (first, charged) = (r.varint("number")?, r.varint("charge")?);
                s.recv.once_run(first, charged, r.bytes(usize::MAX, "run")?, late_room)
            }
            kind::ONCE_FRAGMENT => {
                let (number, charged) = (r.varint("number")?, r.varint("charge")?);
                let (total, offset) = (r.varint("total")?, r.varint("offset")?);
                let bytes = r.bytes(usize::MAX, "fragment")?;
                s.recv.once_fragment(number, charged, total, offset, bytes)
            }
            kind::SYNC => {
                let (number, charged) = (r.varint("number")?, r.varint("charge")?);
                s.recv.sync(number, charged)
            }
            kind::FIN => {
                let (size, charge) = (r.varint("size")?, r.varint("charge")?);
                s.recv.fin(End { size, charge })
            }
            _ => {
                let (code, charge) = (code(r)?, r.varint("charge")?);
                return self.reset_by_peer(now, slot, code, charge, pool);
            }
        };
        match result {
            Ok(effect) => {
                if !self.apply(now, slot, effect, before, pool) {
                    return Err(Violation::FlowControl.into());
                }
                self.maybe_close(slot);
                Ok(())
            }
            Err(e) => {
                // What was charged before the frame proved bad stays charged: the books also balance
                // while a broken association closes.
                let after = self.table.get_mut(slot).map_or(received, |s| s.recv.window.received);
                self.window.received += after - received;
                self.settle(slot, before);
                Err(e)
            }
        }
    }

    /// The slot of a stream; `None` if it is closed already.
    fn locate(&self, id: u64) -> Result<Option<u32>, FrameError> {
        if let Some(slot) = self.table.find(id) {
            return Ok(Some(slot));
        }
        let index = id / 2;
        if id & 1 == self.ours {
            return if index < self.next_ours { Ok(None) } else { Err(Violation::StreamLimit.into()) };
        }
        if self.seen.contains(index) {
            return Ok(None);
        }
        // Its OPEN is not here yet. Senders repeat OPEN in front of data, so this is rare.
        if index < self.max_streams { Err(FrameError::Drop) } else { Err(Violation::StreamLimit.into()) }
    }

    fn opened(&mut self, r: &mut Reader<'_>) -> Result<(), FrameError> {
        let id = r.varint("stream")?;
        let mode = match r.u8("mode")? {
            0 => Mode::FireAndForget,
            1 => Mode::Reliable,
            2 => Mode::Unordered,
            _ => return Err(FRAME),
        };
        let priority = r.u8("priority")?;
        let label = core::str::from_utf8(r.bytes(MAX_LABEL, "label")?).map_err(|_| FRAME)?;
        let index = id / 2;
        if id & 1 == self.ours || index >= self.max_streams || priority == 0 {
            return Err(if priority == 0 { FRAME } else { Violation::StreamLimit.into() });
        }
        if self.seen.contains(index) {
            return Ok(());
        }
        if self.events.len() >= MAX_EVENTS || self.seen.would_overflow(&(index..index + 1)) {
            return Err(FrameError::Drop);
        }
        self.seen.insert(index..index + 1);
        self.add(id, false, mode, priority, String::from(label));
        if let Some(s) = self.table.find(id).and_then(|slot| self.table.get_mut(slot)) {
            let label = core::mem::take(&mut s.label);
            self.events.push_back(Event::Opened { id: StreamId(id), label, mode });
        }
        Ok(())
    }

    fn reset_by_peer(
        &mut self,
        now: Instant,
        slot: u32,
        code: u16,
        charge: u64,
        pool: &mut Pool,
    ) -> Result<(), FrameError> {
        let Some(s) = self.table.get_mut(slot) else { return Ok(()) };
        if s.recv.state == recv::State::Done {
            return Ok(());
        }
        if charge < s.recv.window.received || s.recv.end.is_some_and(|e| e.charge != charge) {
            return Err(Violation::FinalSize.into());
        }
        if charge > s.recv.window.limit {
            return Err(Violation::FlowControl.into());
        }
        // Everything is here already: the reset came too late to take it away.
        if s.recv.finished {
            return Ok(());
        }
        let before = (s.recv.ahead, s.recv.prepaid);
        let told = s.recv.state == recv::State::Stopped;
        let effect = s.recv.over(charge);
        if !told {
            self.events.push_back(Event::ResetByPeer { id: s.name(), code });
        }
        if !self.apply(now, slot, effect, before, pool) {
            return Err(Violation::FlowControl.into());
        }
        self.maybe_close(slot);
        Ok(())
    }
}

/// Reads over a frame of a stream that is closed.
fn skip(kind: u8, r: &mut Reader<'_>) -> Result<(), FrameError> {
    let varints = match kind {
        kind::STOP => {
            code(r)?;
            return Ok(());
        }
        kind::RESET => {
            code(r)?;
            1
        }
        kind::MAX_STREAM_DATA => 1,
        kind::STREAM_BLOCKED | kind::SYNC | kind::FIN => 2,
        kind::DATA | kind::RUN => 1,
        kind::ONCE_RUN => 2,
        kind::FRAGMENT => 3,
        kind::ONCE_FRAGMENT => 4,
        _ => return Err(FRAME),
    };
    for _ in 0..varints {
        r.varint("field")?;
    }
    if matches!(kind, kind::DATA | kind::RUN | kind::ONCE_RUN | kind::FRAGMENT | kind::ONCE_FRAGMENT) {
        r.bytes(usize::MAX, "data")?;
    }
    Ok(())
}
