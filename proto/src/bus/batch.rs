//! When the events that wait become a batch.

use crate::time::{Duration, Instant, nanos};

/// How events are batched on their way to an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchConfig {
    /// Events that are worth a batch while others are under way; the least of an adaptive target.
    pub min_events: u32,
    /// Most events in a batch.
    pub max_events: u32,
    /// The longest that an event waits for company. None waits while nothing is under way.
    pub max_delay: Duration,
    /// Whether the target follows the rate: what comes in 5 ms, as a moving average.
    pub adaptive: bool,
}

/// Most events that a batch may be configured to hold.
pub const MAX_BATCH: u32 = 1_000_000;

impl Default for BatchConfig {
    fn default() -> Self {
        Self { min_events: 1000, max_events: 10_000, max_delay: Duration::from_millis(10), adaptive: true }
    }
}

impl BatchConfig {
    /// Larger batches.
    pub const fn high_throughput() -> Self {
        Self { min_events: 5000, max_events: 50_000, max_delay: Duration::from_millis(5), adaptive: true }
    }

    /// Smaller batches, sooner.
    pub const fn low_latency() -> Self {
        Self { min_events: 100, max_events: 1000, max_delay: Duration::from_millis(1), adaptive: true }
    }
}

/// Whether to form a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing waits.
    Idle,
    /// Now, of at most so many events.
    Now(usize),
    /// Then, unless enough has come before.
    At(Instant),
}

/// Decides when a batch is formed.
#[derive(Clone, Debug)]
pub struct Batcher {
    config: BatchConfig,
    target: u64,
    /// Since when something waits.
    since: Option<Instant>,
    last: Option<Instant>,
}

impl Batcher {
    /// With this configuration; the target starts at its least.
    pub const fn new(config: BatchConfig) -> Self {
        Self { config, target: config.min_events as u64, since: None, last: None }
    }

    /// The events that are worth a batch now.
    pub const fn target(&self) -> u64 {
        self.target
    }

    /// `depth` events wait; `idle`: nothing is under way.
    pub fn due(&mut self, now: Instant, depth: u64, idle: bool) -> Due {
        if depth == 0 {
            self.since = None;
            return Due::Idle;
        }
        let since = *self.since.get_or_insert(now);
        let at = since + self.config.max_delay;
        if idle || depth >= self.target || now >= at {
            return Due::Now(self.config.max_events.max(1) as usize);
        }
        Due::At(at)
    }

    /// A batch of `events` was formed.
    pub fn formed(&mut self, now: Instant, events: u64) {
        self.since = None;
        if let Some(last) = self.last.replace(now)
            && self.config.adaptive
        {
            let elapsed = nanos(now.since(last)).max(1);
            // What comes in 5 ms at this rate.
            let wish =
                (u128::from(events) * 5_000_000 / u128::from(elapsed)).min(u128::from(u32::MAX)) as u64;
            let (min, max) = (self.config.min_events, self.config.max_events.max(self.config.min_events));
            self.target = (self.target * 3 + wish.clamp(min.into(), max.into())) / 4;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Instant {
        Instant::from_nanos(n * 1_000_000)
    }

    #[test]
    fn an_idle_link_never_waits_and_a_busy_one_not_long() {
        let mut b = Batcher::new(BatchConfig::default());
        assert_eq!(b.due(ms(0), 0, true), Due::Idle);
        assert_eq!(b.due(ms(0), 1, true), Due::Now(10_000));
        b.formed(ms(0), 1);
        assert_eq!(b.due(ms(1), 999, false), Due::At(ms(11)));
        assert_eq!(b.due(ms(2), 999, false), Due::At(ms(11)), "since the first");
        assert_eq!(b.due(ms(2), 1000, false), Due::Now(10_000));
        assert_eq!(b.due(ms(11), 5, false), Due::Now(10_000));
    }

    #[test]
    fn the_target_follows_the_rate_within_its_bounds() {
        let mut b = Batcher::new(BatchConfig::default());
        for n in 0..50 {
            b.formed(ms(n * 5), 4000);
        }
        assert!(b.target().abs_diff(4000) < 10, "{}", b.target());
        for n in 50..100 {
            b.formed(ms(n * 5), 4_000_000);
        }
        assert!(b.target() > 9900 && b.target() <= 10_000, "{}", b.target());
        for n in 100..200 {
            b.formed(ms(n * 500), 1);
        }
        assert!(b.target() <= 1003, "{}", b.target());
    }
}
