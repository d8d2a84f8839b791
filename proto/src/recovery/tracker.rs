//! The receiver's side: which packets arrived, and when to say so.

use super::ack::{EcnCounts, MAX_RANGES_SENT, write_ack};
use crate::bounded::{Inserted, RangeSet};
use crate::codec::Writer;
use crate::congestion::{GRANULARITY, MAX_ACK_DELAY};
use crate::path::Ecn;
use crate::time::{Duration, Instant, Reason};

/// Ack-eliciting packets after which an acknowledgement goes at once.
pub const ACK_EVERY: u32 = 10;

/// After this many acknowledgements in a row that found nothing to ride on, none is expected.
const LONELY: u8 = 2;

/// What [`AckTracker::insert`] made of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// It is new.
    New,
    /// It came before.
    Duplicate,
    /// It is older than everything that can still be acknowledged; drop it, the peer sends it again.
    TooOld,
}

/// Remembers the packets of the peer and decides when an acknowledgement leaves.
#[derive(Debug)]
pub struct AckTracker {
    ranges: RangeSet,
    /// Numbers below were dropped to keep the limit of ranges.
    floor: u64,
    /// The highest number and when it came.
    largest: Option<(u64, Instant)>,
    eliciting: u32,
    deadline: Option<Instant>,
    at_once: bool,
    /// A gap was seen; say so again when this number arrives, so that the packet threshold is met.
    again_at: Option<u64>,
    /// When the last ack-eliciting packet came.
    last_at: Option<Instant>,
    /// Acknowledgements in a row that left without data, up to [`LONELY`].
    lonely: u8,
    /// When the last of them left.
    alone_at: Option<Instant>,
    ecn: EcnCounts,
}

impl Default for AckTracker {
    fn default() -> Self {
        Self::new()
    }
}

impl AckTracker {
    /// Nothing received.
    pub const fn new() -> Self {
        Self {
            ranges: RangeSet::new(MAX_RANGES_SENT),
            floor: 0,
            largest: None,
            eliciting: 0,
            deadline: None,
            at_once: false,
            again_at: None,
            last_at: None,
            lonely: 0,
            alone_at: None,
            ecn: EcnCounts { ect0: 0, ect1: 0, ce: 0 },
        }
    }

    /// A packet was opened. Call once per packet that authenticated, after its frames are known.
    #[must_use]
    pub fn insert(&mut self, number: u64, now: Instant, ack_eliciting: bool, ecn: Ecn) -> Noted {
        if number < self.floor {
            return Noted::TooOld;
        }
        let Some(end) = number.checked_add(1) else { return Noted::TooOld };
        match self.ranges.insert(number..end) {
            Inserted::New | Inserted::Part => {}
            Inserted::Known => return Noted::Duplicate,
            Inserted::Full => {
                // The lowest range goes; what lies below it can no longer be told from it.
                match self.ranges.first() {
                    Some(first) if first.start < number => {
                        self.floor = first.end;
                        let _ = self.ranges.pop_first();
                        let _ = self.ranges.insert(number..end);
                    }
                    _ => return Noted::TooOld,
                }
            }
        }
        match ecn {
            Ecn::NotEct => {}
            Ecn::Ect0 => self.ecn.ect0 += 1,
            Ecn::Ect1 => self.ecn.ect1 += 1,
            Ecn::Ce => self.ecn.ce += 1,
        }
        let before = self.largest;
        if before.is_none_or(|(largest, _)| number > largest) {
            self.largest = Some((number, now));
        }
        if ack_eliciting {
            self.note_eliciting(number, before.map(|(n, _)| n), now, ecn);
        }
        Noted::New
    }

    fn note_eliciting(&mut self, number: u64, before: Option<u64>, now: Instant, ecn: Ecn) {
        self.eliciting = self.eliciting.saturating_add(1);
        // An acknowledgement waits for data to ride on, or for more packets to cover. Where data does
        // not come it waits only for packets that follow closely: the delay would add to every round
        // trip, and a small window pays for it in throughput.
        let lonely = self.lonely >= LONELY;
        let patience = if lonely { GRANULARITY } else { MAX_ACK_DELAY };
        let apart = self.last_at.is_none_or(|last| now.since(last) >= GRANULARITY);
        self.last_at = Some(now);
        if self.deadline.is_none() {
            self.deadline = Some(now + patience);
        }
        // The first packet of a session may well not be number 0: no gap is known before it.
        let expected = before.map_or(number, |largest| largest.saturating_add(1));
        if number > expected {
            if planted!(AckUnreceived) {
                let _ = self.ranges.insert(number - 1..number);
            }
            self.again_at = Some(expected.saturating_add(super::path::PACKET_THRESHOLD));
        }
        let again = self.again_at.is_some_and(|at| number >= at);
        if again && number == expected {
            self.again_at = None;
        }
        if number != expected || again || (lonely && apart) || ecn == Ecn::Ce || self.eliciting >= ACK_EVERY {
            self.at_once = true;
        }
    }

    /// A frame asks for an acknowledgement now.
    pub fn ask(&mut self) {
        if self.eliciting > 0 {
            self.at_once = true;
        }
    }

    /// Reads a word of every part, to have it fetched.
    pub fn warm(&self) -> u64 {
        self.ranges.iter().next_back().map_or(0, |range| range.end)
    }

    /// Whether an acknowledgement must leave now, alone if need be.
    pub fn ack_due(&self, now: Instant) -> bool {
        self.at_once || self.deadline.is_some_and(|at| at <= now)
    }

    /// Whether an acknowledgement may ride along with other frames.
    pub const fn has_news(&self) -> bool {
        self.eliciting > 0
    }

    /// When an acknowledgement is due; `last_now` (the latest input's time) if it is due already.
    #[must_use]
    pub fn poll_timeout(&self, last_now: Instant) -> Option<(Instant, Reason)> {
        if self.at_once {
            return Some((last_now, Reason::Output));
        }
        self.deadline.map(|at| (at, Reason::Ack))
    }

    /// Appends a frame if an ack-eliciting packet is not yet acknowledged and a frame fits, with as many ranges as
    /// fit. Answers the largest number acknowledged: keep it with the packet, and tell
    /// [`Self::on_ack_of_ack`] when that is acknowledged.
    pub fn write(&mut self, now: Instant, w: &mut Writer<'_>) -> Option<u64> {
        if self.eliciting == 0 {
            return None;
        }
        let (largest, at) = self.largest?;
        let delay = Duration::as_micros(&now.since(at)) as u64;
        let ecn = (self.ecn != EcnCounts::default()).then_some(self.ecn);
        let start = w.used();
        let mut count = self.ranges.len();
        loop {
            let ranges = self.ranges.iter().rev().map(|r| (r.start, r.end.saturating_sub(1)));
            if write_ack(w, delay, ranges, count, ecn).is_ok() {
                break;
            }
            w.rewind(start);
            // Half as many: at most seven tries.
            count /= 2;
            if count == 0 {
                return None;
            }
        }
        self.eliciting = 0;
        if !planted!(AckTimerStays) {
            self.deadline = None;
        }
        self.at_once = false;
        Some(largest)
    }

    /// A packet left; `acked`: with a frame from [`Self::write`], `data`: with data of the application.
    /// Teaches whether acknowledgements find something to ride on.
    pub fn on_sent(&mut self, now: Instant, acked: bool, data: bool) {
        if data {
            // Data that left soon after a lone acknowledgement could have carried it.
            if acked || self.alone_at.is_some_and(|at| now.since(at) <= MAX_ACK_DELAY) {
                self.lonely = 0;
            }
            self.alone_at = None;
        } else if acked {
            self.lonely = self.lonely.saturating_add(1).min(LONELY);
            self.alone_at = Some(now);
        }
    }

    /// The peer has a frame of ours whose largest number was `largest`: it need not be repeated.
    pub fn on_ack_of_ack(&mut self, largest: u64) {
        // The newest range stays, so that a frame always has one.
        if let Some((newest, _)) = self.largest {
            self.ranges.remove_below(largest.saturating_add(1).min(newest));
        }
    }

    /// Gives back the memory that an unruly time took.
    pub fn rest(&mut self) {
        self.ranges.shrink();
    }

    /// Bytes on the heap now.
    pub fn footprint(&self) -> u64 {
        self.ranges.footprint()
    }

    /// The highest number received.
    pub fn largest(&self) -> Option<u64> {
        self.largest.map(|(n, _)| n)
    }

    /// ECN marks received.
    pub const fn ecn(&self) -> EcnCounts {
        self.ecn
    }
}
