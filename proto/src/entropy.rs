//! Randomness as an argument: one 32-byte seed, split into labelled streams.
//!
//! What a peer can see (connection indices, challenges) and what must stay secret (ephemeral keys)
//! come from different streams, so that a weakness found in the first tells nothing about the second.

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A deterministic random stream: BLAKE3 in extended output mode under a derived key.
#[derive(ZeroizeOnDrop)]
pub struct Entropy {
    key: [u8; 32],
    #[zeroize(skip)]
    block: u64,
    buffer: [u8; 64],
    #[zeroize(skip)]
    used: usize,
}

impl Entropy {
    /// The stream `label` of `seed`. Different labels give independent streams.
    pub fn new(seed: &[u8; 32], label: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("net 2026-11 entropy stream");
        hasher.update(seed);
        hasher.update(label.as_bytes());
        Self { key: *hasher.finalize().as_bytes(), block: 0, buffer: [0; 64], used: 64 }
    }

    /// A stream derived from this one, for a child machine.
    pub fn split(&mut self, label: &str) -> Self {
        let mut seed = self.array::<32>();
        let child = Self::new(&seed, label);
        seed.zeroize();
        child
    }

    /// Fills `out` with the next bytes of the stream.
    pub fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            if self.used == self.buffer.len() {
                let mut hasher = blake3::Hasher::new_keyed(&self.key);
                hasher.update(&self.block.to_le_bytes());
                hasher.finalize_xof().fill(&mut self.buffer);
                self.block += 1;
                self.used = 0;
            }
            *byte = self.buffer[self.used];
            self.buffer[self.used] = 0;
            self.used += 1;
        }
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// The next 32 bits.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// The next 64 bits.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number below `bound`, or zero if `bound` is zero. Uniform up to a bias of `bound / 2^64`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.u64()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_streams_and_labels_separate_them() {
        let seed = [7; 32];
        let (mut a, mut b, mut c) =
            (Entropy::new(&seed, "x"), Entropy::new(&seed, "x"), Entropy::new(&seed, "y"));
        let first = a.array::<100>();
        assert_eq!(first, b.array::<100>());
        assert_ne!(first, c.array::<100>());
        assert_ne!(first, a.array::<100>());
    }

    #[test]
    fn the_size_of_reads_does_not_change_the_stream() {
        let seed = [1; 32];
        let mut whole = Entropy::new(&seed, "s");
        let mut parts = Entropy::new(&seed, "s");
        let mut joined = [0; 96];
        for piece in joined.chunks_mut(7) {
            parts.fill(piece);
        }
        assert_eq!(whole.array::<96>(), joined);
    }

    #[test]
    fn below_stays_below() {
        let mut e = Entropy::new(&[2; 32], "b");
        assert_eq!(e.below(0), 0);
        for bound in [1, 2, 3, 1000, u64::MAX] {
            for _ in 0..100 {
                assert!(e.below(bound) < bound);
            }
        }
    }
}
