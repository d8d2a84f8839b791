//! Pacing: spreads a window over a round trip.

use super::Rtt;
use crate::time::{Duration, Instant, nanos};

/// Packets that may leave back to back when the path was quiet (RFC 9002 section 7.7).
const BURST_PACKETS: u64 = 10;
/// At high rates a burst is this much time's worth instead: a timer is not finer.
const BURST_TIME: Duration = Duration::from_millis(1);
/// Bytes that may leave back to back where the shortest round trip is less than [`BURST_TIME`]: no timer
/// spreads a window over such a trip, and a machine or its neighbour takes what one system call can send.
const NEAR_BURST: u64 = 64 << 10;
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
        let burst = if rate.near { NEAR_BURST } else { BURST_PACKETS * u64::from(mtu) };
        let depth = rate.over(BURST_TIME).max(burst).saturating_add(rate.over(late));
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
    /// The shortest round trip is less than [`BURST_TIME`].
    near: bool,
}

impl Rate {
    /// 1.25 times `window` bytes per smoothed round trip; twice in slow start.
    pub fn new(window: u64, rtt: &Rtt, slow_start: bool) -> Self {
        let gain = if slow_start { 8 } else { 5 };
        Self {
            numerator: window.saturating_mul(gain).max(1),
            denominator: nanos(rtt.smoothed()).saturating_mul(4).max(1),
            near: rtt.samples() > 0 && rtt.min() < BURST_TIME,
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

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: u16 = 1_400;

    /// Bytes that leave at once after `rtt` was measured, with a window of 64 packets.
    fn burst(rtt: Duration) -> u64 {
        let mut measured = Rtt::new();
        measured.update(rtt, Duration::ZERO);
        // What the trip takes when the window is full does not matter: the shortest one says how near it is.
        for _ in 0..50 {
            measured.update(Duration::from_millis(20), Duration::ZERO);
        }
        let rate = Rate::new(64 * u64::from(MTU), &measured, false);
        Pacer::new(Instant::ZERO).release(Instant::ZERO, rate, MTU).expect("a full burst")
    }

    #[test]
    fn only_a_near_peer_gets_more_than_ten_packets_at_once() {
        assert_eq!(burst(Duration::from_micros(999)), NEAR_BURST);
        assert_eq!(burst(BURST_TIME), BURST_PACKETS * u64::from(MTU));
    }

    #[test]
    fn before_the_first_measurement_nobody_is_near() {
        let rate = Rate::new(64 * u64::from(MTU), &Rtt::new(), true);
        assert_eq!(
            Pacer::new(Instant::ZERO).release(Instant::ZERO, rate, MTU),
            Ok(BURST_PACKETS * u64::from(MTU))
        );
    }
}
