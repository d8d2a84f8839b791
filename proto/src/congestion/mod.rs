//! Congestion control and pacing of one path: how much may be in flight, and how fast it leaves.
//!
//! `docs/protocol/congestion.md` explains the choices. All arithmetic is on integers: bytes and
//! nanoseconds, with wide intermediates, so that every platform takes the same decisions.

mod cubic;
mod hystart;
mod pacer;
mod prr;
mod reno;
mod rtt;

pub use cubic::Cubic;
pub use pacer::{Pacer, Rate};
pub use reno::Reno;
pub use rtt::{GRANULARITY, INITIAL_RTT, MAX_ACK_DELAY, Rtt};

use crate::time::Instant;
use alloc::boxed::Box;
use core::fmt;
use serde::{Deserialize, Serialize};

/// Packets of the initial window (RFC 9002 section 7.2).
pub const INITIAL_PACKETS: u64 = 10;
/// Packets of the smallest window (RFC 9002 section 7.2).
pub const MINIMUM_PACKETS: u64 = 2;
/// No window grows beyond this many bytes: 10 Gbit/s over 800 ms, and small enough for the arithmetic.
pub const MAX_WINDOW: u64 = 1 << 30;

/// One packet that counted as in flight was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acked {
    /// Its place among the packets of its path: rises by one for each packet sent there.
    pub sequence: u64,
    /// When it was sent.
    pub sent_at: Instant,
    /// Its size in bytes.
    pub bytes: u64,
    /// The sender had less to send than the window allowed; the window does not grow on it.
    pub app_limited: bool,
}

/// What a congestion signal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Packets are lost.
    Loss,
    /// Packets came with the CE mark.
    Ecn,
    /// Everything over a long period is lost (RFC 9002 section 7.6).
    Persistent,
}

/// Packets were lost or marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Congestion {
    /// What happened.
    pub signal: Signal,
    /// When the newest of the packets concerned was sent. Older than the last reduction: no new one.
    pub sent_at: Instant,
    /// Bytes lost; 0 for [`Signal::Ecn`].
    pub lost_bytes: u64,
    /// Bytes in flight before this acknowledgement or timeout took anything off.
    pub prior_in_flight: u64,
    /// The most that was in flight in this round trip and the one before, in bytes.
    pub peak_in_flight: u64,
    /// Bytes that this acknowledgement took off as delivered.
    pub acked_bytes: u64,
}

impl Congestion {
    /// What to reduce: `window`, or what was used of it if that was less than three quarters. A window
    /// that stood open while something else held the sender back says nothing about the path, and a
    /// reduction of it would reduce nothing (RFC 9438 section 4.6, RFC 7661). Closer than that, what
    /// was in flight is as much the pacer's doing and the last fraction of a datagram's.
    fn used(&self, window: u64, mtu: u64) -> u64 {
        let used = self.peak_in_flight.saturating_add(mtu);
        if used < window - window / 4 { used } else { window }
    }
}

/// A congestion controller of one path. The order per acknowledgement is: [`Self::on_ack`] for each
/// packet, [`Self::on_congestion`] if anything was lost or marked, then [`Self::on_ack_done`].
pub trait Controller: fmt::Debug + Send {
    /// A packet that counts as in flight leaves. `in_flight` includes it.
    fn on_sent(&mut self, now: Instant, sequence: u64, bytes: u64, in_flight: u64);
    /// A packet was acknowledged; `rtt` already includes the sample of this acknowledgement.
    fn on_ack(&mut self, now: Instant, acked: &Acked, rtt: &Rtt);
    /// Loss, CE marks or persistent congestion.
    fn on_congestion(&mut self, now: Instant, event: &Congestion);
    /// An acknowledgement frame is processed. `sampled`: it gave an RTT sample on this path.
    fn on_ack_done(&mut self, now: Instant, in_flight: u64, sampled: bool, rtt: &Rtt);
    /// Bytes that may be in flight now.
    fn window(&self) -> u64;
    /// The slow start threshold in bytes; `u64::MAX` before the first signal.
    fn ssthresh(&self) -> u64;
    /// Whether the window doubles each round trip; the pacer then releases at twice the window.
    fn in_slow_start(&self) -> bool;
    /// Largest datagram in bytes from now on.
    fn set_mtu(&mut self, mtu: u16);
    /// The path became another one: start over.
    fn reset(&mut self);
    /// Name for reports.
    fn name(&self) -> &'static str;
}

/// Which controller a path starts with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Algorithm {
    /// RFC 9438 with HyStart++ and PRR.
    #[default]
    Cubic,
    /// NewReno after RFC 9002 section 7, with HyStart++ and PRR.
    Reno,
}

impl Algorithm {
    /// A fresh controller for datagrams of at most `mtu` bytes.
    pub fn build(self, mtu: u16) -> Box<dyn Controller> {
        match self {
            Self::Cubic => Box::new(Cubic::new(mtu)),
            Self::Reno => Box::new(Reno::new(mtu)),
        }
    }
}

/// The initial window for datagrams of `mtu` bytes (RFC 9002 section 7.2).
pub const fn initial_window(mtu: u16) -> u64 {
    let ten = INITIAL_PACKETS * mtu as u64;
    let floor = MINIMUM_PACKETS * mtu as u64;
    let cap = if floor > 14_720 { floor } else { 14_720 };
    if ten < cap { ten } else { cap }
}
