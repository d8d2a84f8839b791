//! Deadlines of many children in one heap: what a core with thousands of sessions asks "who is next".
//!
//! Lazy: a deadline that moves later, as most do with every acknowledgement, costs one store. Only an
//! earlier one touches the heap. An entry that proves too early is moved when it reaches the top.

use crate::time::{Instant, Reason};
use alloc::vec::Vec;

const OUT: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Child {
    want: Option<(Instant, Reason)>,
    /// Index in the heap, or [`OUT`].
    at: u32,
}

/// A binary heap of (time, child). A child is a small number, as a slab gives out; memory grows with
/// the largest one seen and is kept. Children due at the same instant come in ascending order.
#[derive(Clone, Debug, Default)]
pub struct TimerHeap {
    /// Each time is at or before what its child wants.
    heap: Vec<(Instant, u32)>,
    children: Vec<Child>,
}

impl TimerHeap {
    /// Empty.
    pub const fn new() -> Self {
        Self { heap: Vec::new(), children: Vec::new() }
    }

    /// Replaces the deadline of a child; `None` clears it. Constant time unless it moves earlier.
    /// `u32::MAX` is no child and is ignored.
    pub fn set(&mut self, child: u32, want: Option<(Instant, Reason)>) {
        if child == OUT {
            return;
        }
        let index = child as usize;
        if index >= self.children.len() {
            if want.is_none() {
                return;
            }
            self.children.resize(index + 1, Child { want: None, at: OUT });
        }
        let Some(state) = self.children.get_mut(index) else { return };
        state.want = want;
        let Some((time, _)) = want else { return };
        if state.at == OUT {
            state.at = self.heap.len() as u32;
            self.heap.push((time, child));
            self.up(self.heap.len() - 1);
        } else {
            let at = state.at as usize;
            if self.heap.get(at).is_some_and(|e| time < e.0) {
                self.heap[at].0 = time;
                self.up(at);
            }
        }
    }

    /// The deadline of a child.
    pub fn get(&self, child: u32) -> Option<(Instant, Reason)> {
        self.children.get(child as usize)?.want
    }

    /// Makes [`Self::next`] exact. Call once before going to sleep, not after every `set`.
    pub fn settle(&mut self) {
        while let Some(&(time, child)) = self.heap.first() {
            match self.get(child) {
                Some((want, _)) if want > time => {
                    self.heap[0].0 = want;
                    self.down(0);
                }
                Some(_) => return,
                None => self.remove_top(),
            }
        }
    }

    /// The earliest deadline. Never later than the true one, and exact after [`Self::settle`].
    #[must_use]
    pub fn next(&self) -> Option<(Instant, Reason)> {
        let &(time, child) = self.heap.first()?;
        Some((time, self.get(child).map_or(Reason::Expiry, |(_, reason)| reason)))
    }

    /// Reads a word, to have it fetched.
    pub fn warm(&self) -> u64 {
        self.heap.len() as u64 ^ self.children.len() as u64
    }

    /// The children that are due by `end`, in no particular order.
    pub fn due_by(&self, end: Instant) -> impl Iterator<Item = u32> {
        let early = self.heap.iter().filter(move |(at, _)| *at <= end).map(|(_, child)| *child);
        early.filter(move |child| self.get(*child).is_some_and(|(at, _)| at <= end))
    }

    /// Takes the next child whose deadline is at or before `now`, and clears that deadline. In order of
    /// time, then of child.
    pub fn pop_due(&mut self, now: Instant) -> Option<u32> {
        self.settle();
        let &(time, child) = self.heap.first()?;
        if time > now {
            return None;
        }
        self.remove_top();
        if let Some(state) = self.children.get_mut(child as usize) {
            state.want = None;
        }
        Some(child)
    }

    fn remove_top(&mut self) {
        let (_, child) = self.heap.swap_remove(0);
        if let Some(state) = self.children.get_mut(child as usize) {
            state.at = OUT;
        }
        if !self.heap.is_empty() {
            self.down(0);
        }
    }

    fn place(&mut self, at: usize) {
        let child = self.heap[at].1;
        if let Some(state) = self.children.get_mut(child as usize) {
            state.at = at as u32;
        }
    }

    fn up(&mut self, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.heap[parent] <= self.heap[at] {
                break;
            }
            self.heap.swap(parent, at);
            self.place(at);
            at = parent;
        }
        self.place(at);
    }

    fn down(&mut self, mut at: usize) {
        loop {
            let left = 2 * at + 1;
            let Some(&first) = self.heap.get(left) else { break };
            let child = match self.heap.get(left + 1) {
                Some(second) if *second < first => left + 1,
                _ => left,
            };
            if self.heap[at] <= self.heap[child] {
                break;
            }
            self.heap.swap(at, child);
            self.place(at);
            at = child;
        }
        self.place(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_later_deadline_leaves_the_heap_alone() {
        let mut t = TimerHeap::new();
        let at = |n| Some((Instant::from_nanos(n), Reason::Loss));
        t.set(3, at(10));
        t.set(1, at(20));
        let before = t.heap.clone();
        t.set(3, at(50));
        assert_eq!(t.heap, before);
        assert_eq!(t.next(), at(10), "early is allowed, late is not");
        t.settle();
        assert_eq!(t.next(), at(20));
        assert_eq!(t.pop_due(Instant::from_nanos(60)), Some(1));
        assert_eq!(t.pop_due(Instant::from_nanos(49)), None);
        assert_eq!(t.pop_due(Instant::from_nanos(50)), Some(3));
        assert_eq!(t.next(), None);
        t.set(u32::MAX, at(1));
        assert_eq!(t.next(), None);
    }

    proptest! {
        #[test]
        fn the_heap_equals_a_sorted_set(ops in proptest::collection::vec(
            (0u32..12, 0u64..40, 0u8..6), 0..200)) {
            let mut t = TimerHeap::new();
            let mut model: BTreeSet<(Instant, u32)> = BTreeSet::new();
            for (child, time, kind) in ops {
                let time = Instant::from_nanos(time);
                match kind {
                    0 => {
                        while let Some(got) = t.pop_due(time) {
                            let first = model.pop_first();
                            prop_assert!(first.is_some_and(|(at, c)| at <= time && c == got));
                        }
                        prop_assert!(model.first().is_none_or(|(at, _)| *at > time));
                    }
                    1 => { t.set(child, None); model.retain(|(_, c)| *c != child); }
                    _ => {
                        t.set(child, Some((time, Reason::Loss)));
                        model.retain(|(_, c)| *c != child);
                        model.insert((time, child));
                    }
                }
                let first = model.first().map(|(at, _)| *at);
                let early = t.next().map(|(at, _)| at);
                let soon: BTreeSet<u32> = t.due_by(time).collect();
                prop_assert!(model.iter().all(|(at, c)| *at > time || soon.contains(c)));
                prop_assert!(first.is_none() || early.is_some_and(|e| Some(e) <= first));
                if kind % 2 == 0 { t.settle(); prop_assert_eq!(t.next().map(|(at, _)| at), first); }
                prop_assert!(t.heap.len() <= 12);
            }
        }
    }
}
