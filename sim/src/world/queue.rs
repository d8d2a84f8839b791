//! What is due when, and where it is kept until then.
//!
//! A wheel of buckets of a millisecond, each sorted when its time comes; what is further away than a
//! turn of the wheel waits in a heap. Order is by time, then place, then a number that the place or the
//! sender gave: it depends on nothing but what these two did.
//!
//! In a **window** the same entries come node by node instead: everything that one node has to do
//! before the window's end, then the next node. The world opens one only where no node can learn within
//! it what another does in it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Nanoseconds of a bucket, as a power of two.
const BITS: u32 = 20;
const BUCKETS: u64 = 1_024;

/// What is to be done, at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The packet in this slot goes on, or is there.
    Packet(u32),
    /// The node's timer.
    Wake,
    /// The job in this slot is done.
    Job(u32),
    /// The application of this life starts.
    Start(u32),
    /// The application's timer.
    AppTimer,
    /// Tasks run.
    Tasks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub at: u64,
    pub place: u32,
    /// Orders what happens at one place at one instant.
    pub tie: u64,
    pub kind: Kind,
}

impl Entry {
    const fn bucket(&self) -> u64 {
        self.at >> BITS
    }
}

fn earlier(a: Option<Entry>, b: Option<Entry>) -> Option<Entry> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if (a.at, a.place, a.tie) <= (b.at, b.place, b.tie) { a } else { b }),
        (a, b) => a.or(b),
    }
}

pub(super) struct Queue {
    /// The bucket that `due` comes from.
    now: u64,
    /// Its entries, the earliest last.
    due: Vec<Entry>,
    /// What was added to it since.
    fresh: BinaryHeap<Reverse<Entry>>,
    /// The buckets after it,
    wheel: Vec<Vec<Entry>>,
    /// and which of them have entries, a bit each.
    filled: [u64; BUCKETS as usize / 64],
    far: BinaryHeap<Reverse<Entry>>,
    window: Option<Window>,
    /// Memory for the next window.
    spare: Vec<Entry>,
}

struct Window {
    /// Entries by node, in reverse.
    entries: Vec<Entry>,
    end: u64,
    /// Whose turn it is.
    place: u32,
    /// What was added for it.
    fresh: BinaryHeap<Reverse<Entry>>,
}

impl Queue {
    pub fn new() -> Self {
        Self {
            now: 0,
            due: Vec::new(),
            fresh: BinaryHeap::new(),
            wheel: (0..BUCKETS).map(|_| Vec::new()).collect(),
            filled: [0; BUCKETS as usize / 64],
            far: BinaryHeap::new(),
            window: None,
            spare: Vec::new(),
        }
    }

    /// Adds an entry. False: it belongs to another node and into the open window, so the window is no
    /// window.
    #[must_use]
    pub fn push(&mut self, entry: Entry) -> bool {
        if let Some(window) = &mut self.window
            && entry.at < window.end
        {
            window.fresh.push(Reverse(entry));
            return entry.place == window.place;
        }
        let bucket = entry.bucket();
        if bucket <= self.now {
            self.fresh.push(Reverse(entry));
        } else if bucket < self.now + BUCKETS {
            let slot = bucket % BUCKETS;
            self.wheel[slot as usize].push(entry);
            self.filled[slot as usize / 64] |= 1 << (slot % 64);
        } else {
            self.far.push(Reverse(entry));
        }
        true
    }

    /// The first bucket of the wheel that has entries.
    fn next_filled(&self) -> Option<u64> {
        let first = (self.now + 1) % BUCKETS;
        let words = self.filled.len() as u64;
        (0..=words).find_map(|i| {
            let word = (first / 64 + i) % words;
            let mut bits = self.filled[word as usize];
            // The word of the first slot comes twice: its upper part first, its lower part last.
            if i == 0 {
                bits &= u64::MAX << (first % 64);
            } else if i == words {
                bits &= !(u64::MAX << (first % 64));
            }
            let slot = (bits != 0).then(|| word * 64 + u64::from(bits.trailing_zeros()))?;
            Some(self.now + 1 + (slot + BUCKETS - first) % BUCKETS)
        })
    }

    /// Goes to the next bucket that has entries, if the present one has none.
    fn advance(&mut self) {
        if self.turn() {
            self.due.sort_unstable_by(|a, b| b.cmp(a));
        }
    }

    /// The same, and leaves the entries in no order.
    fn turn(&mut self) -> bool {
        if !self.due.is_empty() || !self.fresh.is_empty() {
            return false;
        }
        let near = self.next_filled();
        let far = self.far.peek().map(|Reverse(entry)| entry.bucket());
        let Some(next) = [near, far].into_iter().flatten().min() else { return false };
        self.now = next;
        if near == Some(next) {
            let slot = next % BUCKETS;
            self.filled[slot as usize / 64] &= !(1 << (slot % 64));
            std::mem::swap(&mut self.due, &mut self.wheel[slot as usize]);
        }
        while let Some(Reverse(entry)) = self.far.peek()
            && entry.bucket() == next
        {
            self.due.push(*entry);
            self.far.pop();
        }
        true
    }

    /// The next entry; in a window, of the node whose turn it is.
    pub fn peek(&mut self) -> Option<Entry> {
        if let Some(window) = &self.window {
            return window.peek();
        }
        self.advance();
        let fresh = self.fresh.peek().map(|Reverse(entry)| *entry);
        earlier(self.due.last().copied(), fresh)
    }

    /// Takes the next entry; `None` in a window: it is over.
    pub fn pop(&mut self) -> Option<Entry> {
        if let Some(window) = &mut self.window {
            let entry = window.pop();
            if entry.is_none() {
                self.close();
            }
            return entry;
        }
        let entry = self.peek()?;
        if self.due.last() == Some(&entry) {
            self.due.pop();
        } else {
            self.fresh.pop();
        }
        Some(entry)
    }

    /// Opens a window over everything before `end`.
    pub fn open(&mut self, end: u64) {
        let mut entries = std::mem::take(&mut self.spare);
        loop {
            let turned = self.turn();
            if self.due.is_empty() && self.fresh.is_empty() {
                break;
            }
            // All of it: sorted with the rest below.
            if (self.now + 1) << BITS <= end {
                entries.append(&mut self.due);
                entries.extend(self.fresh.drain().map(|Reverse(entry)| entry));
                continue;
            }
            // The bucket may lie behind the end, and still have been given something before it.
            if turned {
                self.due.sort_unstable_by(|a, b| b.cmp(a));
            }
            let from = self.due.partition_point(|entry| entry.at >= end);
            entries.extend(self.due.drain(from..));
            while let Some(Reverse(entry)) = self.fresh.peek()
                && entry.at < end
            {
                entries.push(*entry);
                self.fresh.pop();
            }
            break;
        }
        entries.sort_unstable_by_key(|entry| Reverse((entry.place, entry.at, entry.tie)));
        let place = entries.last().map_or(0, |entry| entry.place);
        self.window = Some(Window { entries, end, place, fresh: BinaryHeap::new() });
    }

    /// In a window: what the next `nodes` nodes have to do, the present one included if it is not done.
    pub fn coming(&self, nodes: usize) -> impl Iterator<Item = &Entry> {
        let entries = self.window.as_ref().map_or(&[][..], |w| &w.entries);
        let (mut seen, mut last) = (0, None);
        entries.iter().rev().take_while(move |entry| {
            seen += usize::from(last.replace(entry.place) != Some(entry.place));
            seen <= nodes
        })
    }

    /// Ends a window; what is left in it is due as before.
    pub fn close(&mut self) {
        let Some(Window { mut entries, fresh, .. }) = self.window.take() else { return };
        for entry in entries.drain(..).chain(fresh.into_iter().map(|Reverse(entry)| entry)) {
            let _ = self.push(entry);
        }
        self.spare = entries;
    }
}

impl Window {
    fn peek(&self) -> Option<Entry> {
        let fresh = self.fresh.peek().map(|Reverse(entry)| *entry);
        let due = self.entries.last().copied();
        let mine = due.filter(|entry| entry.place == self.place);
        earlier(mine, fresh)
    }

    fn pop(&mut self) -> Option<Entry> {
        if self.peek().is_none() {
            // The next node's turn.
            self.place = self.entries.last()?.place;
        }
        let entry = self.peek()?;
        if self.entries.last() == Some(&entry) {
            self.entries.pop();
        } else {
            self.fresh.pop();
        }
        Some(entry)
    }
}

/// Things with small numbers that are reused.
pub(super) struct Slab<T> {
    items: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub const fn new() -> Self {
        Self { items: Vec::new(), free: Vec::new() }
    }

    pub fn put(&mut self, item: T) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.items[slot as usize] = Some(item);
            return slot;
        }
        self.items.push(Some(item));
        (self.items.len() - 1) as u32
    }

    pub fn take(&mut self, slot: u32) -> T {
        self.free.push(slot);
        self.items[slot as usize].take().expect("every event names a slot that it filled")
    }

    pub fn get(&self, slot: u32) -> Option<&T> {
        self.items[slot as usize].as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyed::{Domain, Rng};

    fn entry(rng: &mut Rng, now: u64, n: u64) -> Entry {
        // From the same instant to many turns of the wheel ahead.
        let bits = rng.below(36);
        let ahead = rng.below(1 << bits);
        Entry { at: now + ahead, place: rng.below(5) as u32, tie: n, kind: Kind::Wake }
    }

    #[test]
    fn everything_comes_out_in_order() {
        let (mut queue, mut rng) = (Queue::new(), Rng::new(1, Domain::Sample, 1));
        let mut model = std::collections::BTreeSet::new();
        let mut now = 0;
        for n in 0..100_000 {
            if rng.chance(480_000) {
                let entry = entry(&mut rng, now, n);
                assert!(queue.push(entry));
                model.insert(entry);
            } else {
                let popped = queue.pop();
                assert_eq!(popped, model.pop_first(), "{n}");
                now = popped.map_or(now, |entry| entry.at);
            }
            assert_eq!(queue.peek(), model.first().copied());
        }
    }

    #[test]
    fn a_window_hands_out_the_same_entries_node_by_node() {
        let (mut queue, mut rng) = (Queue::new(), Rng::new(2, Domain::Sample, 2));
        let mut model = std::collections::BTreeSet::new();
        let mut now = 0;
        for n in 0..2_000 {
            for i in 0..20 {
                let entry = entry(&mut rng, now, n * 100 + i);
                assert!(queue.push(entry));
                model.insert(entry);
            }
            let end = now + 1 + rng.below(30_000_000);
            queue.open(end);
            let mut out = Vec::new();
            while let Some(entry) = queue.pop() {
                out.push((entry.place, entry.at, entry.tie));
                assert!(entry.at < end && model.remove(&entry), "{n}");
                // A node may have more to do itself.
                if rng.chance(200_000) {
                    let more = Entry { at: entry.at + rng.below(40_000_000), tie: entry.tie + 50, ..entry };
                    assert!(queue.push(more));
                    model.insert(more);
                }
            }
            assert!(out.is_sorted(), "{n}: {out:?}");
            assert!(model.first().is_none_or(|entry| entry.at >= end));
            now = end;
        }
    }

    #[test]
    fn what_comes_too_early_for_another_node_is_told_and_kept() {
        let mut queue = Queue::new();
        let at = |at, place| Entry { at, place, tie: 0, kind: Kind::Wake };
        assert!(queue.push(at(10, 1)) && queue.push(at(20, 2)));
        queue.open(100);
        assert_eq!(queue.pop(), Some(at(10, 1)));
        assert!(!queue.push(at(50, 2)));
        queue.close();
        assert_eq!([queue.pop(), queue.pop(), queue.pop()], [Some(at(20, 2)), Some(at(50, 2)), None]);
    }
}
