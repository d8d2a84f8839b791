//! Time as a value: nanoseconds that somebody else read from a clock.

use core::fmt;
use core::ops::{Add, AddAssign, Sub};
pub use core::time::Duration;
use serde::{Deserialize, Serialize};

/// A point on a node's monotonic clock, in nanoseconds since an arbitrary start.
///
/// Only differences between instants of one node mean anything. Arithmetic saturates: a machine
/// that adds a silly duration gets "never", not a panic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Instant(u64);

impl Instant {
    /// The start of the clock.
    pub const ZERO: Self = Self(0);
    /// Later than any instant that a clock returns.
    pub const FAR: Self = Self(u64::MAX);

    /// The instant `nanos` nanoseconds after the clock's start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's start.
    #[inline]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`; zero if `earlier` is later.
    #[inline]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    #[inline]
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(nanos(d)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, d: Duration) {
        *self = *self + d;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(d)))
    }
}

/// A duration as nanoseconds in a `u64`, saturating (584 years).
#[inline]
pub const fn nanos(d: Duration) -> u64 {
    d.as_secs().saturating_mul(1_000_000_000).saturating_add(d.subsec_nanos() as u64)
}

/// What the wall clock says, and how wrong it may be. An input; never read by a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallClock {
    /// Time since 1970-01-01T00:00:00Z.
    pub unix: Duration,
    /// Bound on the error of `unix`, in either direction.
    pub max_error: Duration,
}

/// Why a machine wants to be called at the instant that `poll_timeout` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Reason {
    /// Output is queued that can leave now.
    Output,
    /// A handshake message is due again, or a dial gives up.
    Handshake,
    /// A half-open handshake or a retired key is forgotten.
    Expiry,
    /// An acknowledgement may not wait longer.
    Ack,
    /// A packet counts as lost by time.
    Loss,
    /// A probe timeout (RFC 9002 section 6.2).
    Probe,
    /// The pacer releases the next burst.
    Pacing,
    /// A keep-alive is due.
    KeepAlive,
    /// The peer was silent for too long.
    Dead,
    /// Keys are to be renewed.
    Rekey,
    /// A path challenge is repeated or fails.
    PathValidation,
    /// A size probe is due or failed.
    SizeProbe,
    /// A dead association is dialled again, or given up.
    Redial,
    /// A closing association is forgotten.
    Closing,
    /// A plane's own timer.
    Plane,
}

/// The earlier of two timeouts.
pub fn earlier(a: Option<(Instant, Reason)>, b: Option<(Instant, Reason)>) -> Option<(Instant, Reason)> {
    match (a, b) {
        (Some(x), Some(y)) => Some(if y.0 < x.0 { y } else { x }),
        (x, None) => x,
        (None, y) => y,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Instant::FAR + Duration::MAX, Instant::FAR);
        assert_eq!(Instant::ZERO - Duration::from_secs(1), Instant::ZERO);
        assert_eq!(Instant::ZERO.since(Instant::FAR), Duration::ZERO);
    }

    #[test]
    fn the_earlier_timeout_wins_and_a_tie_keeps_the_first() {
        let a = Some((Instant::from_nanos(5), Reason::Ack));
        let b = Some((Instant::from_nanos(5), Reason::Loss));
        assert_eq!(earlier(a, b), a);
        assert_eq!(earlier(None, b), b);
        assert_eq!(earlier(a, Some((Instant::ZERO, Reason::Dead))), Some((Instant::ZERO, Reason::Dead)));
    }
}
