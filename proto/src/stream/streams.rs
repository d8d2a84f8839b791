//! All streams of one association: what the session and the ports call.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use super::api::{Event, Ledger, OpenError, SendError, SentFrame, StreamStats, Taken, Tally};
use super::limits::{Config, LEASE, Limits, Pool};
use super::message::{Mode, StreamId, charge};
use super::recv::{self, Effect, RecvHalf};
use super::send::{self, Commit, Credit, SendHalf, header};
use super::table::{Stream, Table, owed};
use super::window::Window;
use crate::bounded::RangeSet;
use crate::time::{Duration, Instant};

/// Longest label, in bytes.
pub const MAX_LABEL: usize = 256;
/// Least room that [`Streams::write`] needs to make progress, in bytes.
pub const MIN_ROOM: usize = 512;
/// Emptied chunks kept until the node takes them, by number and bytes; more are freed. One
/// acknowledgement may empty many.
const SPARE_CHUNKS: usize = 256;
const SPARE_BYTES: usize = 1 << 20;
/// Gaps in the ids that the peer opened; an OPEN that would make one more is refused.
const OPEN_GAPS: usize = 256;

/// Control frames of the session that are owed.
#[derive(Debug, Default)]
pub(super) struct Owed {
    pub data: bool,
    pub streams: bool,
    pub blocked: bool,
}

/// All streams of one association, both halves of each. Any call order is safe; names of streams
/// that do not exist are answered, never a panic.
#[derive(Debug)]
pub struct Streams {
    pub(super) config: Config,
    /// The lowest bit of ids that this side opens.
    pub(super) ours: u64,
    pub(super) peer: Limits,
    pub(super) table: Table,
    pub(super) next_ours: u64,
    pub(super) peer_streams: u64,
    /// Indices that the peer ever opened.
    pub(super) seen: RangeSet,
    pub(super) max_streams: u64,
    pub(super) freed_theirs: u64,
    pub(super) credit: Credit,
    pub(super) window: Window,
    /// Charge proven by bytes behind gaps, over all streams.
    pub(super) ahead: u64,
    /// Late fire-and-forget messages held beyond the window.
    pub(super) prepaid: u64,
    pub(super) leased: u64,
    pub(super) rtt: Duration,
    pub(super) now: Instant,
    pub(super) owed: Owed,
    pub(super) need: (u64, u64),
    pub(super) control: VecDeque<u32>,
    pub(super) active: VecDeque<u32>,
    pub(super) waiting: VecDeque<u32>,
    pub(super) events: VecDeque<Event>,
    pub(super) spares: Vec<Vec<u8>>,
    pub(super) packets: u64,
    ledger: Ledger,
    /// Bytes that streams that are over sent again.
    resent: u64,
}

/// Keeps an emptied chunk, if there is room.
pub(super) fn spare(spares: &mut Vec<Vec<u8>>, mut chunk: Vec<u8>) {
    let held: usize = spares.iter().map(Vec::capacity).sum();
    if spares.len() < SPARE_CHUNKS && (spares.is_empty() || held + chunk.capacity() <= SPARE_BYTES) {
        chunk.clear();
        spares.push(chunk);
    }
}

impl Streams {
    /// No streams yet. `greater`: this side has the greater entity id, so its ids are odd.
    pub fn new(config: &Config, greater: bool) -> Self {
        let config = config.checked();
        Self {
            config,
            ours: u64::from(greater),
            peer: Limits::NONE,
            table: Table::default(),
            next_ours: 0,
            peer_streams: 0,
            seen: RangeSet::new(OPEN_GAPS),
            max_streams: config.local.streams,
            freed_theirs: 0,
            credit: Credit::default(),
            window: Window::shared(config.local.session_window, config.max_session_window),
            ahead: 0,
            prepaid: 0,
            leased: 0,
            rtt: Duration::ZERO,
            now: Instant::ZERO,
            owed: Owed::default(),
            need: (0, 0),
            control: VecDeque::new(),
            active: VecDeque::new(),
            waiting: VecDeque::new(),
            events: VecDeque::new(),
            spares: Vec::new(),
            packets: 0,
            ledger: Ledger::default(),
            resent: 0,
        }
    }

    /// What the handshake has to tell the peer.
    pub const fn local_limits(&self) -> Limits {
        self.config.local
    }

    /// What the first handshake of the association told. Later handshakes change nothing: credit only
    /// rises, by frames.
    pub fn set_peer_limits(&mut self, limits: Limits) {
        if self.peer != Limits::NONE {
            return;
        }
        self.peer = limits;
        self.credit.limit = self.credit.limit.max(limits.session_window);
        self.peer_streams = self.peer_streams.max(limits.streams);
    }

    /// Whether `kind` is a frame for [`Self::handle_frame`].
    pub const fn handles(kind: u8) -> bool {
        matches!(kind, 0x08 | 0x09 | 0x10..=0x1c)
    }

    /// Largest message that the peer takes, in bytes. Ports refuse a larger one before they queue it.
    pub const fn max_message(&self) -> u64 {
        self.peer.max_message
    }

    /// Opens a stream. Messages may follow at once. `priority` scales its share of the link; 16 is
    /// usual, 0 counts as 1.
    pub fn open(&mut self, label: &str, mode: Mode, priority: u8) -> Result<StreamId, OpenError> {
        if label.len() > MAX_LABEL {
            return Err(OpenError::LabelTooLong(label.len()));
        }
        if self.next_ours >= self.peer_streams {
            return Err(OpenError::TooMany(self.peer_streams));
        }
        let id = (self.next_ours * 2) | self.ours;
        self.next_ours += 1;
        let slot = self.add(id, true, mode, priority.max(1), String::from(label));
        self.owe(slot, owed::OPEN);
        Ok(StreamId(id))
    }

    pub(super) fn add(&mut self, id: u64, ours: bool, mode: Mode, priority: u8, label: String) -> u32 {
        let window = Window::new(self.config.local.stream_window, self.config.max_stream_window);
        self.table.insert(Stream {
            id,
            ours,
            mode,
            priority,
            label,
            known: !ours,
            opened_in: 0,
            send: SendHalf::new(self.peer.stream_window, self.config.send_buffer),
            recv: RecvHalf::new(mode, window, self.config.local.max_message),
            owed: 0,
            in_control: false,
            in_active: false,
            in_waiting: false,
            deficit: 0,
            stop_code: 0,
            need: (0, 0),
            closed: false,
        })
    }

    /// Queues a chunk of messages, whole or not at all. It is accepted even beyond
    /// [`Self::write_limit`], which ports respect.
    pub fn send(&mut self, id: StreamId, chunk: Vec<u8>) -> Result<(), SendError> {
        let Some(slot) = self.table.find(id.0) else { return Err(SendError::Gone(chunk)) };
        let max = self.peer.max_message;
        let Some(s) = self.table.get_mut(slot) else { return Err(SendError::Gone(chunk)) };
        if s.send.state != send::State::Open {
            return Err(SendError::Gone(chunk));
        }
        let mut tally = Tally::default();
        let mut cost = 0;
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            let Some((h, len)) = header(rest) else { return Err(SendError::Malformed(chunk)) };
            if len > max {
                return Err(SendError::TooLarge(chunk));
            }
            let Some(next) = rest.get((h + len) as usize..) else { return Err(SendError::Malformed(chunk)) };
            rest = next;
            tally.messages += 1;
            tally.bytes += len;
            cost += charge(len as usize);
        }
        if tally.messages == 0 {
            spare(&mut self.spares, chunk);
            return Ok(());
        }
        s.send.push(chunk, tally, cost);
        self.ledger.accepted.add(tally);
        self.ledger.queued.add(tally);
        self.wake(slot);
        Ok(())
    }

    /// Whether so much of a stream is queued and unsent that nothing more need be collected for it;
    /// [`Event::Wanting`] tells when that ends, unless the stream does.
    pub fn has_plenty(&self, id: StreamId) -> bool {
        self.table.find(id.0).and_then(|slot| self.table.get(slot)).is_some_and(|s| s.send.plenty)
    }

    /// No more messages will be queued; a flush from now on waits for the end to be acknowledged too.
    /// `false`: there is no such sending direction.
    pub fn finish(&mut self, id: StreamId) -> bool {
        let Some(slot) = self.table.find(id.0) else { return false };
        let Some(s) = self.table.get_mut(slot) else { return false };
        if s.send.state != send::State::Open {
            return false;
        }
        s.send.state = send::State::Finishing;
        self.wake(slot);
        true
    }

    /// Drops what is queued and tells the peer. `false`: there is no such sending direction.
    pub fn reset(&mut self, id: StreamId, code: u16) -> bool {
        let Some(slot) = self.table.find(id.0) else { return false };
        match self.reset_slot(slot, code) {
            Some(lost) => {
                if !planted!(ResetUncounted) {
                    self.ledger.reset.add(lost);
                }
                true
            }
            None => false,
        }
    }

    pub(super) fn stopped(&mut self, slot: u32, code: u16) {
        if let Some(lost) = self.reset_slot(slot, code) {
            self.ledger.stopped.add(lost);
            if let Some(s) = self.table.get(slot) {
                self.events.push_back(Event::StoppedByPeer { id: s.name(), code });
            }
        }
    }

    fn reset_slot(&mut self, slot: u32, code: u16) -> Option<Tally> {
        let s = self.table.get_mut(slot)?;
        if !matches!(s.send.state, send::State::Open | send::State::Finishing) {
            return None;
        }
        let before = s.send.queued;
        let delivered = s.send.delivered;
        let spares = &mut self.spares;
        let lost = s.send.drop_all(s.mode == Mode::Reliable, &mut |c| spare(spares, c));
        s.send.state = send::State::Reset(code);
        s.owed &= !(owed::FIN | owed::SYNC | owed::BLOCKED);
        let mut done = s.send.delivered;
        done.sub(delivered);
        self.ledger.delivered.add(done);
        self.ledger.queued.sub(before);
        self.owe(slot, owed::RESET);
        self.leave_lines(slot);
        Some(lost)
    }

    /// Reads no more: what arrives is dropped, the peer is told. `false`: nothing more was to come.
    /// What the port took and did not drain counts as drained.
    pub fn stop(&mut self, id: StreamId, code: u16, pool: &mut Pool) -> bool {
        let Some(slot) = self.table.find(id.0) else { return false };
        let Some(s) = self.table.get_mut(slot) else { return false };
        let held = s.recv.held();
        let was = s.recv.state;
        let complete = s.recv.finished;
        let before = (s.recv.ahead, s.recv.prepaid);
        s.recv.discard();
        if was == recv::State::Open {
            s.recv.state = if complete { recv::State::Done } else { recv::State::Stopped };
            s.stop_code = code;
            if let Some(end) = s.recv.end.filter(|_| !complete) {
                // The end is known, so what is missing can be charged now.
                let effect = s.recv.over(end.charge);
                self.window.received += effect.received;
                self.drain(self.now, slot, effect.gone, pool);
            } else {
                self.drain(self.now, slot, held, pool);
            }
            if !complete {
                self.owe(slot, owed::STOP);
            }
        } else {
            self.drain(self.now, slot, held, pool);
        }
        self.settle(slot, before);
        self.maybe_close(slot);
        was == recv::State::Open && !complete
    }

    /// Asks for [`Event::Flushed`] once everything queued so far is acknowledged (fire-and-forget:
    /// sent). `false`: no such stream, or it was reset. The answer is [`Event::Closed`] if the
    /// stream ends before.
    pub fn flush(&mut self, id: StreamId, token: u64) -> bool {
        let Some(slot) = self.table.find(id.0) else { return false };
        let Some(s) = self.table.get_mut(slot) else { return false };
        // Also once the peer acknowledged the reset: what was dropped will never be flushed.
        if matches!(s.send.state, send::State::Reset(_)) || s.send.dropped.messages > 0 {
            return false;
        }
        s.send.flushes.push_back((s.send.end, token));
        self.progress(slot);
        true
    }

    /// The application drained messages worth `charge` (see [`charge`](super::charge)). The port
    /// reports everything it took sooner or later, also after [`Event::Closed`], or calls
    /// [`Self::stop`] if nobody will read it: until then the stream holds its place and its credit.
    pub fn consumed(&mut self, now: Instant, id: StreamId, charge: u64, rtt: Duration, pool: &mut Pool) {
        (self.now, self.rtt) = (now, rtt);
        let Some(slot) = self.table.find(id.0) else { return };
        let Some(s) = self.table.get_mut(slot) else { return };
        let prepaid = s.recv.prepaid.min(charge);
        s.recv.prepaid -= prepaid;
        self.prepaid = self.prepaid.saturating_sub(prepaid);
        let charge = (charge - prepaid).min(s.recv.held());
        self.drain(now, slot, charge, pool);
        self.maybe_close(slot);
    }

    /// Both windows move on.
    pub(super) fn drain(&mut self, now: Instant, slot: u32, charge: u64, pool: &mut Pool) {
        if charge == 0 {
            return;
        }
        let rtt = self.rtt;
        let mut raised = false;
        if let Some(s) = self.table.get_mut(slot) {
            let open = s.recv.state == recv::State::Open && s.recv.end.is_none();
            let rose = s.recv.window.drain(now, charge, rtt, &mut |_, _| true);
            if rose && open && !planted!(CreditNeverReturned) {
                s.recv.grants += 1;
                raised = true;
            }
        }
        if raised {
            self.owe(slot, owed::MAX);
        }
        let (base, leased) = (self.window.base(), &mut self.leased);
        // Always with the pool: the last drain before the peer's large message fits may be this one.
        let rose =
            self.window.drain(now, charge, rtt, &mut |_, to| lease(leased, pool, to.saturating_sub(base)));
        self.owed.data |= rose;
        let needed = self.window.size.max(self.window.advertised()).saturating_sub(base);
        let needed = needed.div_ceil(LEASE) * LEASE;
        if *leased > needed {
            pool.give_back(*leased - needed);
            *leased = needed;
        }
    }

    /// Takes over what a received frame did: `before` is (ahead, prepaid) of the stream before it.
    pub(super) fn settle(&mut self, slot: u32, before: (u64, u64)) {
        let Some(s) = self.table.get(slot) else { return };
        self.ahead = (self.ahead + s.recv.ahead).saturating_sub(before.0);
        self.prepaid = (self.prepaid + s.recv.prepaid).saturating_sub(before.1);
    }

    pub(super) fn apply(
        &mut self,
        now: Instant,
        slot: u32,
        effect: Effect,
        before: (u64, u64),
        pool: &mut Pool,
    ) -> bool {
        self.window.received += effect.received;
        self.settle(slot, before);
        if self.window.received + self.ahead > self.window.limit {
            return false;
        }
        self.drain(now, slot, effect.gone, pool);
        let (leased, base) = (&mut self.leased, self.window.base());
        self.owed.data |=
            self.window.relieve(LEASE, &mut |_, to| lease(leased, pool, to.saturating_sub(base)));
        if let Some(s) = self.table.get_mut(slot) {
            if s.recv.has_messages() && !s.recv.announced {
                s.recv.announced = true;
                if !(planted!(LostWake) && s.recv.arrived.messages % 16 == 15) {
                    self.events.push_back(Event::Readable(s.name()));
                }
            }
            if s.recv.finished && s.recv.state == recv::State::Open && !s.closed {
                self.finish_receiving(slot);
            }
        }
        true
    }

    fn finish_receiving(&mut self, slot: u32) {
        let Some(s) = self.table.get_mut(slot) else { return };
        if !core::mem::replace(&mut s.recv.told, true) {
            self.events.push_back(Event::Finished(s.name()));
        }
        if !s.recv.has_messages() {
            s.recv.state = recv::State::Done;
            self.maybe_close(slot);
        }
    }

    /// Swaps out all whole messages of a stream; `spare` becomes the buffer of the next ones, or stays
    /// as it is if there are none.
    pub fn take(&mut self, id: StreamId, spare: &mut Vec<u8>) -> Option<Taken> {
        let slot = self.table.find(id.0)?;
        let s = self.table.get_mut(slot)?;
        let mode = s.mode;
        let (chunk, first) = s.recv.take(spare)?;
        if s.recv.finished && s.recv.state == recv::State::Open {
            self.finish_receiving(slot);
        }
        Some(Taken { chunk, first, mode })
    }

    /// An emptied chunk, for a port to fill.
    pub fn spent(&mut self) -> Option<Vec<u8>> {
        self.spares.pop()
    }

    /// Puts a stream on the list of those that owe control frames.
    pub(super) fn owe(&mut self, slot: u32, what: u8) {
        let Some(s) = self.table.get_mut(slot) else { return };
        s.owed |= what;
        if !s.in_control {
            s.in_control = true;
            self.control.push_back(slot);
        }
    }

    fn leave_lines(&mut self, slot: u32) {
        let Some(s) = self.table.get_mut(slot) else { return };
        if core::mem::take(&mut s.in_active) {
            self.active.retain(|e| *e != slot);
        }
        if core::mem::take(&mut s.in_waiting) {
            self.waiting.retain(|e| *e != slot);
            self.serve_waiting();
        }
    }

    /// Looks what a stream can do now, and puts it on the list where it belongs.
    pub(super) fn wake(&mut self, slot: u32) {
        let Some(s) = self.table.get_mut(slot) else { return };
        if !matches!(s.send.state, send::State::Open | send::State::Finishing) {
            return;
        }
        if !s.send.sendable() && !s.in_waiting {
            match s.send.commit(&mut self.credit, self.waiting.is_empty()) {
                Commit::Done => {}
                Commit::Nothing => {
                    if s.send.state == send::State::Finishing && s.send.sent == s.send.end {
                        self.owe(slot, owed::FIN);
                    }
                    return;
                }
                Commit::Stream { need, size } => {
                    s.send.blocked += 1;
                    // A message of at most half the first window comes by with ordinary updates.
                    if size > self.peer.stream_window / 2 && s.need != (need, size) {
                        s.need = (need, size);
                        self.owe(slot, owed::BLOCKED);
                    }
                    return;
                }
                Commit::Session { need, size } => {
                    s.send.blocked += 1;
                    s.in_waiting = true;
                    if self.waiting.is_empty() {
                        self.session_blocked(need, size);
                    }
                    self.waiting.push_back(slot);
                    return;
                }
            }
        }
        if let Some(s) = self.table.get_mut(slot).filter(|s| s.send.sendable() && !s.in_active) {
            s.in_active = true;
            self.active.push_back(slot);
        }
    }

    fn session_blocked(&mut self, need: u64, size: u64) {
        if size > self.peer.session_window / 2 && self.need != (need, size) {
            self.need = (need, size);
            self.owed.blocked = true;
        }
    }

    /// The association was at rest. Who waits first for session credit asks, again or because its message
    /// was too small to ask: the peer's pool may have been empty when it made no room for it.
    pub fn ask_again(&mut self) {
        let Some(s) = self.waiting.front().and_then(|slot| self.table.get_mut(*slot)) else { return };
        if let Commit::Session { need, size } = s.send.commit(&mut self.credit, false) {
            self.need = (need, size);
            self.owed.blocked = true;
        }
    }

    /// Session credit goes to those who wait for it in their order, so that no large message starves.
    pub(super) fn serve_waiting(&mut self) {
        while let Some(&slot) = self.waiting.front() {
            let Some(s) = self.table.get_mut(slot) else {
                self.waiting.pop_front();
                continue;
            };
            if let Commit::Session { need, size } = s.send.commit(&mut self.credit, true) {
                self.session_blocked(need, size);
                return;
            }
            s.in_waiting = false;
            self.waiting.pop_front();
            self.wake(slot);
        }
    }

    /// What became of `frame` is known: its packet was acknowledged.
    pub fn on_acked(&mut self, frame: SentFrame) {
        let (SentFrame::Data { id, .. }
        | SentFrame::Open(id)
        | SentFrame::Sync(id, _)
        | SentFrame::Fin(id)
        | SentFrame::Reset(id)) = frame
        else {
            return;
        };
        let Some(slot) = self.table.find(id) else { return };
        let Some(s) = self.table.get_mut(slot) else { return };
        match frame {
            SentFrame::Data { start, len, .. } => {
                if matches!(s.send.state, send::State::Open | send::State::Finishing) {
                    let before = s.send.delivered;
                    let spares = &mut self.spares;
                    s.send.acked(start, u64::from(len), &mut |c| spare(spares, c));
                    let mut done = s.send.delivered;
                    done.sub(before);
                    self.ledger.delivered.add(done);
                    self.ledger.queued.sub(done);
                    self.progress(slot);
                }
            }
            SentFrame::Open(_) => {
                s.known = true;
                s.owed &= !owed::OPEN;
                s.label = String::new();
            }
            SentFrame::Sync(_, number) if s.send.sync.0 <= number => s.owed &= !owed::SYNC,
            SentFrame::Fin(_) => {
                s.send.fin_acked = true;
                s.owed &= !owed::FIN;
            }
            SentFrame::Reset(_) => {
                s.send.state = send::State::Done;
                s.owed &= !owed::RESET;
            }
            _ => {}
        }
        if let Some(s) = self.table.get_mut(slot) {
            let flushed = s.mode == Mode::FireAndForget || s.send.acked_to == s.send.end;
            if s.send.fin_acked && flushed && s.send.state == send::State::Finishing {
                s.send.state = send::State::Done;
            }
            // Nothing may stay on a list that has nothing to write: the session would spin.
            if s.owed == 0 && core::mem::take(&mut s.in_control) {
                self.control.retain(|e| *e != slot);
            }
            if s.in_active && !s.send.sendable() {
                s.in_active = false;
                self.active.retain(|e| *e != slot);
                self.wake(slot);
            }
        }
        if matches!(frame, SentFrame::Fin(_) | SentFrame::Data { .. }) {
            self.progress(slot);
        }
        self.maybe_close(slot);
    }

    /// Events that follow from bytes having left the queue.
    pub(super) fn progress(&mut self, slot: u32) {
        let Some(s) = self.table.get_mut(slot) else { return };
        while let Some((end, token)) = s.send.flushes.front().copied() {
            // The end of the stream is part of what is flushed once it was asked for.
            if (end > s.send.acked_to && !planted!(EarlyFlush)) || s.send.state == send::State::Finishing {
                break;
            }
            s.send.flushes.pop_front();
            self.events.push_back(Event::Flushed { token });
        }
        let limit = s.send.released() + self.config.send_buffer;
        let step = limit.saturating_sub(s.send.reported);
        if step >= self.config.send_buffer / 4 || (step > 0 && s.send.acked_to == s.send.end) {
            s.send.reported = limit;
            self.events.push_back(Event::Writable { id: s.name(), limit });
        }
    }

    pub(super) fn left(&mut self, done: Tally) {
        self.ledger.delivered.add(done);
        self.ledger.queued.sub(done);
    }

    /// What became of `frame` is known: its packet was lost.
    pub fn on_lost(&mut self, frame: SentFrame) {
        let (id, what) = match frame {
            SentFrame::Data { id, .. } | SentFrame::Once { id, .. } => (id, 0),
            SentFrame::Open(id) => (id, owed::OPEN),
            SentFrame::Sync(id, _) => (id, owed::SYNC),
            SentFrame::Fin(id) => (id, owed::FIN),
            SentFrame::Reset(id) => (id, owed::RESET),
            SentFrame::Stop(id) => (id, owed::STOP),
            SentFrame::MaxStreamData(id, _) => (id, owed::MAX),
            SentFrame::StreamBlocked(id, _) => (id, owed::BLOCKED),
            SentFrame::MaxData(limit) => {
                self.owed.data |= limit == self.window.limit && !planted!(SessionCreditForgotten);
                return;
            }
            SentFrame::MaxStreams(limit) => {
                self.owed.streams |= limit == self.max_streams;
                return;
            }
            SentFrame::DataBlocked(need) => {
                self.owed.blocked |= need == self.need.0 && !self.waiting.is_empty();
                return;
            }
        };
        let Some(slot) = self.table.find(id) else { return };
        let Some(s) = self.table.get_mut(slot) else { return };
        let live = matches!(s.send.state, send::State::Open | send::State::Finishing);
        let again = match frame {
            SentFrame::Data { .. } if live && planted!(DataForgotten) => return,
            SentFrame::Data { start, len, .. } if live => {
                s.send.lose(start, u64::from(len));
                self.wake(slot);
                return;
            }
            SentFrame::Once { next, charge, .. } if live => {
                // What is lost must not hold credit if nothing later tells the peer.
                if next > s.send.sync.0 {
                    s.send.sync = (next, charge);
                    self.owe(slot, owed::SYNC);
                }
                return;
            }
            SentFrame::Data { .. } | SentFrame::Once { .. } => false,
            SentFrame::Open(_) => !s.known && !planted!(OpenForgotten),
            SentFrame::Sync(_, number) => live && number == s.send.sync.0,
            SentFrame::Fin(_) if planted!(FinForgotten) => false,
            SentFrame::Fin(_) => s.send.state == send::State::Finishing && !s.send.fin_acked,
            SentFrame::Reset(_) if planted!(ResetForgotten) => false,
            SentFrame::Reset(_) => matches!(s.send.state, send::State::Reset(_)),
            SentFrame::Stop(_) => s.recv.state == recv::State::Stopped,
            SentFrame::MaxStreamData(..) if planted!(StreamCreditForgotten) => false,
            SentFrame::MaxStreamData(_, limit) => {
                limit == s.recv.window.limit && s.recv.state == recv::State::Open && s.recv.end.is_none()
            }
            SentFrame::StreamBlocked(_, need) => live && need == s.need.0 && need > s.send.limit,
            _ => false,
        };
        if again {
            self.owe(slot, what);
        }
    }

    /// Emits `Closed` when both directions are over, and frees the stream once its credit is back.
    pub(super) fn maybe_close(&mut self, slot: u32) {
        let Some(s) = self.table.get_mut(slot) else { return };
        if s.send.state != send::State::Done || s.recv.state != recv::State::Done {
            return;
        }
        if !s.closed {
            s.closed = true;
            self.events.push_back(Event::Closed { id: s.name(), lost: s.send.dropped });
        }
        if s.recv.held() > 0 || s.recv.has_messages() {
            return;
        }
        let (ours, prepaid, ahead) = (s.ours, s.recv.prepaid, s.recv.ahead);
        if core::mem::take(&mut s.in_control) {
            self.control.retain(|e| *e != slot);
        }
        self.leave_lines(slot);
        self.prepaid = self.prepaid.saturating_sub(prepaid);
        self.ahead = self.ahead.saturating_sub(ahead);
        if let Some(gone) = self.table.remove(slot) {
            self.resent += gone.send.retransmitted;
        }
        if !ours {
            self.freed_theirs += 1;
            let target = self.config.local.streams + self.freed_theirs;
            let opened = self.seen.max().map_or(0, |n| n + 1);
            let scarce = self.max_streams.saturating_sub(opened) <= self.config.local.streams / 2;
            if scarce || target - self.max_streams >= self.config.local.streams / 8 {
                self.max_streams = target;
                self.owed.streams = true;
            }
        }
    }

    /// Whether [`Self::poll_event`] has something to tell.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// What happened since.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The sum of charges that a port may have queued since the stream began: what was delivered and
    /// the send buffer. Exact at the ends of chunks, by proportion inside. 0 if there is no stream.
    pub fn write_limit(&self, id: StreamId) -> u64 {
        self.table
            .find(id.0)
            .and_then(|slot| self.table.get(slot))
            .map_or(0, |s| s.send.released() + self.config.send_buffer)
    }

    /// The association ends: everything queued is lost, leases go back. Returns what was lost and not
    /// told by an [`Event::Closed`] that was polled: what is lost now, and what earlier resets lost.
    pub fn close_all(&mut self, pool: &mut Pool) -> Tally {
        let (mut sum, mut untold) = (Tally::default(), Tally::default());
        for event in self.events.drain(..) {
            if let Event::Closed { lost, .. } = event {
                untold.add(lost);
            }
        }
        for slot in 0..self.table.slots.len() as u32 {
            let Some(mut s) = self.table.remove(slot) else { continue };
            if !s.closed {
                untold.add(s.send.dropped);
            }
            let before = s.send.delivered;
            sum.add(s.send.drop_all(s.mode == Mode::Reliable, &mut drop));
            let mut done = s.send.delivered;
            done.sub(before);
            self.ledger.delivered.add(done);
        }
        self.ledger.queued = Tally::default();
        self.ledger.closed.add(sum);
        if !planted!(LeaseKept) {
            pool.give_back(core::mem::take(&mut self.leased));
        }
        self.control.clear();
        self.active.clear();
        self.waiting.clear();
        self.owed = Owed::default();
        (self.ahead, self.prepaid) = (0, 0);
        untold.add(sum);
        untold
    }

    /// Figures of one stream.
    pub fn stats(&self, id: StreamId) -> Option<StreamStats> {
        let s = self.table.get(self.table.find(id.0)?)?;
        Some(StreamStats {
            tx_seq: s.send.sent_number,
            mode: s.mode,
            rx_seq: s.recv.arrived.messages,
            received: s.recv.arrived,
            sent_bytes: s.send.sent,
            inbound_pending: s.recv.held(),
            tx_credit_remaining: s.send.limit.saturating_sub(s.send.charged),
            rx_window: s.recv.window.size,
            backpressure_events: s.send.blocked,
            credit_grants_received: s.send.grants,
            credit_grants_sent: s.recv.grants,
            retransmitted: s.send.retransmitted,
            missed: s.recv.missed,
            queued: s.send.queued,
            delivered: s.send.delivered,
            lost: s.send.dropped,
        })
    }

    /// Names and figures of the streams that hold a place now, in no order.
    pub fn list(&self) -> impl Iterator<Item = (StreamId, StreamStats)> {
        self.table.iter().filter_map(|s| Some((s.name(), self.stats(s.name())?)))
    }

    /// Payload and length bytes sent again, of all streams ever.
    pub fn retransmitted(&self) -> u64 {
        self.resent + self.table.iter().map(|s| s.send.retransmitted).sum::<u64>()
    }

    /// Streams that hold a place now.
    pub fn count(&self) -> usize {
        self.table.len()
    }

    /// The most payload that the peer can make this side hold beyond what is leased from the pool, in
    /// charged bytes: the credit given and not drained, and late fire-and-forget messages. Framing in
    /// chunks adds at most a quarter.
    pub fn ceiling(&self) -> u64 {
        self.window.advertised().saturating_sub(self.leased) + LEASE
    }

    /// Gives memory back while there is no stream.
    pub fn rest(&mut self) {
        if self.table.len() > 0 || self.has_output() {
            return;
        }
        if self.control.is_empty() && self.active.is_empty() && self.waiting.is_empty() {
            (self.control, self.active, self.waiting) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
            self.table = Table::default();
        }
        if self.events.is_empty() {
            self.events = VecDeque::new();
        }
        if self.spares.is_empty() {
            self.spares = Vec::new();
        }
        self.seen.shrink();
    }

    /// Reads a word of every part, to have it fetched.
    pub fn warm(&self) -> u64 {
        let lists =
            [self.control.len(), self.active.len(), self.waiting.len(), self.events.len(), self.spares.len()];
        let lists = lists.into_iter().fold(0, usize::wrapping_add) as u64;
        let parts = [
            self.credit.used,
            self.window.received,
            self.prepaid,
            self.packets,
            self.table.len() as u64,
            self.resent,
            u64::from(self.owed.data),
            self.leased,
        ];
        parts.into_iter().fold(lists, u64::wrapping_add)
    }

    /// Bytes on the heap now, but for messages.
    pub fn footprint(&self) -> u64 {
        let lists = self.control.capacity() + self.active.capacity() + self.waiting.capacity();
        let events = self.events.capacity() * size_of::<Event>();
        (lists * size_of::<u32>() + events) as u64 + self.table.footprint() + self.seen.footprint()
    }

    /// Where everything went that [`Self::send`] accepted.
    pub const fn ledger(&self) -> Ledger {
        self.ledger
    }

    /// What must hold after every call; for tests. The error names what does not.
    pub fn invariants(&self) -> Result<(), &'static str> {
        let check = |ok: bool, what| if ok { Ok(()) } else { Err(what) };
        check(self.ledger.balances(), "ledger")?;
        let mut queued = Tally::default();
        let (mut held, mut ahead, mut prepaid) = (0, 0, 0);
        for s in self.table.iter() {
            queued.add(s.send.queued);
            held += s.recv.held();
            ahead += s.recv.ahead;
            prepaid += s.recv.prepaid;
            check(!s.in_active || s.send.sendable(), "an active stream has nothing to send")?;
            check(s.in_active || !s.send.sendable(), "a stream with data is not active")?;
            check((s.owed != 0) == s.in_control, "the list of owed frames")?;
            check(s.send.charged <= s.send.limit, "stream credit")?;
        }
        check(queued == self.ledger.queued, "queued")?;
        check(held == self.window.received - self.window.drained, "held")?;
        check(ahead == self.ahead, "ahead")?;
        check(prepaid == self.prepaid && prepaid <= LEASE, "prepaid")?;
        check(self.credit.used <= self.credit.limit, "session credit")?;
        let advertised = self.window.advertised();
        check(advertised <= self.window.base() + self.leased, "advertised without a lease")?;
        Ok(())
    }
}

/// Raises what is leased to at least `to`, in whole steps.
pub(super) fn lease(leased: &mut u64, pool: &mut Pool, to: u64) -> bool {
    let more = to.div_ceil(LEASE) * LEASE;
    let Some(step) = more.checked_sub(*leased) else { return true };
    if step > 0 && !pool.lease(step) {
        return false;
    }
    *leased += step;
    true
}
