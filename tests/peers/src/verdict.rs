//! Medians, spread, and whether a bar was met.

use std::fmt;

/// How a figure compares with a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Met,
    /// The bound lies in the interval that the true median lies in as well.
    WithinNoise,
    Missed,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Met => "met",
            Self::WithinNoise => "within noise",
            Self::Missed => "missed",
        })
    }
}

/// Which side of a bound is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sense {
    AtLeast,
    AtMost,
}

/// Samples in order.
#[derive(Clone, Debug)]
pub struct Samples {
    sorted: Vec<f64>,
}

impl Samples {
    pub fn new(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        Self { sorted: values }
    }

    pub fn min(&self) -> f64 {
        self.sorted.first().copied().unwrap_or(f64::NAN)
    }

    pub fn max(&self) -> f64 {
        self.sorted.last().copied().unwrap_or(f64::NAN)
    }

    pub fn median(&self) -> f64 {
        match self.sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => self.sorted[n / 2],
            n => (self.sorted[n / 2 - 1] + self.sorted[n / 2]) / 2.0,
        }
    }

    /// Where the true median lies with a probability of at least 85 %, whatever the distribution: from
    /// the k-th smallest to the k-th largest sample. With seven samples that leaves out one at each
    /// end (87.5 %); with fewer than five it is all of them.
    pub fn interval(&self) -> (f64, f64) {
        let n = self.sorted.len();
        // The chance that fewer than `k` of `n` fair coins show heads.
        let mut left_out = 0;
        let (mut below, mut ways) = (0.0, 1.0);
        for k in 0..n / 2 {
            below += ways / 2f64.powi(n as i32);
            if 1.0 - 2.0 * below < 0.85 {
                break;
            }
            left_out = k;
            ways *= (n - k) as f64 / (k + 1) as f64;
        }
        match self.sorted.as_slice() {
            [] => (f64::NAN, f64::NAN),
            sorted => (sorted[left_out], sorted[n - 1 - left_out]),
        }
    }

    pub fn verdict(&self, sense: Sense, bound: f64) -> Verdict {
        let (low, high) = self.interval();
        let (worst, best) = match sense {
            Sense::AtLeast => (low, high),
            Sense::AtMost => (-high, -low),
        };
        let bound = if sense == Sense::AtLeast { bound } else { -bound };
        if worst >= bound {
            Verdict::Met
        } else if best >= bound {
            Verdict::WithinNoise
        } else {
            Verdict::Missed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_samples_leave_one_out_at_each_end() {
        let samples = Samples::new(vec![7.0, 1.0, 3.0, 2.0, 6.0, 5.0, 4.0]);
        assert_eq!((samples.min(), samples.median(), samples.max()), (1.0, 4.0, 7.0));
        assert_eq!(samples.interval(), (2.0, 6.0));
        assert_eq!(Samples::new(vec![1.0, 2.0, 3.0]).interval(), (1.0, 3.0));
        assert_eq!(Samples::new((0..15).map(f64::from).collect()).interval(), (4.0, 10.0));
    }

    #[test]
    fn verdicts_follow_the_interval() {
        let samples = Samples::new(vec![0.5, 1.1, 1.2, 1.3, 1.4, 1.5, 3.0]);
        assert_eq!(samples.verdict(Sense::AtLeast, 1.1), Verdict::Met);
        assert_eq!(samples.verdict(Sense::AtLeast, 1.2), Verdict::WithinNoise);
        assert_eq!(samples.verdict(Sense::AtLeast, 1.6), Verdict::Missed);
        assert_eq!(samples.verdict(Sense::AtMost, 1.5), Verdict::Met);
        assert_eq!(samples.verdict(Sense::AtMost, 1.1), Verdict::WithinNoise);
        assert_eq!(samples.verdict(Sense::AtMost, 1.0), Verdict::Missed);
    }
}
