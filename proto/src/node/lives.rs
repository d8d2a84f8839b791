//! How often associations with a peer have been forgotten, so that "the same association" is never
//! a guess (`docs/protocol/session.md`).

use crate::bounded::Map;
use crate::identity::{EntityId, Incarnation};

struct Record {
    incarnation: Incarnation,
    life: u64,
    used: u64,
}

/// The records of ended associations. Bounded; the least recently used goes first, and a floor
/// remembers the highest life among those that went.
pub struct Lives {
    records: Map<EntityId, Record>,
    floor: u64,
    clock: u64,
}

impl Lives {
    /// Remembers `limit` peers.
    pub const fn new(limit: usize) -> Self {
        Self { records: Map::new(limit), floor: 0, clock: 0 }
    }

    /// Bytes that `limit` records take at most.
    pub const fn ceiling(limit: usize) -> u64 {
        // Nodes of a tree are at least half full.
        (limit * 2 * (size_of::<EntityId>() + size_of::<Record>())) as u64
    }

    /// The lowest life that a new association with this incarnation of `peer` may have.
    /// `incarnation` is `None` while it is not known, as for a first dial.
    pub fn of(&self, peer: &EntityId, incarnation: Option<Incarnation>) -> u64 {
        match self.records.get(peer) {
            Some(r) if incarnation.is_none_or(|i| i == r.incarnation) => r.life,
            _ => self.floor,
        }
    }

    /// An association with the given life ended.
    pub fn ended(&mut self, peer: EntityId, incarnation: Incarnation, life: u64) {
        self.clock += 1;
        if self.records.is_full() && !self.records.contains(&peer) {
            let oldest = self.records.iter().min_by_key(|(_, r)| r.used).map(|(id, _)| *id);
            if let Some(gone) = oldest.and_then(|id| self.records.remove(&id)) {
                self.floor = self.floor.max(gone.life);
            }
        }
        let record = Record { incarnation, life: life + 1, used: self.clock };
        // Room was made above.
        let _ = self.records.insert(peer, record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forgotten_record_raises_the_floor() {
        let (a, b) = (EntityId([1; 32]), EntityId([2; 32]));
        let inc = Incarnation { epoch: 1, random: 1 };
        let mut lives = Lives::new(1);
        lives.ended(a, inc, 6);
        assert_eq!(lives.of(&a, Some(inc)), 7);
        assert_eq!(lives.of(&a, Some(Incarnation { epoch: 2, random: 1 })), 0);
        assert_eq!(lives.of(&b, None), 0);
        lives.ended(b, inc, 0);
        assert_eq!(lives.of(&a, Some(inc)), 7, "the floor remembers");
        assert_eq!(lives.of(&b, Some(inc)), 1);
    }
}
