//! Estimate of the round-trip time (RFC 9002 section 5).

use crate::time::Duration;

/// Timers are not set finer than this (RFC 9002 section 6.1.2).
pub const GRANULARITY: Duration = Duration::from_millis(1);
/// What a path is taken to need before its first sample (RFC 9002 section 6.2.2).
pub const INITIAL_RTT: Duration = Duration::from_millis(333);
/// The longest that a receiver may sit on an acknowledgement; both sides know it.
pub const MAX_ACK_DELAY: Duration = Duration::from_millis(5);

/// The round-trip time of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rtt {
    latest: Duration,
    adjusted: Duration,
    min: Duration,
    smoothed: Duration,
    variation: Duration,
    samples: u64,
}

impl Default for Rtt {
    fn default() -> Self {
        Self::new()
    }
}

impl Rtt {
    /// No sample yet: [`INITIAL_RTT`], with half of it as variation.
    pub const fn new() -> Self {
        Self {
            latest: INITIAL_RTT,
            adjusted: INITIAL_RTT,
            min: INITIAL_RTT,
            smoothed: INITIAL_RTT,
            variation: Duration::from_micros(166_500),
            samples: 0,
        }
    }

    /// Takes a sample. `ack_delay` is what the peer says it waited; at most [`MAX_ACK_DELAY`] of it
    /// is believed, and never so much that the result falls below the minimum.
    pub fn update(&mut self, sample: Duration, ack_delay: Duration) {
        self.latest = sample;
        if self.samples == 0 {
            (self.min, self.adjusted, self.smoothed, self.variation) = (sample, sample, sample, sample / 2);
            self.samples = 1;
            return;
        }
        self.samples = self.samples.saturating_add(1);
        self.min = self.min.min(sample);
        let delay = ack_delay.min(MAX_ACK_DELAY);
        self.adjusted = if sample >= self.min.saturating_add(delay) { sample - delay } else { sample };
        let off = self.smoothed.abs_diff(self.adjusted);
        self.variation = self.variation.saturating_mul(3).saturating_add(off) / 4;
        self.smoothed = self.smoothed.saturating_mul(7).saturating_add(self.adjusted) / 8;
    }

    /// The newest sample as measured.
    pub const fn latest(&self) -> Duration {
        self.latest
    }

    /// The newest sample without the peer's delay.
    pub const fn adjusted(&self) -> Duration {
        self.adjusted
    }

    /// The smallest sample; [`INITIAL_RTT`] before the first.
    pub const fn min(&self) -> Duration {
        self.min
    }

    /// The smoothed estimate.
    pub const fn smoothed(&self) -> Duration {
        self.smoothed
    }

    /// The mean deviation.
    pub const fn variation(&self) -> Duration {
        self.variation
    }

    /// Samples taken.
    pub const fn samples(&self) -> u64 {
        self.samples
    }

    /// The probe timeout before backoff: smoothed + max(4 variations, 1 ms) + `max_ack_delay`
    /// (RFC 9002 section 6.2.1).
    pub fn pto_base(&self, max_ack_delay: Duration) -> Duration {
        self.smoothed
            .saturating_add(self.variation.saturating_mul(4).max(GRANULARITY))
            .saturating_add(max_ack_delay)
    }
}
