//! From a datagram to effects: open, check, act on frames.

use super::frame::{self, Close, Extension};
use super::{DownReason, Noise, Record, Records, Session, Settle, State, Violation};
use crate::bounded::ReplayWindow;
use crate::codec::{Reader, Wire};
use crate::path::{Ecn, Path, PathId};
use crate::recovery::{AckView, Fate, Sent};
use crate::session::aead::TAG;
use crate::session::epoch::HEADER;
use crate::stream::{FrameError, Pool};
use crate::time::Instant;

/// What stands around a data packet.
#[derive(Clone, Copy, Debug)]
pub struct Arrived {
    /// Its receiver index.
    pub index: u32,
    /// Its counter.
    pub counter: u64,
    /// Where it came from.
    pub path: Path,
    /// Its ECN bits.
    pub ecn: Ecn,
}

/// What the frames of a packet ask for beyond their own effects.
#[derive(Default)]
struct Verdict {
    ack_eliciting: bool,
    /// The acknowledgement must not wait.
    asked: bool,
    closed: Option<Close>,
}

/// Why a packet is given up in the middle.
enum Stop {
    Unfitting,
    Violation(Violation),
}

/// The challenge that the frames of a packet answer before all else.
pub(crate) fn leading_response(frames: &[u8]) -> Option<[u8; 8]> {
    let (&kind, rest) = frames.split_first()?;
    rest.first_chunk().copied().filter(|_| kind == frame::PATH_RESPONSE)
}

impl Session {
    /// Opens a packet in place and acts on it. An error is noise: nothing has changed.
    pub fn handle_packet(
        &mut self,
        now: Instant,
        arrived: &Arrived,
        packet: &mut [u8],
        pool: &mut Pool,
    ) -> Result<(), Noise> {
        if !self.replay.check(arrived.counter) {
            return self.handle_copy(now, arrived, packet);
        }
        let grace = self.pto() * 3;
        self.epochs.open(now, arrived.index, arrived.counter, packet, grace).map_err(|_| Noise::Forged)?;
        if let State::Closing { .. } = self.state {
            return self.handle_while_closing(packet);
        }
        let highest = arrived.counter >= self.replay.next();
        let len = packet.len();
        // A packet over a path that there is no room for is not marked as seen: its content comes again.
        let Some(path) = self.paths.on_authenticated(now, arrived.path, len, highest) else {
            return Err(Noise::Path);
        };
        self.ensure_path(now, path);
        self.replay.commit(arrived.counter);
        self.heard(now);
        self.counts.packets_received += 1;
        self.counts.bytes_received += len as u64;
        let mut verdict = Verdict::default();
        let outcome = self.frames(now, path, arrived.counter, &packet[HEADER..len - TAG], &mut verdict, pool);
        self.drain_paths(now);
        match outcome {
            Ok(()) => {
                // Too old to be acknowledged: the peer sends its content again, which then is known.
                let _ = self.acks.insert(arrived.counter, now, verdict.ack_eliciting, arrived.ecn);
                if verdict.asked {
                    self.acks.ask();
                }
                if let Some(close) = verdict.closed {
                    self.closed_by_peer(now, close);
                }
                Ok(())
            }
            Err(Stop::Unfitting) => Err(Noise::Unfitting),
            Err(Stop::Violation(violation)) => {
                self.close(now, DownReason::Violation(violation));
                Ok(())
            }
        }
    }

    /// A counter that was seen. Whoever is faster from another address makes the original a replay; what
    /// that says about paths is kept, its frames have had their effect. Opened only where it may say
    /// something, so that replays stay cheap; a forged one costs what any forged packet costs.
    fn handle_copy(&mut self, now: Instant, arrived: &Arrived, packet: &mut [u8]) -> Result<(), Noise> {
        let known = self.paths.find(&arrived.path);
        let asked = self.asked.iter().find(|(counter, _)| *counter == arrived.counter).copied();
        let recent = arrived.counter.saturating_add(ReplayWindow::SIZE) >= self.replay.next();
        let wanted = self.paths.wants_copy(now, &arrived.path);
        if self.is_closing() || !recent || !(wanted || asked.is_some() && known.is_some()) {
            return Err(Noise::Replayed);
        }
        let grace = self.pto() * 3;
        self.epochs.open(now, arrived.index, arrived.counter, packet, grace).map_err(|_| Noise::Forged)?;
        let path = if wanted { self.paths.on_copy(now, arrived.path, packet.len()) } else { known };
        if let Some(path) = path {
            self.ensure_path(now, path);
            if let Some((counter, data)) = asked {
                self.paths.on_challenge(now, path, data);
                // Nothing better can come than over the path in use.
                if self.paths.in_use(path) {
                    self.asked.retain(|(other, _)| *other != counter);
                }
            }
        }
        self.drain_paths(now);
        Err(Noise::Replayed)
    }

    fn frames(
        &mut self,
        now: Instant,
        path: PathId,
        counter: u64,
        body: &[u8],
        verdict: &mut Verdict,
        pool: &mut Pool,
    ) -> Result<(), Stop> {
        let malformed = |_| Stop::Violation(Violation::Frame);
        let mut r = Reader::new(body);
        while let Some(&kind) = r.rest().first() {
            if u64::from(kind) >= frame::EXTENSION {
                verdict.ack_eliciting = true;
                if Extension::skip(&mut r).map_err(malformed)? % 2 == 1 {
                    return Err(Stop::Violation(Violation::UnknownCritical));
                }
                continue;
            }
            r.u8("frame type").map_err(malformed)?;
            match kind {
                frame::PADDING => continue,
                frame::ACK | frame::ACK_ECN => {
                    let ack = AckView::decode_body(kind == frame::ACK_ECN, &mut r).map_err(malformed)?;
                    self.on_ack(now, &ack)?;
                    continue;
                }
                frame::CLOSE => {
                    verdict.closed = Some(Close::decode(&mut r).map_err(malformed)?);
                    continue;
                }
                frame::PING => verdict.asked = true,
                frame::PATH_CHALLENGE => {
                    let data = r.array("challenge").map_err(malformed)?;
                    self.paths.on_challenge(now, path, data);
                    if !self.paths.in_use(path) {
                        if self.asked.is_full() {
                            self.asked.remove(0);
                        }
                        let _ = self.asked.push((counter, data));
                    }
                }
                frame::PATH_RESPONSE => {
                    let data = r.array("response").map_err(malformed)?;
                    let pto = self.pto();
                    self.paths.on_response(now, path, data, pto);
                }
                frame::PATH_CONFIRM => {
                    let data = r.array("confirmation").map_err(malformed)?;
                    let pto = self.pto();
                    self.paths.on_confirm(now, data, pto);
                }
                frame::MIGRATE => {
                    let number = r.varint("migration number").map_err(malformed)?;
                    self.paths.on_migrate(now, path, number);
                }
                _ => match self.streams.handle_frame(now, kind, &mut r, pool) {
                    Ok(()) => {}
                    Err(FrameError::Drop) => return Err(Stop::Unfitting),
                    Err(FrameError::Violation(v)) => return Err(Stop::Violation(v.into())),
                },
            }
            verdict.ack_eliciting = true;
        }
        Ok(())
    }

    fn on_ack(&mut self, now: Instant, ack: &AckView<'_>) -> Result<(), Stop> {
        let Self { recovery, spare_records: spare, on_path, streams, paths, counts, acks, .. } = self;
        let mut settle = Settle { now, streams, paths, spare, acks: Some(acks) };
        let summary = recovery
            .on_ack(now, ack, on_path, &mut |fate, sent| settle.packet(fate, sent))
            .map_err(|_| Stop::Violation(Violation::Acknowledgement))?;
        counts.packets_lost += summary.lost;
        counts.spurious_losses += summary.spurious;
        counts.ecn_marks += summary.ce;
        Ok(())
    }

    /// While closing, the peer's packets only make us repeat CLOSE, until it says CLOSE too.
    fn handle_while_closing(&mut self, packet: &[u8]) -> Result<(), Noise> {
        let State::Closing { reason, .. } = self.state else { return Ok(()) };
        let body = &packet[HEADER..packet.len() - TAG];
        // Our own CLOSE leaves in a packet of nothing else; so does the peer's.
        if body.first() == Some(&frame::CLOSE) {
            self.state = State::Gone(reason);
        } else {
            self.close_due = true;
        }
        Ok(())
    }

    fn closed_by_peer(&mut self, now: Instant, close: Close) {
        // One CLOSE in reply lets the peer stop repeating its own; then this side is done.
        let reason = DownReason::ClosedByPeer(close.code);
        self.close(now, reason);
        if let State::Closing { next, left, until, .. } = &mut self.state {
            *until = now;
            *next = None;
            *left = 0;
        }
    }
}

impl Settle<'_> {
    /// Acknowledged or lost: the children that care are told.
    pub(super) fn packet(&mut self, fate: Fate, sent: Sent<Records>) {
        let path = PathId(sent.path);
        let size_probe = sent.record.iter().find_map(|r| match r {
            Record::SizeProbe(size) => Some(*size),
            _ => None,
        });
        match (fate, size_probe) {
            (Fate::Acked, Some(size)) => self.paths.on_probe_acked(self.now, path, size),
            (Fate::Acked, None) => self.paths.on_acked(path, sent.bytes),
            (Fate::Lost(_), Some(size)) => self.paths.on_probe_lost(self.now, path, size),
            (Fate::Lost(_), None) => self.paths.on_lost(self.now, path, sent.bytes),
        }
        let acked = matches!(fate, Fate::Acked);
        for record in sent.record.iter() {
            match record {
                Record::Stream(f) if acked => self.streams.on_acked(*f),
                Record::Stream(f) => self.streams.on_lost(*f),
                Record::Ack(largest) if acked => {
                    if let Some(acks) = &mut self.acks {
                        acks.on_ack_of_ack(*largest);
                    }
                }
                Record::Migrate(number) if !acked => self.paths.on_migrate_lost(self.now, *number),
                Record::Ack(_) | Record::Migrate(_) | Record::SizeProbe(_) => {}
            }
        }
        self.spare.put(sent.record);
    }
}
