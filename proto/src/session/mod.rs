//! Sessions: an association with one peer, its epochs of keys, its packets and frames.

pub mod aead;

use serde::{Deserialize, Serialize};

/// A generation-checked handle to an association. Only a proven session makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Peer {
    slot: u32,
    generation: u32,
}

impl Peer {
    pub(crate) const fn new(slot: u32, generation: u32) -> Self {
        Self { slot, generation }
    }

    /// Index into the node's table; small, reused after the generation moved on.
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// Which use of the slot.
    pub const fn generation(self) -> u32 {
        self.generation
    }
}
