//! JSON numbers compared exactly, as decimals and as text: nothing is rounded.

use core::cmp::Ordering;

/// A number as JSON writes it, taken apart: `0.d1d2d3… × 10^point`, the first digit not zero.
#[derive(Clone, Copy, Debug)]
struct Parts<'a> {
    negative: bool,
    /// The digits before and behind the point, without zeros in front.
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
    /// Where the point lies.
    point: i64,
}

/// Largest exponent, either way, of a number that a filter may name.
const MAX_EXPONENT: i64 = 1 << 40;
/// Exponents of events beyond this count as this: no filter names a number that is as large, or as small.
const FAR: i64 = 1 << 50;

/// The length of the JSON number at the beginning of `text`, if there is one (RFC 8259 section 6).
pub(super) fn scan(text: &[u8]) -> Option<usize> {
    let digits = |at: usize| text.get(at..).unwrap_or(&[]).iter().take_while(|c| c.is_ascii_digit()).count();
    let mut at = usize::from(text.first() == Some(&b'-'));
    let whole = digits(at);
    if whole == 0 || whole > 1 && text.get(at) == Some(&b'0') {
        return None;
    }
    at += whole;
    if text.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        if fraction == 0 {
            return None;
        }
        at += 1 + fraction;
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits(at + 1 + sign);
        if exponent == 0 {
            return None;
        }
        at += 1 + sign + exponent;
    }
    Some(at)
}

/// Whether a filter may name this number, which [`scan`] found whole.
pub(super) fn fits(text: &[u8]) -> bool {
    parts(text).is_some_and(|parts| parts.exponent.abs() <= MAX_EXPONENT)
}

fn strip(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|c| **c == b'0').count();
    digits.get(zeros..).unwrap_or(&[])
}

fn parts(text: &[u8]) -> Option<Parts<'_>> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = match text.iter().position(|c| matches!(c, b'e' | b'E')) {
        None => (text, 0),
        Some(at) => {
            let (mantissa, exponent) = text.split_at(at);
            let digits = core::str::from_utf8(exponent.get(1..)?).ok()?;
            // Rust reads a sign in front as JSON does. What it cannot read is longer than any number of 64 bits.
            let far = if digits.starts_with('-') { -FAR } else { FAR };
            (mantissa, digits.parse::<i64>().map_or(far, |exponent| exponent.clamp(-FAR, FAR)))
        }
    };
    let (whole, fraction) = match mantissa.iter().position(|c| *c == b'.') {
        None => (mantissa, &[][..]),
        Some(at) => (mantissa.get(..at)?, mantissa.get(at + 1..)?),
    };
    let whole = strip(whole);
    if whole.is_empty() {
        let digits = strip(fraction);
        let zeros = fraction.len() - digits.len();
        let point = exponent.checked_sub(zeros as i64)?;
        return Some(Parts { negative, whole: &[], fraction: digits, exponent, point });
    }
    Some(Parts { negative, whole, fraction, exponent, point: exponent.checked_add(whole.len() as i64)? })
}

impl Parts<'_> {
    fn is_zero(&self) -> bool {
        self.whole.is_empty() && self.fraction.iter().all(|c| *c == b'0')
    }

    fn digits(&self) -> impl Iterator<Item = u8> + '_ {
        self.whole.iter().chain(self.fraction).copied()
    }

    fn magnitude(&self, other: &Self) -> Ordering {
        self.point.cmp(&other.point).then_with(|| {
            let (mut a, mut b) = (self.digits(), other.digits());
            loop {
                match (a.next(), b.next()) {
                    (None, None) => return Ordering::Equal,
                    (a, b) => match a.unwrap_or(b'0').cmp(&b.unwrap_or(b'0')) {
                        Ordering::Equal => {}
                        unequal => return unequal,
                    },
                }
            }
        })
    }
}

/// Compares two JSON numbers, of which the second one [`fits`]. `None`: one is no number.
pub(super) fn compare(a: &[u8], b: &[u8]) -> Option<Ordering> {
    let (a, b) = (parts(a)?, parts(b)?);
    Some(match (a.is_zero(), b.is_zero()) {
        (true, true) => Ordering::Equal,
        (true, false) if b.negative => Ordering::Greater,
        (true, false) => Ordering::Less,
        (false, true) if a.negative => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => match (a.negative, b.negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => a.magnitude(&b),
            (true, true) => b.magnitude(&a),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use proptest::prelude::*;

    #[test]
    fn exact_where_floats_are_not() {
        let cmp = |a: &str, b: &str| compare(a.as_bytes(), b.as_bytes());
        for (a, b) in [
            ("9007199254740993", "9007199254740992.5"),
            ("0.3", "0.29999999999999999999999"),
            ("1e400", "1e399"),
            ("1E-400", "0"),
            ("100", "9.9e1"),
            ("-1", "-1.000000000000000000001"),
            ("123456789012345678901234567891", "123456789012345678901234567890"),
        ] {
            assert_eq!(cmp(a, b), Some(Ordering::Greater), "{a} {b}");
            assert_eq!(cmp(b, a), Some(Ordering::Less), "{b} {a}");
        }
        for (a, b) in
            [("0", "-0.0e5"), ("1.50", "15e-1"), ("0.001", "1e-3"), ("1000", "1e+3"), ("10e0", "1.0E1")]
        {
            assert_eq!(cmp(a, b), Some(Ordering::Equal), "{a} {b}");
        }
        // No exponent of an event is too much.
        for huge in ["1e99999999999999999999", "1e9000000000000000", "0.1e2000000000000000000000"] {
            assert!(!fits(huge.as_bytes()));
            assert_eq!(cmp(huge, "9e1099511627776"), Some(Ordering::Greater), "{huge}");
            assert_eq!(cmp(&format!("-{huge}"), "-9e1099511627776"), Some(Ordering::Less), "{huge}");
        }
        for tiny in ["1e-99999999999999999999", "100.5E-9000000000000000"] {
            assert!(!fits(tiny.as_bytes()));
            assert_eq!(cmp(tiny, "1e-1099511627776"), Some(Ordering::Less), "{tiny}");
            assert_eq!(cmp(tiny, "0"), Some(Ordering::Greater), "{tiny}");
        }
        assert_eq!(cmp("0e99999999999999999999", "-0"), Some(Ordering::Equal));
    }

    #[test]
    fn only_json_numbers() {
        for (text, len) in [("0", 1), ("-0.5e+7,", 7), ("12]", 2), ("1.5E3 ", 5)] {
            assert_eq!(scan(text.as_bytes()), Some(len), "{text}");
        }
        for text in ["", "-", "01", ".5", "1.", "1e", "1e+", "+1", "a"] {
            assert_eq!(scan(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn like_integers(a: i64, b: i64, shift in 0usize..5) {
            // The same number written with its point elsewhere.
            let zeros = "0".repeat(shift);
            let a_text = format!("{a}{zeros}e-{shift}");
            let b_text = format!("{b}.{zeros}0");
            prop_assert_eq!(compare(a_text.as_bytes(), b_text.as_bytes()), Some(a.cmp(&b)));
        }
    }
}
