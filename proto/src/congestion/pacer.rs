//! Pacing: spreads a window over a round trip.

use crate::time::{Duration, Instant, nanos};

/// Packets that may leave back to back when the path was quiet (RFC 9002 section 7.7).
pub const BURST_PACKETS: u64 = 10;
/// At high rates a burst is this much time's worth instead: a timer is not finer.
pub const BURST_TIME: Duration = Duration::from_millis(1);
/// A driver that wakes late may make up for this much at once.
const MAX_LATENESS: Duration = Duration::from_millis(2);
/// Credit is counted in 1/1024 bytes, so that frequent calls lose nothing to rounding.
const SCALE: u128 = 1024;

/// A token bucket that fills at 1.25 windows per round trip, 2 in slow start.
#[derive(Clone, Debug)]
pub struct Pacer {
    credit: u64,
    filled_at: Instant,
    /// The instant that was named when credit ran out.
    wake: Option<Instant>,
}

impl Pacer {
    /// Starts with a full burst.
    pub const fn new(now: Instant) -> Self {
        Self { credit: u64::MAX, filled_at: now, wake: None }
    }

    /// Bytes that may leave now, or when to ask again. The budget is below zero never: a datagram may
    /// leave if the budget is at least one datagram (`mtu` bytes).
    pub fn release(&mut self, now: Instant, rate: Rate, mtu: u16) -> Result<u64, Instant> {
        let late = self.wake.map_or(Duration::ZERO, |wake| now.since(wake).min(MAX_LATENESS));
        let depth = rate.over(BURST_TIME).max(BURST_PACKETS * u64::from(mtu)).saturating_add(rate.over(late));
        let earned = rate.scaled(now.since(self.filled_at));
        let full = u128::from(depth) * SCALE;
        let credit = u128::from(self.credit).saturating_add(earned).min(full);
        self.credit = u64::try_from(credit).unwrap_or(u64::MAX);
        self.filled_at = self.filled_at.max(now);
        let budget = (credit / SCALE) as u64;
        if budget >= u64::from(mtu) {
            return Ok(budget);
        }
        // Wake for a burst worth the timer, at least one datagram.
        let want = rate
            .over(BURST_TIME)
            .clamp(u64::from(mtu), BURST_PACKETS.saturating_mul(u64::from(mtu)).max(rate.over(BURST_TIME)));
        let wake = self.filled_at + rate.time_for(want.saturating_sub(budget));
        let wake = wake.max(now + Duration::from_nanos(1));
        self.wake = Some(wake);
        Err(wake)
    }

    /// `bytes` left.
    pub fn on_sent(&mut self, bytes: u64) {
        self.credit = self.credit.saturating_sub(bytes.saturating_mul(SCALE as u64));
        self.wake = None;
    }
}

/// A pacing rate: the gain applied to a window per round trip.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    numerator: u64,
    denominator: u64,
}

impl Rate {
    /// 1.25 times `window` bytes per `srtt`; twice in slow start.
    pub fn new(window: u64, srtt: Duration, slow_start: bool) -> Self {
        let gain = if slow_start { 8 } else { 5 };
        Self {
            numerator: window.saturating_mul(gain).max(1),
            denominator: nanos(srtt).saturating_mul(4).max(1),
        }
    }

    fn scaled(self, d: Duration) -> u128 {
        u128::from(self.numerator) * u128::from(nanos(d)).min(1 << 50) * SCALE / u128::from(self.denominator)
    }

    /// Bytes in `d`.
    pub fn over(self, d: Duration) -> u64 {
        u64::try_from(self.scaled(d) / SCALE).unwrap_or(u64::MAX)
    }

    /// Time for `bytes`, rounded up.
    pub fn time_for(self, bytes: u64) -> Duration {
        let ns = (u128::from(bytes) * u128::from(self.denominator)).div_ceil(u128::from(self.numerator));
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}
