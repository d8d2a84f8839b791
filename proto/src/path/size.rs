//! How large a datagram one path carries: the search and the black-hole rule of RFC 8899
//! (datagram packetization layer path MTU discovery).
//!
//! No timer runs here. A search begins, and begins again after a rest, only once nearly full
//! packets travel, so an idle association never probes.

use crate::time::{Duration, Instant};

/// The search ends when what is proven and what is refuted lie this close together, in bytes.
pub(super) const GRAIN: u16 = 8;
/// Losses of probes of one size that refute it (RFC 8899 section 5.1.2, MAX_PROBES).
const MAX_PROBES: u8 = 3;
/// Bursts of lost large packets, each ended by a small one that arrived, that prove a black hole.
const BLACK_HOLE_BURSTS: u8 = 3;
/// Rest after a complete search (RFC 8899 section 5.1.1, PMTU_RAISE_TIMER).
pub(super) const RAISE_AFTER: Duration = Duration::from_secs(600);
/// Rest after a black hole.
pub(super) const BLACK_HOLE_REST: Duration = Duration::from_secs(60);
/// A probe of which nothing was heard counts as lost after this long.
const PROBE_LIFETIME: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub(super) struct Search {
    base: u16,
    max: u16,
    /// Proven.
    size: u16,
    /// Refuted, or one more than `max`.
    bound: u16,
    /// The probe under way and when it counts as lost.
    probe: Option<(u16, Instant)>,
    /// Probes of the present size that were lost.
    losses: u8,
    /// A nearly full packet arrived since the last search ended.
    busy: bool,
    /// No probe before this.
    rest_until: Instant,
    bursts: u8,
    in_burst: bool,
}

impl Search {
    pub(super) const fn new(base: u16, max: u16) -> Self {
        Self {
            base,
            max,
            size: base,
            bound: max.saturating_add(1),
            probe: None,
            losses: 0,
            busy: false,
            rest_until: Instant::ZERO,
            bursts: 0,
            in_burst: false,
        }
    }

    pub(super) const fn size(&self) -> u16 {
        self.size
    }

    pub(super) const fn base(&self) -> u16 {
        self.base
    }

    /// The largest size first, since most paths carry it; then halves.
    pub(super) fn poll(&mut self, now: Instant) -> Option<u16> {
        if let Some((size, lost_at)) = self.probe {
            if now < lost_at {
                return None;
            }
            self.lost(now, size);
        }
        if self.size >= self.max || !self.busy || now < self.rest_until {
            return None;
        }
        let size = if self.bound > self.max {
            self.max
        } else {
            self.size + (self.bound.saturating_sub(self.size)) / 2
        };
        self.probe = Some((size, now + PROBE_LIFETIME));
        Some(size)
    }

    /// Whether [`Self::poll`] has something to do: a probe to send, or one to give up.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        match self.probe {
            Some((_, lost_at)) => now >= lost_at,
            None => self.size < self.max && self.busy && now >= self.rest_until,
        }
    }

    pub(super) fn acked(&mut self, now: Instant, size: u16) {
        if size <= self.size || size > self.max {
            return;
        }
        self.probe = None;
        self.losses = 0;
        self.size = size;
        // A late acknowledgement of a size given up for lost: the losses were chance.
        if self.bound <= size {
            self.bound = self.max.saturating_add(1);
        }
        self.settle(now);
    }

    pub(super) fn lost(&mut self, now: Instant, size: u16) {
        if self.probe.is_none_or(|(s, _)| s != size) {
            return;
        }
        self.probe = None;
        self.losses += 1;
        if self.losses >= MAX_PROBES {
            self.losses = 0;
            self.bound = size;
            self.settle(now);
        }
    }

    fn settle(&mut self, now: Instant) {
        if self.bound.saturating_sub(self.size) <= GRAIN && self.bound <= self.max {
            self.rest(now, RAISE_AFTER);
        }
    }

    fn rest(&mut self, now: Instant, time: Duration) {
        self.bound = self.max.saturating_add(1);
        self.rest_until = now + time;
        self.busy = false;
        self.losses = 0;
        self.probe = None;
    }

    pub(super) fn packet_acked(&mut self, size: u16) {
        self.busy |= u32::from(size) * 8 >= u32::from(self.size) * 7;
        self.in_burst = false;
        if size > self.base {
            self.bursts = 0;
        }
    }

    /// A burst counts once however many packets it took, so that a full queue is no black hole.
    pub(super) fn packet_lost(&mut self, now: Instant, size: u16) {
        if self.size <= self.base || size <= self.base || self.in_burst {
            return;
        }
        self.in_burst = true;
        self.bursts += 1;
        if self.bursts >= BLACK_HOLE_BURSTS {
            self.bursts = 0;
            self.in_burst = false;
            self.size = self.base;
            self.rest(now, BLACK_HOLE_REST);
        }
    }
}
