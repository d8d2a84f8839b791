//! From queued output to sealed datagrams, several of one size at a time.

use super::aead::TAG;
use super::epoch::{HEADER, LAST_COUNTER, OVERHEAD};
use super::frame::{self, Close};
use super::{DownReason, Peer, Record, Records, Session, State};
use crate::codec::{BufferTooSmall, Wire, Writer};
use crate::path::{Ecn, Path, PathFrame, PathId};
use crate::recovery::{Blocked, PathRecovery, Sent};
use crate::stream::SentFrame;
use crate::time::Instant;

/// Most datagrams in one batch; what kernels take in one GSO call.
const MAX_BATCH: usize = 64;
/// Largest share of a packet that may be padded so that a batch can go on: one eighth.
const PAD_SHARE: usize = 8;

/// What to send, and how: datagrams of one size for one path, in the buffer of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Where to.
    pub path: Path,
    /// ECN bits.
    pub ecn: Ecn,
    /// Total bytes.
    pub len: usize,
    /// Size of each datagram but the last, if there are several.
    pub segment: Option<usize>,
    /// Whose packets they are; none of a handshake.
    pub peer: Option<Peer>,
}

/// Frames are in the buffer, nothing is sealed yet.
struct Filled {
    frames: usize,
    ack_eliciting: bool,
    records: Records,
}

impl Session {
    /// Writes the next datagrams into `buf`. `None`: nothing can leave now.
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut [u8]) -> Option<Batch> {
        match self.state {
            State::Gone(_) => return None,
            State::Closing { reason, until, .. } => return self.transmit_close(now, reason, until, buf),
            State::Up | State::Dead(_) => {}
        }
        if !self.epochs.may_send(now) || self.recovery.peek_number() >= LAST_COUNTER {
            return None;
        }
        if let Some(batch) = self.transmit_path_frame(now, buf) {
            return Some(batch);
        }
        if let Some(batch) = self.transmit_size_probe(now, buf) {
            return Some(batch);
        }
        self.transmit_data(now, buf)
    }

    /// CLOSE, alone in its packet.
    fn transmit_close(
        &mut self,
        now: Instant,
        reason: DownReason,
        until: Instant,
        buf: &mut [u8],
    ) -> Option<Batch> {
        if !core::mem::take(&mut self.close_due) || !self.epochs.may_send(now) {
            return None;
        }
        let (code, violation) = match reason {
            DownReason::ClosedHere(code) => (code, 0),
            DownReason::Violation(v) => (0, v as u8),
            _ => (0, 0),
        };
        let path = self.paths.active();
        let mut w = Writer::new(buf.get_mut(HEADER..)?);
        w.u8(frame::CLOSE).ok()?;
        Close { code, violation }.encode(&mut w).ok()?;
        let filled = Filled { frames: w.used(), ack_eliciting: false, records: Records::new() };
        let len = self.seal(now, path, buf, filled, None, Ecn::NotEct)?;
        if until <= now {
            self.state = State::Gone(reason);
        }
        Some(Batch {
            path: self.paths.get(path)?.path,
            ecn: Ecn::NotEct,
            len,
            segment: None,
            peer: Some(self.handle),
        })
    }

    /// A challenge or response, on its own path, padded to the base size where the budget allows.
    fn transmit_path_frame(&mut self, now: Instant, buf: &mut [u8]) -> Option<Batch> {
        // What the budget of an unvalidated path does not allow is dropped; its timer asks again.
        while let Some((path, what)) = self.paths.poll_frame() {
            let mut w = Writer::new(buf.get_mut(HEADER..)?);
            let mut records = Records::new();
            self.write_token(&mut w).ok()?;
            match what {
                PathFrame::Challenge(data) => {
                    w.u8(frame::PATH_CHALLENGE).ok()?;
                    w.put(&data).ok()?;
                }
                PathFrame::Response(data) => {
                    w.u8(frame::PATH_RESPONSE).ok()?;
                    w.put(&data).ok()?;
                }
                PathFrame::Confirm(data) => {
                    w.u8(frame::PATH_CONFIRM).ok()?;
                    w.put(&data).ok()?;
                }
                PathFrame::Migrate(number) => {
                    w.u8(frame::MIGRATE).ok()?;
                    w.varint(number).ok()?;
                    records = Records::of(Record::Migrate(number));
                }
            }
            let mut frames = w.used();
            let base = usize::from(self.config.paths.base_size).min(buf.len());
            if self.paths.may_send(path, base) {
                buf.get_mut(HEADER + frames..base - TAG)?.fill(frame::PADDING);
                frames = base - OVERHEAD;
            } else if !self.paths.may_send(path, frames + OVERHEAD) {
                continue;
            }
            self.ensure_path(now, path);
            let filled = Filled { frames, ack_eliciting: true, records };
            let len = self.seal(now, path, buf, filled, None, Ecn::NotEct)?;
            return Some(Batch {
                path: self.paths.get(path)?.path,
                ecn: Ecn::NotEct,
                len,
                segment: None,
                peer: Some(self.handle),
            });
        }
        None
    }

    /// A PING padded to a size that is to be tried. Its loss says nothing about congestion.
    fn transmit_size_probe(&mut self, now: Instant, buf: &mut [u8]) -> Option<Batch> {
        if !self.in_use() || !self.epochs.confirmed() {
            return None;
        }
        // Rarely is one due; the pacer is asked only then.
        if !self.paths.wants_probe(now) {
            return None;
        }
        let active = self.paths.active();
        let room = self.on_path.iter_mut().find(|p| p.id == active.0)?.may_send(now, 1500).is_ok();
        if !room {
            return None;
        }
        let (path, size) = self.paths.poll_probe(now)?;
        let len = usize::from(size);
        if buf.len() < len {
            return None;
        }
        buf[HEADER] = frame::PING;
        buf[HEADER + 1..len - TAG].fill(frame::PADDING);
        let records = Records::of(Record::SizeProbe(size));
        let filled = Filled { frames: len - OVERHEAD, ack_eliciting: true, records };
        let len = self.seal(now, path, buf, filled, Some(size), Ecn::NotEct)?;
        Some(Batch {
            path: self.paths.get(path)?.path,
            ecn: Ecn::NotEct,
            len,
            segment: None,
            peer: Some(self.handle),
        })
    }

    fn transmit_data(&mut self, now: Instant, buf: &mut [u8]) -> Option<Batch> {
        if !self.wants_elicit() && !self.acks.ack_due(now) {
            return None;
        }
        let path = self.paths.active();
        // A probe must get through where large datagrams no longer do (RFC 8899 section 4.3).
        let probing = self.on_active().is_some_and(|p| p.probes > 0);
        let on = self.paths.get(path)?;
        let size = usize::from(if probing { on.base_size().min(on.size) } else { on.size });
        let mark = self.config.paths.ecn && self.on_active().is_some_and(PathRecovery::mark_ect0);
        let ecn = if mark { Ecn::Ect0 } else { Ecn::NotEct };
        let mut total = 0;
        let mut count = 0;
        while count < MAX_BATCH && buf.len() - total >= size {
            let room = &mut buf[total..total + size];
            // Window and pacer are asked only for what wants to leave.
            let allowed = self.wants_elicit() && self.allowance(now, path, size);
            let Some(mut filled) = self.fill(now, room, allowed) else { break };
            let mut last = true;
            let used = filled.frames + OVERHEAD;
            // A batch goes on only behind packets of full size.
            if used < size && size - used <= size / PAD_SHARE && self.streams.has_output() {
                room[HEADER + filled.frames..size - TAG].fill(frame::PADDING);
                filled.frames = size - OVERHEAD;
            }
            if filled.frames + OVERHEAD == size {
                last = false;
            }
            let Some(len) = self.seal(now, path, &mut buf[total..total + size], filled, None, ecn) else {
                break;
            };
            total += len;
            count += 1;
            if last {
                break;
            }
        }
        let segment = (count > 1).then_some(size);
        if total == 0 {
            return None;
        }
        Some(Batch { path: self.paths.get(path)?.path, ecn, len: total, segment, peer: Some(self.handle) })
    }

    /// Whether there is a PING to send, or something of the streams.
    fn wants_elicit(&self) -> bool {
        self.wants_ping() || self.streams.has_output()
    }

    fn wants_ping(&self) -> bool {
        self.ping || self.recovery.wants_ping() || self.on_active().is_some_and(|p| p.probes > 0)
    }

    /// Whether a packet that counts as in flight may leave.
    fn allowance(&mut self, now: Instant, path: PathId, size: usize) -> bool {
        if !self.paths.may_send(path, size) || self.recovery.is_full() {
            return false;
        }
        let Some(on) = self.on_path.iter_mut().find(|p| p.id == path.0) else { return false };
        match on.may_send(now, size as u64) {
            Ok(()) => true,
            Err(Blocked::Pacing(at)) => {
                self.paced_until = Some(at);
                false
            }
            Err(Blocked::Window) => false,
        }
    }

    /// Puts frames into a packet. Without allowance, which asks for something that wants to leave, only
    /// an acknowledgement may go, and only if due.
    fn fill(&mut self, now: Instant, packet: &mut [u8], allowed: bool) -> Option<Filled> {
        let size = packet.len() as u64;
        let end = packet.len() - TAG;
        let mut w = Writer::new(&mut packet[HEADER..end]);
        let mut records = Records::new();
        let ping = self.wants_ping();
        if !allowed && !self.acks.ack_due(now) {
            return None;
        }
        self.write_token(&mut w).ok()?;
        if let Some(largest) = self.acks.write(now, &mut w) {
            records.push(Record::Ack(largest), &mut self.spare_records);
        }
        let before = w.used();
        if allowed {
            if core::mem::take(&mut self.grease) {
                self.write_grease(&mut w).ok()?;
            }
            let active = self.paths.active();
            let asks = self.on_path.iter_mut().find(|p| p.id == active.0).is_some_and(|p| p.asks(size));
            let ahead = w.used();
            if asks {
                w.u8(frame::PING).ok()?;
            }
            let asked = w.used();
            let spare = &mut self.spare_records;
            self.streams.write(&mut w, &mut |sent| {
                // A frame without a place is taken back by the streams: it must not be recorded.
                records.push(Record::Stream(sent), spare)
            });
            // A request alone is worth no packet.
            if w.used() == asked {
                w.rewind(ahead);
            }
            if w.used() == before && ping {
                w.u8(frame::PING).ok()?;
            }
            self.ping = false;
        }
        let data = |r: &Record| matches!(r, Record::Stream(SentFrame::Data { .. } | SentFrame::Once { .. }));
        self.acks.on_sent(now, before > 0, records.iter().any(data));
        let frames = w.used();
        (frames > 0).then_some(Filled { frames, ack_eliciting: frames > before, records })
    }

    /// Until the peer has the keys, every packet first says which message 2 arrived.
    fn write_token(&self, w: &mut Writer<'_>) -> Result<(), BufferTooSmall> {
        let Some(token) = self.epochs.token() else { return Ok(()) };
        w.u8(frame::PATH_RESPONSE)?;
        w.put(&token)
    }

    /// An even, hence ignorable, frame of a type that nobody defined (RFC 8701 explains why).
    fn write_grease(&mut self, w: &mut Writer<'_>) -> Result<(), BufferTooSmall> {
        let body: [u8; 8] = self.entropy.array();
        w.varint(frame::EXTENSION + 2 * self.entropy.below(1 << 20))?;
        w.bytes(&body[..usize::from(body[0] & 7)])
    }

    /// Seals frames of any content as the next packet, and tells nobody. For tests that play a hostile
    /// peer with real keys.
    pub(crate) fn forge_packet(&mut self, frames: &[u8], out: &mut [u8]) -> Option<usize> {
        let len = frames.len() + OVERHEAD;
        let packet = out.get_mut(..len)?;
        packet.get_mut(HEADER..len - TAG)?.copy_from_slice(frames);
        let number = self.recovery.next_number();
        self.epochs.seal(number, packet).then_some(len)
    }

    /// Seals a packet and tells everybody who must know that it leaves.
    fn seal(
        &mut self,
        now: Instant,
        path: PathId,
        buf: &mut [u8],
        filled: Filled,
        size_probe: Option<u16>,
        ecn: Ecn,
    ) -> Option<usize> {
        let len = filled.frames + OVERHEAD;
        let number = self.recovery.next_number();
        let reused = planted!(NonceReuse) && number % 64 == 63;
        if !self.epochs.seal(number - u64::from(reused), buf.get_mut(..len)?) {
            return None;
        }
        let sent = Sent {
            number,
            at: now,
            path: path.0,
            bytes: len as u16,
            ack_eliciting: filled.ack_eliciting,
            in_flight: filled.ack_eliciting,
            ect0: ecn == Ecn::Ect0,
            probe_size: size_probe.is_some(),
            record: filled.records,
        };
        if let Some(on) = self.on_path.iter_mut().find(|p| p.id == path.0) {
            self.recovery.on_sent(sent, on);
        }
        self.paths.on_sent(path, len);
        self.counts.packets_sent += 1;
        self.counts.bytes_sent += len as u64;
        Some(len)
    }
}
