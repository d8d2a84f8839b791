//! What is due when, and where it is kept until then.

use super::Kind;

pub(super) struct Entry {
    pub at: u64,
    pub seq: u64,
    pub kind: Kind,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// Things with small numbers that are reused.
pub(super) struct Slab<T> {
    items: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Slab<T> {
    pub const fn new() -> Self {
        Self { items: Vec::new(), free: Vec::new() }
    }

    pub fn put(&mut self, item: T) -> usize {
        if let Some(slot) = self.free.pop() {
            self.items[slot] = Some(item);
            return slot;
        }
        self.items.push(Some(item));
        self.items.len() - 1
    }

    pub fn take(&mut self, slot: usize) -> T {
        self.free.push(slot);
        self.items[slot].take().expect("every event names a slot that it filled")
    }

    pub fn get(&self, slot: usize) -> Option<&T> {
        self.items[slot].as_ref()
    }
}
