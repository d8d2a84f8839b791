//! Measurements of one association, as plain values.

use serde::{Deserialize, Serialize};

use super::aead::Cipher;
use crate::path::Path;
use crate::recovery::EcnState;
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

/// Counters and measurements of one association. Round trip, window, size and in flight are those of
/// the path in use; [`PathStats`] has every path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PeerStats {
    /// The path in use.
    pub path: Path,
    /// The data cipher in use.
    pub cipher: Cipher,
    /// Time since the association began.
    pub age: Duration,
    /// Smoothed round-trip time; 333 ms before the first sample.
    pub rtt: Duration,
    /// Its lowest sample; zero before the first.
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
    /// Packets that counted as lost, probes for a larger size included.
    pub packets_lost: u64,
    /// Of those, acknowledged after all.
    pub spurious_losses: u64,
    /// Probe timeouts.
    pub probes: u64,
    /// Packets of ours that arrived with the mark for congestion.
    pub ecn_marks: u64,
    /// Payload and length bytes of streams that were sent again.
    pub retransmitted: u64,
    /// Time since the last packet of the peer that opened.
    pub idle: Duration,
    /// Epochs of keys so far.
    pub epochs: u64,
    /// Streams open now.
    pub streams: u64,
}

/// Measurements of one path of an association, the one in use or one that may replace it. They count
/// from when this side first knew of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PathStats {
    /// Its addresses.
    pub path: Path,
    /// Whether data goes over it.
    pub active: bool,
    /// Whether the peer proved to be there.
    pub validated: bool,
    /// Smoothed round-trip time; 333 ms before the first sample.
    pub rtt: Duration,
    /// The newest sample; zero before the first.
    pub rtt_latest: Duration,
    /// The lowest sample; zero before the first.
    pub rtt_min: Duration,
    /// Mean variation of the samples.
    pub rtt_variation: Duration,
    /// Congestion window, in bytes.
    pub window: u64,
    /// Slow start threshold, in bytes; none before the first congestion signal.
    pub slow_start_threshold: Option<u64>,
    /// Whether the window doubles each round trip.
    pub slow_start: bool,
    /// Bytes that the pacer lets leave in a second.
    pub pacing_rate: u64,
    /// Bytes in flight.
    pub in_flight: u64,
    /// Packets in flight that want an acknowledgement.
    pub packets_in_flight: u64,
    /// Largest datagram, in bytes (UDP payload).
    pub datagram_size: u16,
    /// Whether marks survive the path.
    pub ecn: EcnState,
    /// Packets sent.
    pub packets_sent: u64,
    /// Their bytes, headers and tags included.
    pub bytes_sent: u64,
    /// Bytes of packets that opened and came from there.
    pub bytes_received: u64,
    /// Packets that counted as lost, probes for a larger size included.
    pub packets_lost: u64,
    /// Their bytes. What reliable streams had in them is sent again.
    pub bytes_lost: u64,
    /// Packets that counted as lost and were acknowledged after all.
    pub spurious_losses: u64,
    /// Probe timeouts since the last acknowledgement.
    pub probes_in_row: u32,
}
