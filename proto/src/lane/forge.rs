//! Handles made by hand, for simulations of planes without a transport. Not in a release.

use super::Lane;
use crate::session::Peer;

/// A handle to an association.
pub const fn peer(slot: u32, generation: u32) -> Peer {
    Peer::new(slot, generation)
}

/// A handle to a lane.
pub const fn lane(slot: u32, generation: u32, kind: u8) -> Lane {
    Lane::new(slot, generation, kind)
}
