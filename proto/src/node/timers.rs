//! One deadline per session in a lazy heap: a later deadline costs nothing, only an earlier one
//! touches the heap. An entry that turns out to be early wakes its session once and is replaced.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::time::{Instant, Reason};

/// The deadlines of all sessions of a node.
#[derive(Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(Instant, u32, Reason)>>,
    /// The earliest heap entry of each slot.
    armed: Vec<Option<Instant>>,
}

impl Timers {
    /// Notes when `slot` wants to be called.
    pub fn set(&mut self, slot: u32, at: Option<(Instant, Reason)>) {
        let Some((at, reason)) = at else { return };
        let i = slot as usize;
        if self.armed.len() <= i {
            self.armed.resize(i + 1, None);
        }
        if self.armed[i].is_none_or(|armed| at < armed) {
            self.armed[i] = Some(at);
            self.heap.push(Reverse((at, slot, reason)));
        }
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<(Instant, Reason)> {
        self.heap.peek().map(|Reverse((at, _, reason))| (*at, *reason))
    }

    /// Takes a slot whose deadline has come. Entries that an earlier one overtook are skipped.
    pub fn pop_due(&mut self, now: Instant) -> Option<u32> {
        while let Some(Reverse((at, slot, _))) = self.heap.peek().copied() {
            if at > now {
                return None;
            }
            self.heap.pop();
            let armed = &mut self.armed[slot as usize];
            if *armed == Some(at) {
                *armed = None;
                return Some(slot);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn no_deadline_is_missed(ops in proptest::collection::vec((0u32..8, 1u64..50), 1..200)) {
            let mut timers = Timers::default();
            let mut wanted: BTreeMap<u32, Instant> = BTreeMap::new();
            let mut now = Instant::ZERO;
            for (slot, step) in ops {
                if slot < 5 {
                    let at = Instant::from_nanos(now.as_nanos() + step);
                    wanted.insert(slot, at);
                    timers.set(slot, Some((at, Reason::Ack)));
                } else {
                    now = Instant::from_nanos(now.as_nanos() + step);
                    while let Some(slot) = timers.pop_due(now) {
                        match wanted.get(&slot) {
                            Some(at) if *at <= now => { wanted.remove(&slot); }
                            at => timers.set(slot, at.map(|at| (*at, Reason::Ack))),
                        }
                    }
                    prop_assert!(wanted.values().all(|at| *at > now));
                    prop_assert!(wanted.is_empty() || timers.next().unwrap().0 <= *wanted.values().min().unwrap());
                }
            }
        }
    }
}
