//! Connection indices: from the 32 bits in a datagram to whose keys they name.
//!
//! 8 bits name the shard, 16 a slot of this table and 8 are drawn anew for each use; slot and draw
//! are mixed by a keyed permutation, so that an index tells an observer nothing. Slots are reused in
//! the order in which they came back, so a retired index stays unused as long as possible.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::entropy::Entropy;
use crate::handshake::{COOKIE_REPLY, HEADER2, HalfOpenId, MESSAGE2, VERSIONS_REPLY};
use crate::session::{DATA, parse_header};

/// Most indices at once.
pub const MAX_INDICES: usize = 1 << 16;
/// Slots that rest before one of them is reused.
const RESTING: usize = 64;

/// Which shard of a socket address a datagram is for, as far as its clear bytes tell. The rules are
/// in `docs/SCALING.md`; every shard has another number in [`Config::shard`](super::Config::shard).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// The shard of this number gave out the index in the datagram. Without such a shard: drop it.
    Shard(u8),
    /// The shard that an association with the sender's address lives in; without one, the shard that
    /// a hash of the address picks.
    Address,
    /// Every shard: the one that asked believes it, the others drop it.
    Every,
}

/// Where a dispatcher in front of several shards hands a datagram to. Looks at the first ten bytes
/// only and believes nothing: a forged index costs its shard one failed look-up.
pub fn steer(datagram: &[u8]) -> Steer {
    let index = |at: usize| datagram.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    let shard = |index: u32| Steer::Shard((index >> 24) as u8);
    match datagram.first() {
        Some(&DATA) => parse_header(datagram).map(|(index, _)| shard(index)),
        Some(&MESSAGE2) => index(HEADER2 - 4).map(shard),
        Some(&COOKIE_REPLY) => index(2).map(shard),
        Some(&VERSIONS_REPLY) => Some(Steer::Every),
        // Message 1 names no index of ours. What is no datagram of ours is counted by somebody.
        _ => None,
    }
    .unwrap_or(Steer::Address)
}

/// What an index leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A dial that waits for its answer.
    Dial,
    /// A half-open handshake, by its number.
    HalfOpen(HalfOpenId),
    /// An epoch of the session in this slot.
    Session(u32),
}

/// Hands out indices and resolves them.
pub struct Indices {
    shard: u8,
    key: [u32; 4],
    slots: Vec<Option<(u32, Target)>>,
    free: VecDeque<u16>,
    draws: Entropy,
}

impl Indices {
    /// An empty table of one shard.
    pub fn new(shard: u8, mut draws: Entropy) -> Self {
        let key = [draws.u32(), draws.u32(), draws.u32(), draws.u32()];
        Self { shard, key, slots: Vec::new(), free: VecDeque::new(), draws }
    }

    /// Four Feistel rounds over 12 + 12 bits.
    fn mix(&self, word: u32) -> u32 {
        let (mut left, mut right) = (word >> 12, word & 0xfff);
        for key in self.key {
            let round = (right ^ key).wrapping_mul(0x9e37_79b1) >> 20;
            (left, right) = (right, left ^ round);
        }
        left << 12 | right
    }

    fn unmix(&self, word: u32) -> u32 {
        let (mut left, mut right) = (word >> 12, word & 0xfff);
        for key in self.key.iter().rev() {
            let round = (left ^ key).wrapping_mul(0x9e37_79b1) >> 20;
            (left, right) = (right ^ round, left);
        }
        left << 12 | right
    }

    /// A fresh index; `None` if all are in use.
    pub fn allocate(&mut self, target: Target) -> Option<u32> {
        let slot = if self.free.len() > RESTING || self.slots.len() == MAX_INDICES {
            self.free.pop_front()?
        } else {
            self.slots.push(None);
            (self.slots.len() - 1) as u16
        };
        let word = u32::from(slot) << 8 | self.draws.u32() & 0xff;
        let index = u32::from(self.shard) << 24 | self.mix(word);
        self.slots[usize::from(slot)] = Some((index, target));
        Some(index)
    }

    fn slot(&self, index: u32) -> usize {
        (self.unmix(index & 0x00ff_ffff) >> 8) as usize
    }

    /// What `index` leads to, if it is in use.
    pub fn get(&self, index: u32) -> Option<Target> {
        match self.slots.get(self.slot(index)) {
            Some(Some((exact, target))) if *exact == index => Some(*target),
            _ => None,
        }
    }

    /// Lets an index lead elsewhere.
    pub fn retarget(&mut self, index: u32, target: Target) {
        let at = self.slot(index);
        if let Some(Some((exact, old))) = self.slots.get_mut(at)
            && *exact == index
        {
            *old = target;
        }
    }

    /// Takes an index back.
    pub fn release(&mut self, index: u32) {
        let at = self.slot(index);
        if let Some(entry) = self.slots.get_mut(at)
            && entry.is_some_and(|(exact, _)| exact == index)
        {
            *entry = None;
            self.free.push_back(at as u16);
        }
    }

    /// Indices in use.
    #[cfg(test)]
    pub fn in_use(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Bytes this table may come to hold.
    pub const fn ceiling() -> u64 {
        (MAX_INDICES * (core::mem::size_of::<Option<(u32, Target)>>() + 2)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn indices_resolve_until_released_and_never_collide() {
        let mut table = Indices::new(3, Entropy::new(&[1; 32], "indices"));
        let mut live = BTreeMap::new();
        for n in 0..2_000u32 {
            let index = table.allocate(Target::Session(n)).unwrap();
            assert_eq!(index >> 24, 3);
            assert!(live.insert(index, n).is_none());
            if n % 3 == 0 {
                let (gone, _) = live.pop_first().unwrap();
                table.release(gone);
                assert_eq!(table.get(gone), None);
                table.release(gone);
            }
        }
        assert_eq!(table.in_use(), live.len());
        for (index, n) in live {
            assert_eq!(table.get(index), Some(Target::Session(n)));
            assert_eq!(table.get(index ^ 1 << 24), None);
        }
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = Indices::new(0, Entropy::new(&[1; 32], "indices"));
        for _ in 0..MAX_INDICES {
            assert!(table.allocate(Target::Dial).is_some());
        }
        assert_eq!(table.allocate(Target::Dial), None);
    }

    #[test]
    fn datagrams_are_steered_by_the_index_in_them() {
        let with = |kind: u8, before: usize, index: u32, after: usize| {
            let mut datagram = alloc::vec![0xee; before];
            datagram[0] = kind;
            datagram.extend_from_slice(&index.to_le_bytes());
            datagram.resize(datagram.len() + after, 0xee);
            datagram
        };
        for shard in [0, 1, 7, 255] {
            let index = u32::from(shard) << 24 | 0x00ab_cdef;
            // docs/protocol: data packets, message 2, cookie reply.
            for datagram in [with(5, 1, index, 24), with(2, 6, index, 80), with(3, 2, index, 56)] {
                assert_eq!(steer(&datagram), Steer::Shard(shard));
                // Every shorter one has an answer too.
                (0..datagram.len()).for_each(|len| _ = steer(&datagram[..len]));
            }
        }
        assert_eq!(steer(&with(1, 2, 5 << 24, 506)), Steer::Address, "the index in it is the sender's");
        assert_eq!(steer(&with(4, 4, 5 << 24, 28)), Steer::Every);
        for noise in [&[][..], &[0], &[9; 40], &[5, 1, 2, 3], &[2; 9], &[3; 5]] {
            assert_eq!(steer(noise), Steer::Address, "{noise:?}");
        }
    }

    #[test]
    fn mixing_is_a_permutation() {
        let table = Indices::new(0, Entropy::new(&[9; 32], "indices"));
        for word in (0..1 << 24).step_by(977) {
            assert_eq!(table.unmix(table.mix(word)), word);
        }
    }
}
