//! The sender's side: what was sent, what became of it, and when to act.

use alloc::collections::VecDeque;
use thiserror::Error;

use super::ack::{AckView, EcnCounts};
use super::path::{EcnState, PathRecovery, Tally};
use crate::time::{Instant, Reason, earlier};

/// Packets remembered at most; [`Recovery::is_full`] says when to stop sending data.
pub const MAX_TRACKED: usize = 1 << 17;
/// Packets that elicit no acknowledgement and are remembered at most. More are not tracked.
pub const MAX_ACK_ONLY: usize = 1024;
/// After this many packets in a row that elicit nothing, one should carry a ping, so that the peer
/// tells which of them arrived.
pub const PING_AFTER: u32 = 64;

/// Packets declared lost that are remembered, to notice reordering.
const MAX_LOST_NOTES: usize = 128;
/// Packets that a probe timeout lets past the window (RFC 9002 section 6.2.4).
const PROBES: u8 = 2;

/// A sent packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent<T> {
    /// Its number, from [`Recovery::next_number`].
    pub number: u64,
    /// When it left.
    pub at: Instant,
    /// The path that it left on.
    pub path: u32,
    /// Its size in bytes.
    pub bytes: u16,
    /// The peer must acknowledge it.
    pub ack_eliciting: bool,
    /// It counts against the congestion window. Every ack-eliciting packet does.
    pub in_flight: bool,
    /// It left with ECT(0).
    pub ect0: bool,
    /// It probes a size: its loss says nothing about congestion.
    pub probe_size: bool,
    /// What it carried.
    pub record: T,
}

/// Why a packet counts as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Enough later packets of its path were acknowledged.
    Packets,
    /// A later packet was acknowledged and it is too old.
    Time,
    /// Its path is gone.
    PathGone,
    /// The association starts afresh.
    Drained,
}

/// What became of a packet. Each tracked packet gets exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrived.
    Acked,
    /// It counts as lost.
    Lost(Loss),
}

/// The peer acknowledged a packet that was never sent: a breach of protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("packet {0} was acknowledged but never sent")]
pub struct AckedUnsent(pub u64);

/// What an acknowledgement brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AckSummary {
    /// Packets acknowledged for the first time.
    pub packets: u64,
    /// Bytes of those that were in flight.
    pub bytes: u64,
    /// Whether one of them was ack-eliciting.
    pub eliciting: bool,
    /// Packets declared lost.
    pub lost: u64,
    /// Packets that had been declared lost and arrived after all.
    pub spurious: u64,
    /// New CE marks reported.
    pub ce: u64,
    /// The path that gave an RTT sample.
    pub sampled: Option<u32>,
}

/// What a timeout asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Timeout {
    /// Nothing was due.
    Nothing,
    /// Packets were declared lost; the sink has them.
    Lost,
    /// Send one or two ack-eliciting packets on `path`, new or old data or a ping; the window does not
    /// hold them back.
    Probe {
        /// The path.
        path: u32,
        /// Probe timeouts in a row, this one included.
        count: u32,
    },
}

#[derive(Debug)]
struct Entry<T> {
    number: u64,
    sequence: u64,
    /// `None` once its fate is known.
    sent: Option<Sent<T>>,
}

/// A packet that was declared lost, kept a while to see whether it arrives after all.
#[derive(Clone, Copy, Debug)]
struct LostNote {
    number: u64,
    sequence: u64,
    path: u32,
    at: Instant,
}

/// The packets of one association that are neither acknowledged nor lost.
#[derive(Debug)]
pub struct Recovery<T> {
    next: u64,
    /// In order of number. Settled ones stay as holes until they are at the front or too many.
    entries: VecDeque<Entry<T>>,
    live: usize,
    ack_only: usize,
    /// Packets since the last ack-eliciting one.
    silent: u32,
    /// Oldest first, at most [`MAX_LOST_NOTES`].
    lost: VecDeque<LostNote>,
    ecn: EcnCounts,
    largest_acked: Option<u64>,
}

impl<T> Default for Recovery<T> {
    fn default() -> Self {
        Self::new()
    }
}

fn find(paths: &mut [PathRecovery], id: u32) -> Option<&mut PathRecovery> {
    paths.iter_mut().find(|p| p.id == id)
}

impl<T> Recovery<T> {
    /// Nothing sent; the first number is 0.
    pub const fn new() -> Self {
        Self {
            next: 0,
            entries: VecDeque::new(),
            live: 0,
            ack_only: 0,
            silent: 0,
            lost: VecDeque::new(),
            ecn: EcnCounts { ect0: 0, ect1: 0, ce: 0 },
            largest_acked: None,
        }
    }

    /// Takes the next packet number. A number that is taken but not sent is never used again.
    pub fn next_number(&mut self) -> u64 {
        let n = self.next;
        self.next = self.next.saturating_add(1);
        n
    }

    /// The number that [`Self::next_number`] would give: one more than the highest in use.
    pub const fn peek_number(&self) -> u64 {
        self.next
    }

    /// A packet left on `path`. Numbers must rise. Gives the packet back if it is not tracked: it
    /// elicits nothing and too many such wait, or its number does not rise.
    pub fn on_sent(&mut self, mut sent: Sent<T>, path: &mut PathRecovery) -> Option<Sent<T>> {
        if self.entries.back().is_some_and(|e| e.number >= sent.number) {
            return Some(sent);
        }
        self.next = self.next.max(sent.number.saturating_add(1));
        sent.path = path.id;
        sent.in_flight |= sent.ack_eliciting;
        if sent.ack_eliciting {
            self.silent = 0;
        } else {
            self.silent = self.silent.saturating_add(1);
            if !sent.in_flight && self.ack_only >= MAX_ACK_ONLY {
                return Some(sent);
            }
        }
        let sequence = path.next_sequence;
        path.next_sequence += 1;
        let bytes = u64::from(sent.bytes);
        if sent.in_flight {
            path.in_flight += bytes;
            path.congestion.on_sent(sent.at, sequence, bytes, path.in_flight);
            path.pacer.on_sent(bytes);
            path.note_sent();
        } else {
            self.ack_only += 1;
        }
        if sent.ack_eliciting {
            path.eliciting += 1;
            path.probes = path.probes.saturating_sub(1);
            path.probe_from = path.probe_from.max(sent.at);
        }
        self.live += 1;
        self.entries.push_back(Entry { number: sent.number, sequence, sent: Some(sent) });
        None
    }

    /// Processes an acknowledgement: tells `sink` the fate of every packet that it settles, and
    /// updates RTT, congestion, ECN and timers of the paths. Packets whose path is not in `paths`
    /// are settled too.
    ///
    /// # Errors
    ///
    /// [`AckedUnsent`]: nothing changed; close the association.
    pub fn on_ack(
        &mut self,
        now: Instant,
        ack: &AckView<'_>,
        paths: &mut [PathRecovery],
        sink: &mut dyn FnMut(Fate, Sent<T>),
    ) -> Result<AckSummary, AckedUnsent> {
        if ack.largest() >= self.next {
            return Err(AckedUnsent(ack.largest()));
        }
        begin(paths);
        let mut summary = AckSummary::default();
        let mut largest: Option<Settled> = None;
        let mut eliciting_paths = false;
        let mut marked = 0u64;
        for range in ack.ranges() {
            self.note_late(now, *range.start(), *range.end(), paths, &mut summary);
            let from = self.entries.partition_point(|e| e.number < *range.start());
            for entry in self.entries.range_mut(from..) {
                if entry.number > *range.end() {
                    break;
                }
                let Some(sent) = entry.sent.take() else { continue };
                self.live -= 1;
                self.ack_only -= usize::from(!sent.in_flight);
                summary.packets += 1;
                summary.eliciting |= sent.ack_eliciting;
                eliciting_paths |= sent.ack_eliciting;
                marked += u64::from(sent.ect0);
                if sent.number == ack.largest() {
                    largest = Some(Settled { path: sent.path, at: sent.at });
                }
                if let Some(path) = find(paths, sent.path) {
                    let number = path.largest_acked.map_or(0, |(_, n)| n);
                    if path.largest_acked.is_none() || sent.number > number {
                        path.largest_acked = Some((entry.sequence, sent.number));
                    }
                    path.take_off(&sent);
                    path.tally.acked += 1;
                    path.tally.acked_eliciting |= sent.ack_eliciting;
                    if sent.in_flight {
                        path.on_acked(now, entry.sequence, &sent);
                    }
                }
                if sent.in_flight {
                    summary.bytes += u64::from(sent.bytes);
                }
                sink(Fate::Acked, sent);
            }
        }
        self.largest_acked = self.largest_acked.max(Some(ack.largest()));
        if let Some(settled) = largest.filter(|_| eliciting_paths)
            && let Some(path) = find(paths, settled.path)
        {
            path.rtt.update(now.since(settled.at), ack.delay());
            path.first_sample_at.get_or_insert(now);
            path.tally.sampled = true;
            summary.sampled = Some(path.id);
        }
        if summary.packets > 0 {
            self.judge_ecn(ack, marked, largest.map(|l| l.path), paths, &mut summary);
            summary.lost = self.detect(now, paths, sink);
        }
        for path in &mut *paths {
            path.finish(now);
        }
        self.tidy();
        Ok(summary)
    }

    /// ECN counts cover the association; new marks are put down to the path of the largest packet.
    /// Validation after RFC 9000 section 13.4.2.1.
    fn judge_ecn(
        &mut self,
        ack: &AckView<'_>,
        marked: u64,
        path: Option<u32>,
        paths: &mut [PathRecovery],
        summary: &mut AckSummary,
    ) {
        // Only frames that move the largest number forward: older ones may carry older counts.
        let Some(path) = path.and_then(|id| find(paths, id)) else { return };
        if self.largest_acked.is_some_and(|n| n > ack.largest()) {
            return;
        }
        let Some(counts) = ack.ecn() else {
            if marked > 0 {
                path.ecn = EcnState::Failed;
            }
            return;
        };
        let grown = (
            counts.ect0.checked_sub(self.ecn.ect0),
            counts.ect1.checked_sub(self.ecn.ect1),
            counts.ce.checked_sub(self.ecn.ce),
        );
        let (Some(ect0), Some(ect1), Some(ce)) = grown else {
            path.ecn = EcnState::Failed;
            return;
        };
        self.ecn = counts;
        // We never send ECT(1): a rise means that something rewrites marks.
        if ect0.saturating_add(ce) < marked || ect1 > 0 {
            path.ecn = EcnState::Failed;
        } else if path.ecn == EcnState::Testing && marked > 0 {
            path.ecn = EcnState::Capable;
        }
        if ce > 0 && path.ecn == EcnState::Capable {
            path.tally.ce = true;
            summary.ce = ce;
        }
    }

    /// Counts packets in `low..=high` that had been declared lost, and widens the thresholds of
    /// their path. The window is not restored: RFC 9438 section 4.9 allows it, we do not.
    fn note_late(
        &mut self,
        now: Instant,
        low: u64,
        high: u64,
        paths: &mut [PathRecovery],
        summary: &mut AckSummary,
    ) {
        if self.lost.front().is_none_or(|n| n.number > high) {
            return;
        }
        self.lost.retain(|note| {
            if note.number < low || note.number > high {
                return true;
            }
            summary.spurious += 1;
            if let Some(path) = find(paths, note.path) {
                let distance = path.largest_acked.map_or(0, |(s, _)| s.saturating_sub(note.sequence));
                path.note_spurious(distance, now.since(note.at));
            }
            false
        });
    }

    /// RFC 9002 section 6.1: declares packets lost and sets the loss timers.
    fn detect(
        &mut self,
        now: Instant,
        paths: &mut [PathRecovery],
        sink: &mut dyn FnMut(Fate, Sent<T>),
    ) -> u64 {
        for path in &mut *paths {
            path.loss_at = None;
            path.tally.run = None;
        }
        let Some(end) = self.largest_acked else { return 0 };
        let mut count = 0;
        for entry in &mut self.entries {
            if entry.number > end {
                break;
            }
            let Some(sent) = &entry.sent else { continue };
            let why = match find(paths, sent.path) {
                None => Loss::PathGone,
                Some(path) => {
                    let Some((acked, _)) = path.largest_acked.filter(|(s, _)| *s > entry.sequence) else {
                        continue;
                    };
                    let lost_at = sent.at + path.loss_delay();
                    if acked - entry.sequence >= path.packet_threshold {
                        Loss::Packets
                    } else if lost_at <= now {
                        Loss::Time
                    } else {
                        path.loss_at = Some(path.loss_at.map_or(lost_at, |at| at.min(lost_at)));
                        continue;
                    }
                }
            };
            let Some(sent) = entry.sent.take() else { continue };
            self.live -= 1;
            self.ack_only -= usize::from(!sent.in_flight);
            count += 1;
            if let Some(path) = find(paths, sent.path) {
                if !planted!(InFlightLeak) {
                    path.take_off(&sent);
                }
                path.on_lost(entry.sequence, &sent);
                if self.lost.len() >= MAX_LOST_NOTES {
                    self.lost.pop_front();
                }
                let (number, sequence, at) = (entry.number, entry.sequence, sent.at);
                // Almost always the newest; kept in order of number for a cheap first look.
                let place = self.lost.partition_point(|n| n.number < number);
                self.lost.insert(place, LostNote { number, sequence, path: sent.path, at });
            }
            sink(Fate::Lost(why), sent);
        }
        count
    }

    /// Acts on what is due. Call again while [`Self::poll_timeout`] names a time that has come.
    pub fn handle_timeout(
        &mut self,
        now: Instant,
        paths: &mut [PathRecovery],
        sink: &mut dyn FnMut(Fate, Sent<T>),
    ) -> Timeout {
        if paths.iter().any(|p| p.loss_at.is_some_and(|at| at <= now)) {
            begin(paths);
            let lost = self.detect(now, paths, sink);
            for path in &mut *paths {
                path.finish(now);
            }
            self.tidy();
            if lost > 0 {
                return Timeout::Lost;
            }
        }
        for path in paths {
            if path.loss_at.is_none() && path.probe_at().is_some_and(|at| at <= now) {
                if planted!(ProbeStuck) && path.pto_count > 0 {
                    continue;
                }
                path.pto_count = path.pto_count.saturating_add(1);
                path.probes = PROBES;
                // The next one counts from here, even if no probe can leave.
                path.probe_from = path.probe_from.max(now);
                return Timeout::Probe { path: path.id, count: path.pto_count };
            }
        }
        Timeout::Nothing
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self, paths: &[PathRecovery]) -> Option<(Instant, Reason)> {
        paths.iter().fold(None, |first, p| {
            let loss = p.loss_at.map(|at| (at, Reason::Loss));
            // A loss timer takes the place of the probe timer (RFC 9002 section 6.2.1).
            earlier(first, loss.or_else(|| p.probe_at().map(|at| (at, Reason::Probe))))
        })
    }

    /// The path `id` is no more: everything on it is lost. Does not touch any [`PathRecovery`].
    pub fn path_gone(&mut self, id: u32, sink: &mut dyn FnMut(Fate, Sent<T>)) {
        for entry in &mut self.entries {
            let Some(sent) = entry.sent.take_if(|s| s.path == id) else { continue };
            self.live -= 1;
            self.ack_only -= usize::from(!sent.in_flight);
            sink(Fate::Lost(Loss::PathGone), sent);
        }
        self.tidy();
    }

    /// Packets of path `from` count as of path `to`: only its port changed.
    pub fn rename_path(&mut self, from: u32, to: u32) {
        for sent in self.entries.iter_mut().filter_map(|e| e.sent.as_mut()) {
            if sent.path == from {
                sent.path = to;
            }
        }
    }

    /// Everything is lost: the association starts afresh. Numbers go on.
    pub fn drain_all(&mut self, paths: &mut [PathRecovery], sink: &mut dyn FnMut(Fate, Sent<T>)) {
        for mut entry in self.entries.drain(..) {
            let Some(sent) = entry.sent.take() else { continue };
            if let Some(path) = find(paths, sent.path) {
                path.take_off(&sent);
                path.loss_at = None;
                path.pto_count = 0;
            }
            sink(Fate::Lost(Loss::Drained), sent);
        }
        self.lost.clear();
        self.live = 0;
        self.ack_only = 0;
    }

    /// Gives memory back while nothing is in flight. Packets that elicit no acknowledgement are forgotten:
    /// nobody is told of their fate.
    pub fn rest(&mut self) {
        if !self.has_in_flight() {
            self.entries = VecDeque::new();
            self.lost = VecDeque::new();
            (self.live, self.ack_only) = (0, 0);
        }
    }

    /// Reads a word of every part, to have it fetched: the packets at both ends among them.
    pub fn warm(&self) -> u64 {
        let ends = [self.entries.front(), self.entries.back()];
        let numbers = ends.into_iter().flatten().map(|e| e.number);
        numbers.chain([self.next, self.ecn.ect0]).fold(0, u64::wrapping_add)
    }

    /// What the packets whose fate is open carried, oldest first.
    pub fn records(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().filter_map(|e| e.sent.as_ref()).map(|sent| &sent.record)
    }

    /// Bytes on the heap now, without what records have there.
    pub fn footprint(&self) -> u64 {
        let entries = self.entries.capacity() * size_of::<Entry<T>>();
        (entries + self.lost.capacity() * size_of::<LostNote>()) as u64
    }

    /// Drops settled packets from the front, and all of them when they outnumber the open ones, so
    /// that one stuck packet does not make the others costly. Amortised constant.
    fn tidy(&mut self) {
        while self.entries.front().is_some_and(|e| e.sent.is_none()) {
            self.entries.pop_front();
        }
        if self.entries.len() > 2 * self.live + 64 {
            self.entries.retain(|e| e.sent.is_some());
        }
    }

    /// Packets whose fate is open.
    pub const fn unacked(&self) -> usize {
        self.live
    }

    /// Whether any packet that counts against a window is open.
    pub const fn has_in_flight(&self) -> bool {
        self.live > self.ack_only
    }

    /// Whether only acknowledgements and probes should still be sent.
    pub const fn is_full(&self) -> bool {
        self.live >= MAX_TRACKED
    }

    /// Whether the next packet should carry a ping, since many in a row elicited nothing.
    pub const fn wants_ping(&self) -> bool {
        self.silent >= PING_AFTER
    }
}

#[derive(Clone, Copy)]
struct Settled {
    path: u32,
    at: Instant,
}

fn begin(paths: &mut [PathRecovery]) {
    for path in paths {
        path.tally = Tally { prior_in_flight: path.in_flight, ..Tally::default() };
    }
}
