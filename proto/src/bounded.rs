//! Containers that cannot grow without limit, each with a named rule for what happens when full.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::ops::Range;

/// A queue that refuses the newest element when full.
#[derive(Clone, Debug)]
pub struct Queue<T> {
    items: VecDeque<T>,
    limit: usize,
}

impl<T> Queue<T> {
    /// Holds at most `limit` elements; allocates as it grows.
    pub const fn new(limit: usize) -> Self {
        Self { items: VecDeque::new(), limit }
    }

    /// Appends, or gives the element back if the queue is full.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.items.len() >= self.limit {
            return Err(item);
        }
        self.items.push_back(item);
        Ok(())
    }

    /// Takes the oldest element.
    pub fn pop(&mut self) -> Option<T> {
        self.items.pop_front()
    }

    /// The oldest element.
    pub fn front(&self) -> Option<&T> {
        self.items.front()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The limit.
    pub const fn limit(&self) -> usize {
        self.limit
    }
}

/// An ordered map that refuses new keys when full; existing keys may always be replaced.
#[derive(Clone, Debug)]
pub struct Map<K, V> {
    items: BTreeMap<K, V>,
    limit: usize,
}

impl<K: Ord, V> Map<K, V> {
    /// Holds at most `limit` keys.
    pub const fn new(limit: usize) -> Self {
        Self { items: BTreeMap::new(), limit }
    }

    /// Inserts or replaces; a new key in a full map comes back as `Err`.
    pub fn insert(&mut self, key: K, value: V) -> Result<Option<V>, (K, V)> {
        if self.items.len() >= self.limit && !self.items.contains_key(&key) {
            return Err((key, value));
        }
        Ok(self.items.insert(key, value))
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.items.get(key)
    }

    /// The value of a key, to change.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.items.get_mut(key)
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.items.remove(key)
    }

    /// Whether a key is there.
    pub fn contains(&self, key: &K) -> bool {
        self.items.contains_key(key)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether a new key would be refused.
    pub fn is_full(&self) -> bool {
        self.items.len() >= self.limit
    }

    /// Keys and values in key order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.items.iter()
    }

    /// Keys and values in key order, values to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.items.iter_mut()
    }

    /// Keeps the entries for which `keep` says yes.
    pub fn retain(&mut self, keep: impl FnMut(&K, &mut V) -> bool) {
        self.items.retain(keep);
    }
}

/// Whether a [`RangeSet`] took a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// All of it was new.
    New,
    /// Some of it was new.
    Part,
    /// All of it was there.
    Known,
    /// It would have made more ranges than allowed; nothing changed.
    Full,
}

/// A set of `u64` kept as sorted, disjoint, non-adjacent ranges; refuses what would make more than
/// its limit of ranges. Keeps its memory: no allocation once the largest number of ranges was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeSet {
    ranges: Vec<Range<u64>>,
    limit: usize,
}

impl RangeSet {
    /// At most `limit` separate ranges.
    pub const fn new(limit: usize) -> Self {
        Self { ranges: Vec::new(), limit }
    }

    /// Adds `range`. An empty range is [`Inserted::Known`].
    pub fn insert(&mut self, range: Range<u64>) -> Inserted {
        if range.is_empty() {
            return Inserted::Known;
        }
        // The common case first: right at or behind the end.
        if let Some(last) = self.ranges.last_mut()
            && range.start == last.end
        {
            last.end = range.end;
            return Inserted::New;
        }
        // First range that touches or lies behind the new one.
        let from = self.ranges.partition_point(|r| r.end < range.start);
        let to = self.ranges.partition_point(|r| r.start <= range.end);
        if from == to {
            if self.ranges.len() >= self.limit {
                return Inserted::Full;
            }
            self.ranges.insert(from, range);
            return Inserted::New;
        }
        let covered: u64 = self.ranges[from..to]
            .iter()
            .map(|r| r.end.min(range.end).saturating_sub(r.start.max(range.start)))
            .sum();
        let len = range.end - range.start;
        if covered == len {
            return Inserted::Known;
        }
        let merged = self.ranges[from].start.min(range.start)..self.ranges[to - 1].end.max(range.end);
        self.ranges[from] = merged;
        self.ranges.drain(from + 1..to);
        if covered == 0 { Inserted::New } else { Inserted::Part }
    }

    /// Whether `insert` would answer [`Inserted::Full`].
    pub fn would_overflow(&self, range: &Range<u64>) -> bool {
        if range.is_empty() || self.ranges.len() < self.limit {
            return false;
        }
        let from = self.ranges.partition_point(|r| r.end < range.start);
        let to = self.ranges.partition_point(|r| r.start <= range.end);
        from == to
    }

    /// Whether `value` is in the set.
    pub fn contains(&self, value: u64) -> bool {
        let at = self.ranges.partition_point(|r| r.end <= value);
        self.ranges.get(at).is_some_and(|r| r.start <= value)
    }

    /// Whether all of `range` is in the set.
    pub fn covers(&self, range: &Range<u64>) -> bool {
        if range.is_empty() {
            return true;
        }
        let at = self.ranges.partition_point(|r| r.end <= range.start);
        self.ranges.get(at).is_some_and(|r| r.start <= range.start && r.end >= range.end)
    }

    /// Removes everything below `floor`.
    pub fn remove_below(&mut self, floor: u64) {
        let gone = self.ranges.partition_point(|r| r.end <= floor);
        self.ranges.drain(..gone);
        if let Some(first) = self.ranges.first_mut() {
            first.start = first.start.max(floor);
        }
    }

    /// Removes `range`; what this splits may exceed the limit by one.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut at = self.ranges.partition_point(|r| r.end <= range.start);
        while at < self.ranges.len() && self.ranges[at].start < range.end {
            let r = self.ranges[at].clone();
            match (r.start < range.start, r.end > range.end) {
                (true, true) => {
                    self.ranges[at].end = range.start;
                    self.ranges.insert(at + 1, range.end..r.end);
                    return;
                }
                (true, false) => {
                    self.ranges[at].end = range.start;
                    at += 1;
                }
                (false, true) => {
                    self.ranges[at].start = range.end;
                    return;
                }
                (false, false) => {
                    self.ranges.remove(at);
                }
            }
        }
    }

    /// Takes the lowest range out.
    pub fn pop_first(&mut self) -> Option<Range<u64>> {
        (!self.ranges.is_empty()).then(|| self.ranges.remove(0))
    }

    /// The ranges in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + ExactSizeIterator + '_ {
        self.ranges.iter().cloned()
    }

    /// Number of ranges.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The lowest range.
    pub fn first(&self) -> Option<Range<u64>> {
        self.ranges.first().cloned()
    }

    /// The highest member.
    pub fn max(&self) -> Option<u64> {
        self.ranges.last().map(|r| r.end - 1)
    }

    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.ranges.clear();
    }

    /// Gives memory back, but for what a few ranges need.
    pub fn shrink(&mut self) {
        self.ranges.shrink_to(4);
    }

    /// Bytes on the heap now.
    pub fn footprint(&self) -> u64 {
        (self.ranges.capacity() * size_of::<Range<u64>>()) as u64
    }
}

/// A list of at most `N` that refuses more, for what is rarely there: empty, it holds no memory.
#[derive(Clone, Debug)]
pub struct Few<T, const N: usize>(Vec<T>);

impl<T, const N: usize> Default for Few<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, const N: usize> Few<T, N> {
    /// Empty.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Appends, or gives the element back if the list is full.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.is_full() {
            return Err(item);
        }
        self.0.reserve_exact(1);
        self.0.push(item);
        Ok(())
    }

    /// Whether [`Self::push`] would refuse.
    pub const fn is_full(&self) -> bool {
        self.0.len() >= N
    }

    /// Keeps what `keep` says yes to.
    pub fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        self.0.retain(keep);
        self.0.shrink_to_fit();
    }

    /// Bytes on the heap now.
    pub const fn footprint(&self) -> u64 {
        (self.0.capacity() * size_of::<T>()) as u64
    }
}

impl<T, const N: usize> core::ops::Deref for Few<T, N> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T, const N: usize> core::ops::DerefMut for Few<T, N> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<'a, T, const N: usize> IntoIterator for &'a Few<T, N> {
    type Item = &'a T;
    type IntoIter = core::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'a, T, const N: usize> IntoIterator for &'a mut Few<T, N> {
    type Item = &'a mut T;
    type IntoIter = core::slice::IterMut<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter_mut()
    }
}

const WINDOW_WORDS: usize = 65;

/// Remembers which of the last 4,096 counters were seen; slides forward without limit, so that no
/// run of losses makes a session deaf (RFC 6479 describes the ring of words).
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// Words that were never written are left out: who got few packets holds few.
    words: Vec<u64>,
    /// One more than the highest counter accepted.
    next: u64,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

impl ReplayWindow {
    /// How far behind the highest counter a packet may be.
    pub const SIZE: u64 = 4096;

    /// Nothing seen yet.
    pub const fn new() -> Self {
        Self { words: Vec::new(), next: 0 }
    }

    /// Bytes on the heap now.
    pub fn footprint(&self) -> u64 {
        (self.words.capacity() * size_of::<u64>()) as u64
    }

    /// Reads the word of the next counter, to have it fetched.
    pub fn warm(&self) -> u64 {
        self.words.get(Self::word(self.next)).copied().unwrap_or(0)
    }

    /// Whether `counter` may still be accepted. Ask before opening, [`Self::commit`] after.
    pub fn check(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter < u64::MAX;
        }
        if self.next - counter > Self::SIZE {
            return false;
        }
        self.words.get(Self::word(counter)).is_none_or(|word| word >> (counter % 64) & 1 == 0)
    }

    /// Marks `counter` as seen. Only for counters that [`Self::check`] allowed and the AEAD opened.
    pub fn commit(&mut self, counter: u64) {
        if counter >= self.next {
            let (old, new) = (self.next.saturating_sub(1) / 64, counter / 64);
            for step in 1..=(new - old).min(WINDOW_WORDS as u64) {
                if let Some(word) = self.words.get_mut(Self::word((old + step) * 64)) {
                    *word = 0;
                }
            }
            self.next = counter.saturating_add(1);
        }
        let at = Self::word(counter);
        if at >= self.words.len() {
            // Grows once, along with the first 4,096 counters.
            self.words.resize(at + 1, 0);
        }
        if let Some(word) = self.words.get_mut(at) {
            *word |= 1 << (counter % 64);
        }
    }

    /// One more than the highest counter seen.
    pub const fn next(&self) -> u64 {
        self.next
    }

    const fn word(counter: u64) -> usize {
        ((counter / 64) % WINDOW_WORDS as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_few_are_bounded_and_give_their_memory_back() {
        let mut few: Few<u32, 2> = Few::new();
        assert_eq!(few.footprint(), 0);
        assert_eq!((few.push(1), few.push(2), few.push(3)), (Ok(()), Ok(()), Err(3)));
        assert_eq!((few.is_full(), few.footprint()), (true, 8));
        few.iter_mut().for_each(|n| *n += 1);
        few.retain(|n| *n == 3);
        assert_eq!((&few[..], few.footprint()), (&[3][..], 4));
        few.retain(|_| false);
        assert_eq!((few.is_full(), few.footprint()), (false, 0));
    }

    #[test]
    fn a_replay_window_of_few_packets_holds_few_words() {
        let mut window = ReplayWindow::new();
        assert_eq!(window.footprint(), 0);
        (0..64).for_each(|counter| window.commit(counter));
        assert!(window.footprint() <= 64, "{}", window.footprint());
        // A jump: nothing in between was seen, everything before is too old.
        window.commit(1 << 40);
        assert!(window.check((1 << 40) - 1) && !window.check(1 << 40) && !window.check(63));
        assert!(window.footprint() <= 2 * 8 * WINDOW_WORDS as u64);
    }

    #[test]
    fn full_containers_give_back_what_they_refuse() {
        let mut q = Queue::new(1);
        assert_eq!(q.push(1), Ok(()));
        assert_eq!(q.push(2), Err(2));
        let mut m = Map::new(1);
        assert_eq!(m.insert(1, 'a'), Ok(None));
        assert_eq!(m.insert(2, 'b'), Err((2, 'b')));
        assert_eq!(m.insert(1, 'c'), Ok(Some('a')));
    }

    #[test]
    fn a_full_range_set_still_takes_what_joins() {
        let mut s = RangeSet::new(2);
        assert_eq!(s.insert(0..1), Inserted::New);
        assert_eq!(s.insert(4..5), Inserted::New);
        assert!(s.would_overflow(&(2..3)));
        assert_eq!(s.insert(2..3), Inserted::Full);
        assert_eq!(s.insert(1..4), Inserted::New);
        assert!(s.iter().eq(core::iter::once(0..5)));
    }

    #[test]
    fn a_jump_of_any_length_leaves_the_window_working() {
        let mut w = ReplayWindow::new();
        for c in [0, 5, 1_000_000, u64::MAX - 1] {
            assert!(w.check(c));
            w.commit(c);
            assert!(!w.check(c));
            assert!(c == 0 || w.check(c - 1));
        }
        assert!(!w.check(u64::MAX));
        assert!(!w.check(5));
    }

    proptest! {
        #[test]
        fn range_set_equals_a_plain_set(ops in proptest::collection::vec((0u64..60, 0u64..12, 0u8..4), 0..60)) {
            let mut set = RangeSet::new(8);
            let mut model = BTreeSet::new();
            for (start, len, kind) in ops {
                let range = start..start + len;
                match kind {
                    0 => { set.remove(range.clone()); for v in range { model.remove(&v); } }
                    1 => { set.remove_below(start / 4); model.retain(|v| *v >= start / 4); }
                    _ => {
                        let before = range.clone().filter(|v| model.contains(v)).count() as u64;
                        let over = set.would_overflow(&range);
                        match set.insert(range.clone()) {
                            Inserted::Full => { prop_assert!(over); continue }
                            Inserted::New => prop_assert!(before == 0 && len > 0),
                            Inserted::Part => prop_assert!(before > 0 && before < len),
                            Inserted::Known => prop_assert!(before == len),
                        }
                        prop_assert!(!over);
                        model.extend(range);
                    }
                }
                let members: Vec<u64> = set.iter().flatten().collect();
                prop_assert_eq!(members, model.iter().copied().collect::<Vec<_>>());
                prop_assert!(set.iter().zip(set.iter().skip(1)).all(|(a, b)| a.end < b.start));
                for v in 0..80 { prop_assert_eq!(set.contains(v), model.contains(&v)); }
            }
        }

        #[test]
        fn replay_window_equals_a_plain_set(counters in proptest::collection::vec(
            prop_oneof![0u64..200, 3_900u64..4_400, 8_000u64..20_000], 0..300)) {
            let mut w = ReplayWindow::new();
            let mut seen = BTreeSet::new();
            for c in counters {
                let floor = seen.last().map_or(0, |m: &u64| (m + 1).saturating_sub(ReplayWindow::SIZE));
                let fresh = c >= floor && !seen.contains(&c);
                prop_assert_eq!(w.check(c), fresh);
                if fresh { w.commit(c); seen.insert(c); }
            }
        }
    }
}
