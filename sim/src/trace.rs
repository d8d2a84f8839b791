//! The trace hash: an order-sensitive digest of everything that went into the nodes and came out of
//! them. Two runs with one seed must agree on it, in two processes, in debug and in release.
//!
//! Every place has a chain of its own, over what happened there and when; the hash of a world is made
//! of all of them. So it does not depend on which of two nodes that cannot know of each other yet was
//! called first, and a world may call them in the order that is fastest.

use crate::keyed::mix;
use crate::null::{fold, mum};

const K: u64 = 0x9fb2_1c65_1e98_df25;

/// What happened at one place, in order.
#[derive(Clone, Copy, Debug)]
pub struct Chain(u64);

impl Chain {
    /// The chain of a place at which nothing happened yet.
    pub const fn new(place: u64) -> Self {
        Self(mix(place ^ 0x7472_6163_6500_0001))
    }

    /// Folds numbers.
    pub fn numbers(&mut self, numbers: &[u64]) {
        for n in numbers {
            self.0 = mum(self.0 ^ n, K).rotate_left(23) ^ n;
        }
    }

    /// Folds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0 = fold(self.0, bytes);
    }

    /// The hash so far.
    pub const fn hash(self) -> u64 {
        mix(self.0)
    }
}

/// The hash of several chains, in order.
pub fn all(chains: impl IntoIterator<Item = Chain>) -> u64 {
    let mut all = Chain::new(u64::MAX);
    chains.into_iter().for_each(|chain| all.numbers(&[chain.hash()]));
    all.hash()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_content_count() {
        let chain = |numbers: &[u64], bytes: &[u8]| {
            let mut chain = Chain::new(1);
            chain.numbers(numbers);
            chain.bytes(bytes);
            chain.hash()
        };
        let all = [
            chain(&[1, 2], b"ab"),
            chain(&[2, 1], b"ab"),
            chain(&[1, 2], b"ba"),
            chain(&[1, 2], b"ab\0"),
            chain(&[1, 2, 0], b"ab"),
            chain(&[0, 1, 2], b"ab"),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b), "{i}");
        }
    }

    #[test]
    fn what_happened_where_counts() {
        let (mut a, mut b) = (Chain::new(0), Chain::new(1));
        a.numbers(&[7]);
        b.numbers(&[8]);
        let (mut c, mut d) = (Chain::new(0), Chain::new(1));
        c.numbers(&[8]);
        d.numbers(&[7]);
        assert_ne!(super::all([a, b]), super::all([c, d]));
        assert_eq!(super::all([a, b]), super::all([a, b]));
    }
}
