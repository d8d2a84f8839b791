//! Keyed randomness: every decision is a function of (seed, domain, key, n) and of nothing else.
//!
//! There is no shared stream, so deleting one fault from a run, or adding a node to it, leaves every
//! other decision as it was. That is what makes a failing run shrink. Integers only: the same draw
//! on every machine.

/// What a draw decides. Each domain is independent of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
#[allow(missing_docs)]
pub enum Domain {
    Loss = 1,
    Burst,
    BurstLoss,
    Jitter,
    Reorder,
    Duplicate,
    Corrupt,
    CorruptBit,
    Truncate,
    TruncateLength,
    Mark,
    Job,
    Identity,
    NodeSeed,
    Mesh,
    Incarnation,
    Entropy,
    Application,
    Sample,
    Plan,
    Clock,
    Nat,
    Disk,
}

/// Mixes 64 bits so that every input bit changes every output bit with probability one half.
pub const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The decision number `n` of `key` in `domain`: 64 uniform bits.
pub const fn draw(seed: u64, domain: Domain, key: u64, n: u64) -> u64 {
    mix(mix(mix(mix(seed) ^ domain as u64) ^ key) ^ n)
}

/// A number below `bound` (zero if `bound` is) made of 64 uniform bits.
pub const fn below(draw: u64, bound: u64) -> u64 {
    ((draw as u128 * bound as u128) >> 64) as u64
}

/// Whether something of probability `ppm` parts per million happens.
pub const fn chance(draw: u64, ppm: u32) -> bool {
    below(draw, 1_000_000) < ppm as u64
}

/// 32 uniform bytes.
pub fn bytes32(seed: u64, domain: Domain, key: u64, n: u64) -> [u8; 32] {
    let mut out = [0; 32];
    let first = draw(seed, domain, key, n);
    for (i, chunk) in out.chunks_exact_mut(8).enumerate() {
        chunk.copy_from_slice(&mix(first ^ (i as u64) << 56 ^ 0x5eed).to_le_bytes());
    }
    out
}

/// A keyed stream, for a workload that wants many draws of one kind.
#[derive(Clone, Debug)]
pub struct Rng {
    seed: u64,
    domain: Domain,
    key: u64,
    n: u64,
}

impl Rng {
    /// The stream of `key` in `domain`.
    pub const fn new(seed: u64, domain: Domain, key: u64) -> Self {
        Self { seed, domain, key, n: 0 }
    }

    /// The next 64 bits.
    pub const fn u64(&mut self) -> u64 {
        self.n += 1;
        draw(self.seed, self.domain, self.key, self.n)
    }

    /// A number below `bound`.
    pub const fn below(&mut self, bound: u64) -> u64 {
        below(self.u64(), bound)
    }

    /// Whether something of probability `ppm` parts per million happens.
    pub const fn chance(&mut self, ppm: u32) -> bool {
        chance(self.u64(), ppm)
    }

    /// A number from `low` to `high`, both included.
    pub const fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// Fills `out`.
    pub fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let bytes = self.u64().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_never_changes() {
        // Seeds in bug reports and committed plans mean something only as long as this holds.
        assert_eq!(draw(1, Domain::Loss, 2, 3), 0x6b36_0221_edd5_a20a);
    }

    #[test]
    fn chances_come_true_as_often_as_they_say() {
        for ppm in [0, 1_000, 10_000, 200_000, 500_000, 1_000_000] {
            let hits = (0..100_000).filter(|n| chance(draw(7, Domain::Loss, 1, *n), ppm)).count() as i64;
            let want = i64::from(ppm) / 10;
            assert!((hits - want).abs() <= 20 + want / 20, "{hits} of 100,000 at {ppm} ppm");
        }
    }

    #[test]
    fn domains_and_keys_are_independent() {
        let same = (0..10_000)
            .filter(|n| draw(7, Domain::Loss, 1, *n) & 1 == draw(7, Domain::Jitter, 1, *n) & 1)
            .count();
        assert!((4_700..5_300).contains(&same), "{same}");
    }
}
