//! Which shard an event goes to.

use super::id::Shard;

/// Events without a key go to one shard for as many events, then to the next: neighbours stay
/// together, and producers rarely meet at a lock.
pub const RUN: u64 = 256;

const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// A hash of a key. The same on every machine and in every version: keys keep their shard over a
/// restart as long as the number of shards is the same. Not for hostile keys: who may emit may also
/// choose shards.
#[must_use]
pub fn hash(key: &[u8]) -> u64 {
    let mut state = MIX ^ (key.len() as u64).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mut words = key.chunks_exact(8);
    for word in &mut words {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(word);
        state = fold(state ^ u64::from_le_bytes(bytes), MIX);
    }
    let rest = words.remainder();
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(rest) {
        *to = *from;
    }
    fold(state ^ u64::from_le_bytes(bytes), 0xd6e8_feb8_6659_fd93 ^ MIX)
}

/// Both halves of the product, one on the other.
const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128).wrapping_mul(b as u128 | 1);
    (product as u64) ^ ((product >> 64) as u64) ^ a.rotate_left(29)
}

/// The shard of a key among `active` shards.
#[must_use]
pub fn of_key(key: &[u8], active: u16) -> Shard {
    // The high half of a product spreads evenly without a division.
    ((u128::from(hash(key)) * u128::from(active.max(1))) >> 64) as Shard
}

/// The shard of the `n`-th event without a key of one producer that started at `start`.
#[inline]
#[must_use]
pub const fn of_run(start: u64, n: u64, active: u16) -> Shard {
    let active = if active == 0 { 1 } else { active as u64 };
    (start.wrapping_add(n / RUN) % active) as Shard
}

/// The count at which the run of the `n`-th event is over.
#[must_use]
pub const fn end_of_run(n: u64) -> u64 {
    (n / RUN).wrapping_add(1).wrapping_mul(RUN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;

    #[test]
    fn golden() {
        // Changing these moves every key of every user to another shard.
        assert_eq!(hash(b""), hash(b""));
        let of = |n| [&b""[..], b"a", b"plant/7", b"0123456789abcdef!"].map(|key| of_key(key, n));
        assert_eq!(of(1), [0; 4]);
        assert_eq!(of(16), GOLDEN);
    }

    const GOLDEN: [u16; 4] = [4, 12, 5, 11];

    #[test]
    fn keys_spread_evenly() {
        for active in [2u16, 3, 7, 16] {
            let mut counts = BTreeMap::new();
            for n in 0..16_000u32 {
                for key in [n.to_le_bytes().to_vec(), alloc::format!("user-{n}").into_bytes()] {
                    *counts.entry(of_key(&key, active)).or_insert(0u32) += 1;
                }
            }
            let mean = 32_000 / u32::from(active);
            assert_eq!(counts.len(), usize::from(active));
            assert!(counts.values().all(|n| n.abs_diff(mean) < mean / 8), "{active}: {counts:?}");
        }
    }

    #[test]
    fn runs_visit_every_shard() {
        let shards: alloc::vec::Vec<_> = (0..8).map(|run| of_run(5, run * RUN + 3, 4)).collect();
        assert_eq!(shards, [1, 2, 3, 0, 1, 2, 3, 0]);
        assert_eq!(of_run(u64::MAX, u64::MAX, 0), 0);
        assert_eq!([0, RUN - 1, RUN].map(end_of_run), [RUN, RUN, 2 * RUN]);
        assert_eq!(end_of_run(u64::MAX), 0, "it goes on from zero");
    }
}
