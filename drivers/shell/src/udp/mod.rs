//! UDP in batches over a plain non-blocking socket. A runtime adds readiness and nothing else.

mod imp;

pub use imp::{UdpSocket, bind_std};

use std::sync::{Mutex, PoisonError};

use crate::runtime::{Batch, Slot};

/// Bytes of one receive buffer: the largest batch that GRO builds.
pub const SLOT: usize = 65_535;
/// Most receive buffers of a socket.
pub const MAX_SLOTS: usize = 8;

/// Receive memory that no socket needs now, the one used last at the end: it is in a cache still. A socket
/// holds memory only while it has something, so this is as much as sockets received at the same time.
static RESTING: Mutex<Vec<Vec<Slot>>> = Mutex::new(Vec::new());

/// Receive memory of a socket: starts with one buffer and grows while bursts fill it.
#[derive(Debug)]
pub struct Slots {
    slots: Vec<Slot>,
    filled: usize,
    drained: bool,
}

impl Slots {
    /// None yet.
    pub const fn new() -> Self {
        Self { slots: Vec::new(), filled: 0, drained: false }
    }

    /// There is nothing to receive: the memory serves whichever socket receives next. A runtime calls it where
    /// it answers `Pending`.
    pub fn rest(&mut self) {
        if !self.slots.is_empty() {
            let slots = std::mem::take(&mut self.slots);
            RESTING.lock().unwrap_or_else(PoisonError::into_inner).push(slots);
        }
    }

    /// At least one buffer.
    fn ready(&mut self) -> &mut Vec<Slot> {
        if self.slots.is_empty() {
            let resting = RESTING.lock().unwrap_or_else(PoisonError::into_inner).pop();
            self.slots = resting.unwrap_or_else(|| vec![Slot::new(SLOT)]);
        }
        &mut self.slots
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
