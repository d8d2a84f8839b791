//! The receiving side of credit: one window per stream and one for the session.

use crate::time::{Duration, Instant};

/// Credit that this side gave, in charged bytes since the start.
#[derive(Clone, Debug)]
pub(super) struct Window {
    /// Advertised: the peer may charge up to here.
    pub limit: u64,
    /// How far beyond `drained` the limit is kept.
    pub size: u64,
    base: u64,
    max: u64,
    /// Charged by what arrived (and by what is known never to arrive).
    pub received: u64,
    /// Drained by the application (or known never to arrive).
    pub drained: u64,
    /// Since when, and from which charge on, the rate of draining is measured.
    epoch: Option<Instant>,
    epoch_drained: u64,
    wanted: u64,
    /// Charge of the message that the peer waits with; if the window is smaller, draining alone does not
    /// help.
    wanted_size: u64,
    /// Many streams drain it: what one of them does not read must not keep another waiting.
    shared: bool,
}

impl Window {
    pub const fn new(base: u64, max: u64) -> Self {
        Self {
            limit: base,
            size: base,
            base,
            max,
            received: 0,
            drained: 0,
            epoch: None,
            epoch_drained: 0,
            wanted: 0,
            wanted_size: 0,
            shared: false,
        }
    }

    /// The window of a session.
    pub const fn shared(base: u64, max: u64) -> Self {
        Self { shared: true, ..Self::new(base, max) }
    }

    /// What was advertised and is not drained: what the peer can make this side hold.
    pub const fn advertised(&self) -> u64 {
        self.limit.saturating_sub(self.drained)
    }

    pub const fn base(&self) -> u64 {
        self.base
    }

    /// The application drained `charge`. Returns whether the limit rose. `grow(from, to)` leases.
    pub fn drain(
        &mut self,
        now: Instant,
        charge: u64,
        rtt: Duration,
        grow: &mut dyn FnMut(u64, u64) -> bool,
    ) -> bool {
        let epoch = *self.epoch.get_or_insert(now);
        self.drained += charge;
        // A sender that doubles its rate each round trip must find the window doubled before it gets there:
        // the window is kept at twice what a round trip brings.
        if self.drained - self.epoch_drained >= self.size / 2 {
            let took = now.since(epoch);
            if took <= rtt {
                let to = self.size.saturating_mul(2).min(self.max);
                if to > self.size && grow(self.size, to) {
                    self.size = to;
                }
            } else if took > rtt.saturating_mul(32) {
                self.size = (self.size / 2).max(self.base);
            }
            self.epoch = Some(now);
            self.epoch_drained = self.drained;
        }
        self.raise(grow)
    }

    /// Raises the limit if a quarter of the window was drained, or at all while the peer says that it waits.
    pub fn raise(&mut self, grow: &mut dyn FnMut(u64, u64) -> bool) -> bool {
        let mut target = self.drained + self.size;
        if self.must_grow_for(self.wanted_size) && self.wanted > self.limit {
            let size = self.wanted.saturating_sub(self.drained);
            if size > self.size && size <= self.max && grow(self.size, size) {
                self.size = size;
                target = self.wanted;
            }
        }
        let due = target.saturating_sub(self.limit) >= self.size / 4;
        if target > self.limit && (due || self.wanted > self.limit) {
            self.limit = target;
            return true;
        }
        false
    }

    /// The peer waits for `need` because of one message that charges `size`.
    pub fn want(&mut self, need: u64, size: u64, grow: &mut dyn FnMut(u64, u64) -> bool) -> bool {
        if need <= self.limit || size > self.max || need > self.limit.saturating_add(size) {
            return false;
        }
        self.wanted = need;
        self.wanted_size = size;
        if self.must_grow_for(size) { self.raise(grow) } else { self.raise_drained() }
    }

    /// A message that fits the window comes with ordinary draining, if it is its own stream that drains.
    fn must_grow_for(&self, size: u64) -> bool {
        size > self.size || (self.shared && !planted!(UnreadStarves))
    }

    fn raise_drained(&mut self) -> bool {
        let target = self.drained + self.size;
        if target > self.limit {
            self.limit = target;
            return true;
        }
        false
    }

    /// Keeps half of the first window free although what is held is not drained: other streams must not
    /// stall because one is not read. Who waits with a larger message asks ([`Self::want`]).
    pub fn relieve(&mut self, step: u64, grow: &mut dyn FnMut(u64, u64) -> bool) -> bool {
        if self.limit.saturating_sub(self.received) >= self.base / 2 {
            return false;
        }
        let to = self.size.saturating_add(step).min(self.max);
        if to <= self.size || !grow(self.size, to) {
            return false;
        }
        self.size = to;
        let target = self.drained + self.size;
        let rose = target > self.limit;
        self.limit = self.limit.max(target);
        rose
    }
}
