//! CUBIC (RFC 9438) in integers, with HyStart++ and PRR.

use super::hystart::HyStart;
use super::prr::Prr;
use super::{Acked, Congestion, Controller, MAX_WINDOW, MINIMUM_PACKETS, Rtt, Signal, initial_window};
use crate::time::{Duration, Instant};

/// Multiplicative decrease: 0.7 (section 4.6).
const BETA: (u64, u64) = (7, 10);
/// Fast convergence: (1 + 0.7) / 2 (section 4.7).
const FAST_CONVERGENCE: (u64, u64) = (17, 20);
/// C = 4 / 10 (section 5.1).
const C: (u128, u128) = (4, 10);
/// Growth of the Reno-friendly estimate: 3 (1 - 0.7) / (1 + 0.7) = 9 / 17 (section 4.3).
const ALPHA: (u64, u64) = (9, 17);
/// Fraction bits of the Reno-friendly estimate.
const SHIFT: u32 = 16;
/// Longest time on the curve, in microseconds: keeps the cube within 128 bits. 19 hours.
const MAX_MICROS: u64 = 1 << 36;

/// CUBIC.
#[derive(Debug)]
pub struct Cubic {
    mtu: u64,
    window: u64,
    ssthresh: u64,
    /// W_max in bytes.
    w_max: u64,
    /// The window before the last reduction; from there on the estimate grows as Reno does.
    prior: u64,
    epoch: Option<Epoch>,
    /// Bytes acknowledged since the last `on_ack_done`, to grow on.
    fresh: u64,
    /// What growth left over, as a numerator over the window.
    credit: u128,
    /// The window was not used since then.
    idle_from: Option<Instant>,
    recovery_from: Option<Instant>,
    prr: Option<Prr>,
    hystart: HyStart,
    highest: u64,
}

/// A stretch of congestion avoidance.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    start: Instant,
    k_us: u64,
    /// The Reno-friendly window in 1 / 2^16 bytes.
    w_est: u64,
}

/// The largest integer whose cube is at most `n`.
pub(super) const fn cube_root(n: u128) -> u64 {
    let mut root: u128 = 0;
    let mut bit = 1u128 << 41;
    while bit > 0 {
        let candidate = root | bit;
        if candidate * candidate * candidate <= n {
            root = candidate;
        }
        bit >>= 1;
    }
    root as u64
}

/// K in microseconds: how long the curve takes from `start` bytes back to `w_max` (equation 2).
fn k_micros(w_max: u64, start: u64, mtu: u64) -> u64 {
    let rise = u128::from(w_max.saturating_sub(start));
    cube_root(rise * C.1 * 1_000_000_000_000_000_000 / (C.0 * u128::from(mtu.max(1))))
}

/// W_cubic in bytes, `t_us` into the epoch (equation 1).
fn w_cubic(t_us: u64, k_us: u64, w_max: u64, mtu: u64) -> u64 {
    let away = u128::from(t_us.abs_diff(k_us).min(MAX_MICROS));
    let change =
        C.0 * u128::from(mtu.min(1 << 16)) * (away * away * away) / (C.1 * 1_000_000_000_000_000_000);
    let change = u64::try_from(change).unwrap_or(u64::MAX);
    if t_us < k_us { w_max.saturating_sub(change) } else { w_max.saturating_add(change) }
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

impl Cubic {
    /// Starts in slow start.
    pub fn new(mtu: u16) -> Self {
        Self {
            mtu: u64::from(mtu),
            window: initial_window(mtu),
            ssthresh: u64::MAX,
            w_max: 0,
            prior: 0,
            epoch: None,
            fresh: 0,
            credit: 0,
            idle_from: None,
            recovery_from: None,
            prr: None,
            hystart: HyStart::default(),
            highest: 0,
        }
    }

    /// Congestion avoidance for `bytes` acknowledged (sections 4.2 to 4.5).
    fn grow(&mut self, now: Instant, bytes: u64, rtt: &Rtt) {
        let (window, mtu) = (self.window.max(1), self.mtu);
        // A window at or above W_max (slow start without a loss) starts on the convex part: K = 0.
        self.w_max = if self.epoch.is_none() { self.w_max.max(window) } else { self.w_max };
        let w_max = self.w_max;
        let epoch = self.epoch.get_or_insert_with(|| Epoch {
            start: now,
            k_us: k_micros(w_max, window, mtu),
            w_est: window << SHIFT,
        });
        let alpha = if epoch.w_est >> SHIFT < self.prior { ALPHA } else { (1, 1) };
        let step = u128::from(alpha.0 * mtu) * u128::from(bytes << SHIFT) / u128::from(alpha.1 * window);
        epoch.w_est = epoch.w_est.saturating_add(step as u64).min(MAX_WINDOW << SHIFT);
        let t = micros(now.since(epoch.start));
        let (k, est) = (epoch.k_us, epoch.w_est >> SHIFT);
        if w_cubic(t, k, self.w_max, mtu) < est {
            self.window = window.max(est);
            return;
        }
        let target = w_cubic(t.saturating_add(micros(rtt.smoothed())), k, self.w_max, mtu);
        let target = target.clamp(window, window + window / 2);
        self.credit += u128::from(target - window) * u128::from(bytes);
        let step = self.credit / u128::from(window);
        self.credit %= u128::from(window);
        self.window = window.saturating_add(step as u64);
    }
}

impl Controller for Cubic {
    fn on_sent(&mut self, _now: Instant, sequence: u64, bytes: u64, _in_flight: u64) {
        self.hystart.on_sent(sequence);
        if let Some(prr) = &mut self.prr {
            prr.on_sent(bytes);
        }
    }

    fn on_ack(&mut self, now: Instant, acked: &Acked, _rtt: &Rtt) {
        self.highest = self.highest.max(acked.sequence);
        if let Some(prr) = &mut self.prr {
            prr.on_delivered(acked.bytes);
        }
        if self.recovery_from.is_some_and(|from| acked.sent_at <= from) {
            return;
        }
        self.prr = None;
        if acked.app_limited {
            self.idle_from.get_or_insert(now);
            return;
        }
        if let Some(from) = self.idle_from.take() {
            // Time without use does not count on the curve (section 5.8).
            if let Some(epoch) = &mut self.epoch {
                epoch.start += now.since(from);
            }
        }
        if self.in_slow_start() {
            self.window = self.window.saturating_add(self.hystart.growth(acked.bytes)).min(MAX_WINDOW);
        } else {
            self.fresh = self.fresh.saturating_add(acked.bytes);
        }
    }

    fn on_congestion(&mut self, now: Instant, event: &Congestion) {
        if let Some(prr) = &mut self.prr {
            prr.on_lost();
        }
        let floor = MINIMUM_PACKETS * self.mtu;
        if self.recovery_from.is_none_or(|from| event.sent_at > from) {
            self.recovery_from = Some(now);
            let used = event.used(self.window, self.mtu);
            self.prior = used;
            self.w_max =
                if used < self.w_max { used * FAST_CONVERGENCE.0 / FAST_CONVERGENCE.1 } else { used };
            self.window = (used * BETA.0 / BETA.1).max(floor);
            self.ssthresh = self.window;
            self.epoch = None;
            self.fresh = 0;
            self.credit = 0;
            self.idle_from = None;
            self.prr = Some(Prr::new(self.ssthresh, event.prior_in_flight, event.acked_bytes));
        }
        if event.signal == Signal::Persistent {
            self.window = floor;
            self.recovery_from = None;
            self.prr = None;
            self.epoch = None;
        }
    }

    fn on_ack_done(&mut self, now: Instant, in_flight: u64, sampled: bool, rtt: &Rtt) {
        if let Some(prr) = &mut self.prr {
            prr.done(in_flight, self.mtu);
        }
        if self.in_slow_start() {
            if self.hystart.on_ack(self.highest, HyStart::sample(sampled, rtt)) {
                self.ssthresh = self.window;
            }
        } else if self.fresh > 0 {
            let bytes = core::mem::take(&mut self.fresh);
            self.grow(now, bytes, rtt);
            self.window = self.window.min(MAX_WINDOW);
        }
    }

    fn window(&self) -> u64 {
        self.prr.map_or(self.window, |prr| prr.window()).max(MINIMUM_PACKETS * self.mtu)
    }

    fn ssthresh(&self) -> u64 {
        self.ssthresh
    }

    fn in_slow_start(&self) -> bool {
        self.window < self.ssthresh
    }

    fn set_mtu(&mut self, mtu: u16) {
        self.mtu = u64::from(mtu);
        self.window = self.window.max(MINIMUM_PACKETS * self.mtu);
    }

    fn reset(&mut self) {
        *self = Self::new(u16::try_from(self.mtu).unwrap_or(u16::MAX));
    }

    fn name(&self) -> &'static str {
        "cubic"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_cube_root_is_exact(n in 0u128..1 << 120) {
            let r = u128::from(cube_root(n));
            prop_assert!(r * r * r <= n && (r + 1) * (r + 1) * (r + 1) > n);
        }

        #[test]
        fn the_curve_equals_the_float_model_within_one_percent(
            segments in 10u64..50_000, mtu in 1200u64..9000, permille in 300u64..1000, t_ms in 0u64..100_000,
        ) {
            let w_max = segments * mtu;
            let start = w_max * permille / 1000;
            let k = k_micros(w_max, start, mtu);
            let rise = (w_max - start) as f64 / mtu as f64;
            let model_k = (rise / 0.4).cbrt();
            prop_assert!((k as f64 / 1e6 - model_k).abs() <= 0.01 * model_k + 1e-5);
            let ours = w_cubic(t_ms * 1000, k, w_max, mtu) as f64 / mtu as f64;
            let model = 0.4 * (t_ms as f64 / 1e3 - model_k).powi(3) + w_max as f64 / mtu as f64;
            prop_assert!((ours - model.max(0.0)).abs() <= 0.01 * model.abs().max(1.0), "{} {}", ours, model);
        }
    }
}
