//! The last confirmed handshake of each entity: what makes a replayed first message worthless.

use crate::identity::EntityId;
use alloc::collections::BTreeMap;

/// Remembers (boot epoch, handshake number) per entity. Full: the entity confirmed longest ago is
/// forgotten. A replay of a forgotten one costs a half-open handshake for five seconds, no more:
/// whoever replays cannot make the first packet.
pub struct Confirmed {
    last: BTreeMap<EntityId, (u64, u64, u64)>,
    order: BTreeMap<u64, EntityId>,
    stamp: u64,
    limit: usize,
}

impl Confirmed {
    /// Remembers at most `limit` entities, and at least one.
    pub fn new(limit: usize) -> Self {
        Self { last: BTreeMap::new(), order: BTreeMap::new(), stamp: 0, limit: limit.max(1) }
    }

    /// Whether a handshake is above the last confirmed one.
    pub fn is_new(&self, entity: &EntityId, epoch: u64, number: u64) -> bool {
        self.last.get(entity).is_none_or(|(e, n, _)| (epoch, number) > (*e, *n))
    }

    /// Records a confirmed handshake; an older one than recorded only counts as use.
    pub fn record(&mut self, entity: EntityId, epoch: u64, number: u64) {
        let mut top = (epoch, number);
        if let Some((e, n, stamp)) = self.last.remove(&entity) {
            self.order.remove(&stamp);
            top = top.max((e, n));
        } else if self.last.len() >= self.limit
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.last.remove(&oldest);
        }
        self.stamp += 1;
        self.last.insert(entity, (top.0, top.1, self.stamp));
        self.order.insert(self.stamp, entity);
    }

    /// How many it remembers at most.
    pub const fn limit(&self) -> usize {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_is_forgotten_and_numbers_only_rise() {
        let mut c = Confirmed::new(2);
        let [a, b, d] = [1, 2, 3].map(|n| EntityId([n; 32]));
        c.record(a, 5, 5);
        c.record(a, 5, 3);
        assert!(!c.is_new(&a, 5, 5) && !c.is_new(&a, 4, 99) && c.is_new(&a, 5, 6) && c.is_new(&a, 6, 0));
        c.record(b, 1, 1);
        c.record(a, 1, 1);
        c.record(d, 1, 1);
        assert!(c.is_new(&b, 0, 0), "b was confirmed longest ago");
        assert!(!c.is_new(&a, 5, 5));
    }
}
