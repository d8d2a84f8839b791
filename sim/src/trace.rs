//! The trace hash: an order-sensitive digest of everything that went into the nodes and came out of
//! them. Two runs with one seed must agree on it, in two processes, in debug and in release.

use crate::keyed::mix;
use crate::null::fold;

/// Folds values in order.
#[derive(Clone, Debug)]
pub struct Trace {
    state: u64,
    count: u64,
}

impl Default for Trace {
    fn default() -> Self {
        Self { state: 0x7472_6163_6500_0001, count: 0 }
    }
}

impl Trace {
    /// Folds numbers.
    pub fn numbers(&mut self, numbers: &[u64]) {
        for n in numbers {
            self.state = mix(self.state ^ n);
        }
        self.count += 1;
    }

    /// Folds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.state = fold(self.state, bytes);
        self.count += 1;
    }

    /// The hash so far.
    pub const fn hash(&self) -> u64 {
        self.state
    }

    /// How many entries were folded: where two traces part is found by bisection over this.
    pub const fn count(&self) -> u64 {
        self.count
    }
}
