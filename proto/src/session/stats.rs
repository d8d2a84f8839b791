//! Measurements of one association, as plain values.

use serde::{Deserialize, Serialize};

use super::aead::Cipher;
use crate::path::Path;
use crate::time::Duration;

/// Why an arriving packet had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noise {
    /// The counter was seen, or is too old.
    Replayed,
    /// It did not authenticate.
    Forged,
    /// Its content did not fit the bounds of reassembly; it is not acknowledged.
    Unfitting,
    /// It came over a path that there is no room to remember.
    Path,
}

/// Counters and measurements of one association.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PeerStats {
    /// The path in use.
    pub path: Path,
    /// The data cipher in use.
    pub cipher: Cipher,
    /// Time since the association began.
    pub age: Duration,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Its lowest sample.
    pub rtt_min: Duration,
    /// Congestion window, in bytes.
    pub window: u64,
    /// Bytes in flight.
    pub in_flight: u64,
    /// Largest datagram, in bytes.
    pub datagram_size: u16,
    /// Packets sent.
    pub packets_sent: u64,
    /// Their bytes, headers and tags included.
    pub bytes_sent: u64,
    /// Packets that opened.
    pub packets_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Packets that counted as lost.
    pub packets_lost: u64,
    /// Of those, acknowledged after all.
    pub spurious_losses: u64,
    /// Probe timeouts.
    pub probes: u64,
    /// Congestion signals by mark.
    pub ecn_marks: u64,
    /// Epochs of keys so far.
    pub epochs: u64,
    /// Streams open now.
    pub streams: u64,
}
