//! How many shards take events: more when one fills up, fewer after a long calm.
//!
//! | Fullest shard | Effect |
//! |---|---|
//! | at or above `grow_at` | twice as many shards, at most once per `pause` |
//! | below `shrink_at` for `calm` without a break | half as many; then the calm begins anew |
//! | between | the calm begins anew |
//!
//! A shard that retires keeps what it holds and is read on. Nobody is asked for depths while the least
//! number of shards is active and none fills up, so an idle bus costs nothing.

use crate::time::{Duration, Instant};

/// A full shard, in the unit of fills.
pub const FULL: u32 = 1000;

/// How a bus scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScaleConfig {
    /// Fewest shards, at least 1.
    pub min: u16,
    /// Most shards.
    pub max: u16,
    /// Thousandths of a shard's capacity from which on there are too few shards.
    pub grow_at: u32,
    /// Thousandths below which there may be too many.
    pub shrink_at: u32,
    /// Shortest time between two growths.
    pub pause: Duration,
    /// How long all shards must be below `shrink_at`.
    pub calm: Duration,
}

impl ScaleConfig {
    /// Between `min` and `max` shards: grows at 70 %, once a second at most; shrinks after 10 s below 10 %.
    pub const fn between(min: u16, max: u16) -> Self {
        Self {
            min,
            max,
            grow_at: 700,
            shrink_at: 100,
            pause: Duration::from_secs(1),
            calm: Duration::from_secs(10),
        }
    }

    /// The least depth of a shard of this capacity whose fill is at or above `grow_at`.
    pub const fn mark(&self, capacity: u64) -> u64 {
        let part = (capacity as u128 * self.grow_at as u128).div_ceil(FULL as u128);
        if part == 0 { 1 } else { part as u64 }
    }
}

/// Decides how many shards are active. See the module.
#[derive(Clone, Copy, Debug)]
pub struct Scaler {
    config: ScaleConfig,
    active: u16,
    grown: Option<Instant>,
    calm_since: Option<Instant>,
    looked: Instant,
    full: bool,
}

impl Scaler {
    /// With the fewest shards. A range that is empty is made one of `min` alone.
    pub fn new(mut config: ScaleConfig, now: Instant) -> Self {
        config.min = config.min.max(1);
        config.max = config.max.max(config.min);
        let active = config.min;
        Self { config, active, grown: None, calm_since: None, looked: now, full: false }
    }

    /// Shards that take events.
    pub const fn active(&self) -> u16 {
        self.active
    }

    /// The fill of the fullest active shard, in thousandths. Answers the new number of shards if it changes.
    pub fn handle_fill(&mut self, now: Instant, fullest: u32) -> Option<u16> {
        let c = self.config;
        self.looked = now;
        self.full = fullest >= c.grow_at && self.active < c.max;
        if fullest >= c.shrink_at {
            self.calm_since = None;
        }
        if self.full && self.grown.is_none_or(|at| now >= at + c.pause) {
            self.grown = Some(now);
            self.active = self.active.saturating_mul(2).min(c.max);
            self.full = self.active < c.max;
            return Some(self.active);
        }
        if fullest < c.shrink_at && self.active > c.min {
            let since = *self.calm_since.get_or_insert(now);
            if now >= since + c.calm {
                self.calm_since = Some(now);
                self.active = (self.active / 2).max(c.min);
                return Some(self.active);
            }
        }
        None
    }

    /// When to tell the fill again, at the latest. `None`: when a shard reaches `grow_at`.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let c = self.config;
        let grow = self.grown.filter(|_| self.full).map(|at| at + c.pause);
        let look = (self.active > c.min).then(|| match self.calm_since {
            Some(since) => since + c.calm,
            None => self.looked + c.pause,
        });
        grow.into_iter().chain(look).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn grows_by_doubling_and_shrinks_after_a_calm() {
        let mut s = Scaler::new(ScaleConfig::between(1, 6), at(0));
        assert_eq!((s.active(), s.poll_timeout()), (1, None), "an idle bus is left alone");
        assert_eq!(s.handle_fill(at(10), 699), None);
        assert_eq!(s.handle_fill(at(20), 700), Some(2));
        assert_eq!(s.handle_fill(at(500), FULL), None, "one growth a second");
        assert_eq!(s.poll_timeout(), Some(at(1_020)));
        assert_eq!(s.handle_fill(at(1_020), FULL), Some(4));
        assert_eq!(s.handle_fill(at(2_020), FULL), Some(6));
        assert_eq!(s.handle_fill(at(9_000), FULL), None, "the most");
        assert_eq!(s.handle_fill(at(10_000), 99), None);
        assert_eq!(s.poll_timeout(), Some(at(20_000)));
        assert_eq!(s.handle_fill(at(15_000), 100), None, "the calm is broken");
        assert_eq!(s.handle_fill(at(16_000), 0), None);
        assert_eq!(s.handle_fill(at(25_999), 0), None);
        assert_eq!(s.handle_fill(at(26_000), 0), Some(3));
        assert_eq!(s.handle_fill(at(36_000), 0), Some(1));
        assert_eq!(s.poll_timeout(), None);
    }

    proptest! {
        /// Who waits for the mark is told when the fill is at `grow_at`, not one event sooner: a sooner one
        /// would be looked at again and again.
        #[test]
        fn the_mark_is_the_first_depth_that_grows(capacity in 1u64..1 << 40, grow_at in 1u32..1001) {
            let config = ScaleConfig { grow_at, ..ScaleConfig::between(1, 2) };
            let fill = |depth: u64| depth * u64::from(FULL) / capacity;
            let mark = config.mark(capacity);
            prop_assert!(fill(mark) >= grow_at.into());
            prop_assert!(mark == 1 || fill(mark - 1) < grow_at.into());
        }

        /// Whatever the fills: the number stays in its range, and the next look lies ahead.
        #[test]
        fn stays_in_range(min in 0u16..9, more in 0u16..40, fills in proptest::collection::vec(0u32..1200, 1..60)) {
            let config = ScaleConfig::between(min, min.saturating_add(more));
            let mut s = Scaler::new(config, at(0));
            let mut now = 0;
            for fill in fills {
                let before = s.active();
                let changed = s.handle_fill(at(now), fill);
                prop_assert_eq!(changed.is_some(), before != s.active());
                prop_assert!(s.active() >= min.max(1) && s.active() <= (min + more).max(1));
                prop_assert!(s.poll_timeout().is_none_or(|next| next > at(now)));
                now += u64::from(fill) * 3 + 1;
            }
        }
    }
}
