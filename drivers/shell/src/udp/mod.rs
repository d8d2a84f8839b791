//! UDP in batches over a plain non-blocking socket. A runtime adds readiness and nothing else.

mod imp;

pub use imp::{UdpSocket, bind_std};

use crate::runtime::{Batch, Slot};

/// Bytes of one receive buffer: the largest batch that GRO builds.
pub const SLOT: usize = 65_535;
/// Most receive buffers of a socket.
pub const MAX_SLOTS: usize = 8;

/// Receive memory of one socket: starts with one buffer and grows while bursts fill it.
#[derive(Debug)]
pub struct Slots {
    slots: Vec<Slot>,
    filled: usize,
    drained: bool,
}

impl Slots {
    /// One buffer.
    pub fn new() -> Self {
        Self { slots: vec![Slot::new(SLOT)], filled: 0, drained: false }
    }

    /// Whether the last receive is known to have taken all that the socket held: the next one would find
    /// nothing, unless more came since.
    pub const fn drained(&self) -> bool {
        self.drained
    }

    /// What the last receive filled.
    pub fn batch(&mut self) -> Batch<'_> {
        let filled = self.filled.min(self.slots.len());
        Batch(&mut self.slots[..filled])
    }
}

impl Default for Slots {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
