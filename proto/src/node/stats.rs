//! Counters and measurements, as plain values.

use serde::{Deserialize, Serialize};

use super::Lost;
use crate::handshake;
use crate::session::Noise;

/// Counters of a node. They only rise, but for `peers`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NodeStats {
    /// Associations now.
    pub peers: u64,
    /// Handshakes that became epochs.
    pub epochs: u64,
    /// Datagrams handed to the driver.
    pub datagrams_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Datagrams from the driver.
    pub datagrams_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Data packets that were dropped, by reason.
    pub drops: Drops,
    /// Handshake messages that were dropped, by reason.
    pub handshake: handshake::Drops,
    /// What ended associations took with them.
    pub lost: Lost,
    /// Chunks sent to streams that were gone; their ports had been told.
    pub sends_to_nobody: u64,
    /// Lanes that a peer opened and no plane here took: of an unknown kind, forged, too many, or refused by
    /// the plane. The opener was told why.
    pub lanes_refused: u64,
    /// Meshes that did not fit.
    pub refused_meshes: u64,
}

/// What a node may come to hold, in bytes, by what it is for (`docs/MEMORY.md`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ceiling {
    /// The present associations as they are: keys, paths, streams, packets under way, their places in
    /// the node's tables. No messages.
    pub peers: u64,
    /// Messages that the present peers may send beyond the pool: what is left of each first window,
    /// and 64 KiB of late fire-and-forget messages each.
    pub credit: u64,
    /// Windows that grew, of all associations together.
    pub pool: u64,
    /// Half-open handshakes, their jobs and answers, replay numbers, at their limits.
    pub handshakes: u64,
    /// Indices and ended associations at their limits; emptied chunks as they are.
    pub tables: u64,
}

impl Ceiling {
    /// All of it.
    pub const fn total(&self) -> u64 {
        self.peers + self.credit + self.pool + self.handshakes + self.tables
    }
}

/// Why data packets were dropped without an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Drops {
    /// Too short to be a data packet.
    pub malformed: u64,
    /// No association has that index.
    pub unknown_index: u64,
    /// The counter was seen, or is too old.
    pub replayed: u64,
    /// The packet did not authenticate.
    pub forged: u64,
    /// The content did not fit the bounds of reassembly; the peer sends it again.
    pub unfitting: u64,
    /// No room for another path.
    pub path: u64,
}

impl Drops {
    /// All of them.
    pub const fn total(&self) -> u64 {
        let Self { malformed, unknown_index, replayed, forged, unfitting, path } = *self;
        malformed + unknown_index + replayed + forged + unfitting + path
    }

    pub(super) fn count(&mut self, noise: Noise) {
        match noise {
            Noise::Replayed => self.replayed += 1,
            Noise::Forged => self.forged += 1,
            Noise::Unfitting => self.unfitting += 1,
            Noise::Path => self.path += 1,
        }
    }
}
