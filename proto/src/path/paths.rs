//! The paths of one association.

use super::{Ecn, EcnCounts, EcnVerdict, Path};
use crate::entropy::Entropy;
use crate::time::{Duration, Instant, Reason};

/// Most paths that may be under trial beside the active one.
pub const MAX_CANDIDATES: usize = 2;

/// Names a path within its association. Rises, and is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u32);

/// Limits and switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Datagram size, in bytes, that every UDP path is taken to carry.
    pub base_size: u16,
    /// Largest datagram, in bytes, that is probed for.
    pub max_size: u16,
    /// Whether sizes above the base are probed for.
    pub probing: bool,
    /// Whether packets are marked ECT(0) where the path proves to keep the marks.
    pub ecn: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { base_size: 1200, max_size: 1452, probing: true, ecn: true }
    }
}

/// A frame that must leave in a packet on a certain path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathFrame {
    /// Asks whoever is at the other end to send the bytes back.
    Challenge([u8; 8]),
    /// Sends the bytes of a challenge back, on the path that it came on.
    Response([u8; 8]),
    /// This side sends on this path from now on, and asks the peer to do the same. The number
    /// rises with every wish, so that a late frame does not undo a newer one.
    Migrate(u64),
}

/// What the session must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathEvent {
    /// Data goes another way from now on.
    Switched {
        /// The path used so far.
        from: PathId,
        /// The path used from now on.
        to: PathId,
        /// Only the remote port changed: RTT and congestion state still hold.
        keep: bool,
    },
    /// The peer answered on this path.
    Validated(PathId),
    /// The path is gone from the table; its id means nothing any more.
    Abandoned(PathId),
    /// The active path did not answer a challenge, and there is no other that did.
    Silent(PathId),
    /// Datagrams on this path may have this many bytes from now on.
    Size(PathId, u16),
}

/// One path.
#[derive(Debug)]
pub struct PathState {
    /// Its name.
    pub id: PathId,
    /// Its addresses.
    pub path: Path,
    /// Whether the peer proved to be there.
    pub validated: bool,
    /// Largest datagram to send, in bytes (UDP payload, or the inner datagram over a relay).
    pub size: u16,
}

impl PathState {
    /// The size, in bytes, that this kind of path is taken to carry.
    pub fn base_size(&self) -> u16 {
        self.size
    }
}

/// The paths of one association.
pub struct Paths {
    first: PathState,
}

impl Paths {
    /// Begins with one path. `validated`: the handshake proved that the peer is there.
    pub fn new(_config: &Config, _now: Instant, first: Path, validated: bool, _entropy: Entropy) -> Self {
        Self { first: PathState { id: PathId(0), path: first, validated, size: 1200 } }
    }

    /// The path that data goes on.
    pub fn active(&self) -> PathId {
        self.first.id
    }

    /// Where data goes.
    pub fn active_path(&self) -> Path {
        self.first.path
    }

    /// The state of a path; `None` if it is gone.
    pub fn get(&self, id: PathId) -> Option<&PathState> {
        (id == self.first.id).then_some(&self.first)
    }

    /// The path with these addresses.
    pub fn find(&self, path: &Path) -> Option<PathId> {
        (*path == self.first.path).then_some(self.first.id)
    }

    /// All paths, the active one first.
    pub fn iter(&self) -> impl Iterator<Item = &PathState> {
        core::iter::once(&self.first)
    }

    /// A packet that opened and was no replay. `highest`: its counter is above all before it.
    pub fn on_authenticated(&mut self, _now: Instant, from: Path, _bytes: usize, _highest: bool) -> Option<PathId> {
        self.find(&from)
    }

    /// A challenge arrived in a packet on path `on`.
    pub fn on_challenge(&mut self, _now: Instant, _on: PathId, _data: [u8; 8]) {}

    /// A response arrived.
    pub fn on_response(&mut self, _now: Instant, _on: PathId, _data: [u8; 8], _pto: Duration) {}

    /// The peer sends on path `on` from now on.
    pub fn on_migrate(&mut self, _now: Instant, _on: PathId, _number: u64) {}

    /// The packet with [`PathFrame::Migrate`] of this number was lost.
    pub fn on_migrate_lost(&mut self, _now: Instant, _number: u64) {}

    /// The next frame to send, and the path to send it on.
    #[must_use]
    pub fn poll_frame(&mut self) -> Option<(PathId, PathFrame)> {
        None
    }

    /// Whether `bytes` more may leave on a path.
    pub fn may_send(&self, _id: PathId, _bytes: usize) -> bool {
        true
    }

    /// A datagram of `bytes` left on a path.
    pub fn on_sent(&mut self, _id: PathId, _bytes: usize) {}

    /// Moves to another path, because this side's network changed.
    pub fn migrate_to(&mut self, _now: Instant, _path: Path) -> PathId {
        self.first.id
    }

    /// Asks the active path whether it still works.
    pub fn revalidate(&mut self, _now: Instant) {}

    /// A path cannot be used any more (its hop session or socket is gone).
    pub fn fail(&mut self, _now: Instant, _id: PathId) {}

    /// A size probe to send now, padded to exactly that many bytes.
    #[must_use]
    pub fn poll_probe(&mut self, _now: Instant) -> Option<(PathId, u16)> {
        None
    }

    /// A size probe was acknowledged.
    pub fn on_probe_acked(&mut self, _now: Instant, _id: PathId, _size: u16) {}

    /// A size probe was lost; no congestion signal.
    pub fn on_probe_lost(&mut self, _now: Instant, _id: PathId, _size: u16) {}

    /// An ordinary packet was acknowledged.
    pub fn on_acked(&mut self, _id: PathId, _size: u16) {}

    /// An ordinary packet was lost.
    pub fn on_lost(&mut self, _now: Instant, _id: PathId, _size: u16) {}

    /// The mark for the next packet on a path.
    pub fn ecn(&self, _id: PathId) -> Ecn {
        Ecn::NotEct
    }

    /// An acknowledgement that raised the largest acknowledged number.
    pub fn on_ecn(
        &mut self,
        _id: PathId,
        _newly_acked_ect0: u64,
        _before: EcnCounts,
        _after: Option<EcnCounts>,
    ) -> EcnVerdict {
        EcnVerdict::Fine
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<PathEvent> {
        None
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        None
    }

    /// Time has passed. `pto`: the probe timeout of the active path.
    pub fn handle_timeout(&mut self, _now: Instant, _pto: Duration) {}
}
