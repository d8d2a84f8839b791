//! HyStart++ (RFC 9406): leaves slow start when the round trip grows, before anything is lost.

use super::Rtt;
use crate::time::Duration;

const MIN_THRESHOLD: Duration = Duration::from_millis(4);
const MAX_THRESHOLD: Duration = Duration::from_millis(16);
const DIVISOR: u32 = 8;
const SAMPLES: u32 = 8;
const CSS_GROWTH_DIVISOR: u64 = 4;
const CSS_ROUNDS: u32 = 5;

/// State until slow start ends. The pacer spreads packets, so the growth per acknowledgement has no
/// limit L (section 4.3).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HyStart {
    /// The round ends when this sequence is acknowledged.
    end: u64,
    highest_sent: u64,
    last_min: Option<Duration>,
    current_min: Option<Duration>,
    samples: u32,
    /// In conservative slow start: the RTT at its start and rounds left.
    css: Option<(Duration, u32)>,
}

impl HyStart {
    pub fn on_sent(&mut self, sequence: u64) {
        self.highest_sent = self.highest_sent.max(sequence);
    }

    /// Bytes that the window grows for `bytes` acknowledged.
    pub const fn growth(&self, bytes: u64) -> u64 {
        if self.css.is_some() { bytes / CSS_GROWTH_DIVISOR } else { bytes }
    }

    /// Whether conservative slow start is on.
    #[cfg(test)]
    pub const fn in_css(&self) -> bool {
        self.css.is_some()
    }

    /// An acknowledgement up to `sequence`. Answers true when slow start is over.
    pub fn on_ack(&mut self, sequence: u64, sample: Option<Duration>) -> bool {
        if let Some(sample) = sample {
            self.current_min = Some(self.current_min.map_or(sample, |m| m.min(sample)));
            self.samples += 1;
        }
        if let (true, Some(current)) = (self.samples >= SAMPLES, self.current_min) {
            match (self.css, self.last_min) {
                (None, Some(last)) => {
                    let threshold = (last / DIVISOR).clamp(MIN_THRESHOLD, MAX_THRESHOLD);
                    if current >= last.saturating_add(threshold) {
                        self.css = Some((current, CSS_ROUNDS));
                    }
                }
                // The growth was a passing thing: back to slow start.
                (Some((baseline, _)), _) if current < baseline => self.css = None,
                _ => {}
            }
        }
        if sequence < self.end {
            return false;
        }
        self.end = self.highest_sent.saturating_add(1);
        self.last_min = self.current_min.or(self.last_min);
        self.current_min = None;
        self.samples = 0;
        match &mut self.css {
            Some((_, left)) => {
                *left = left.saturating_sub(1);
                let over = *left == 0;
                if over {
                    // Slow start may come again, after persistent congestion: from its beginning then.
                    self.css = None;
                }
                over
            }
            None => false,
        }
    }

    pub fn sample(sampled: bool, rtt: &Rtt) -> Option<Duration> {
        sampled.then(|| rtt.adjusted())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One round of ten acknowledgements with the same RTT.
    fn round(h: &mut HyStart, next: &mut u64, ms: u64) -> bool {
        let first = *next;
        *next += 10;
        h.on_sent(*next - 1);
        (first..*next).any(|s| h.on_ack(s, Some(Duration::from_millis(ms))))
    }

    #[test]
    fn slow_start_may_come_again_after_css() {
        let (mut h, mut next) = (HyStart::default(), 0);
        let mut ends = 0;
        // The window may fall back below the threshold at any time: rounds go on behind the end of CSS.
        for i in 0..60 {
            ends += u32::from(round(&mut h, &mut next, 40 + i * 20));
        }
        assert!(ends > 1, "{ends}");
    }

    #[test]
    fn a_growing_round_trip_leads_through_css_out_of_slow_start() {
        let (mut h, mut next) = (HyStart::default(), 0);
        for _ in 0..5 {
            assert!(!round(&mut h, &mut next, 40));
        }
        assert!(!h.in_css());
        assert_eq!(h.growth(1200), 1200);
        let mut rounds = 0;
        while !round(&mut h, &mut next, 46) {
            rounds += 1;
            assert!(rounds <= 7, "never left");
        }
        assert!((4..=6).contains(&rounds), "{rounds}");
    }

    #[test]
    fn a_small_rise_is_not_congestion_and_a_passing_one_is_forgiven() {
        let (mut h, mut next) = (HyStart::default(), 0);
        for ms in [40, 41, 43, 45, 46] {
            assert!(!round(&mut h, &mut next, ms));
            assert!(!h.in_css());
        }
        round(&mut h, &mut next, 60);
        round(&mut h, &mut next, 60);
        assert!(h.in_css());
        assert_eq!(h.growth(1200), 300);
        round(&mut h, &mut next, 40);
        assert!(!h.in_css());
    }
}
