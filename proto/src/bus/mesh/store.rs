//! The events of one name that a node keeps: a bounded log per shard, and which events it has had.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::super::id::{MAX_SHARDS, Position, ProducerId, Shard};
use super::wire::{Run, Why};
use crate::identity::EntityId;

/// Cost of a run beside its entries, in bytes.
const RUN_COST: u64 = 160;
/// Writing nodes that are remembered; the one that wrote longest ago gives way.
pub const MAX_WRITERS: usize = 256;
/// Lives of producers, by shard, that are remembered of each; the one that wrote longest ago gives way.
pub const MAX_LIVES: usize = 2048;

/// How much a node keeps of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Shards, 1 to [`MAX_SHARDS`]; writing to one above is refused.
    pub shards: u16,
    /// Events of a shard; above it the oldest run gives way.
    pub events: u64,
    /// Bytes of a shard, with 160 for each run; the same. The newest run is always kept.
    pub bytes: u64,
}

impl Default for Limits {
    /// 64 shards of a million events and 64 MiB.
    fn default() -> Self {
        Self { shards: 64, events: 1 << 20, bytes: 64 << 20 }
    }
}

/// Who may do something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Every node of the mesh.
    #[default]
    Anyone,
    /// These nodes. The node that keeps the events always may.
    Only(Vec<EntityId>),
}

impl Access {
    pub(super) fn allows(&self, entity: &EntityId) -> bool {
        match self {
            Self::Anyone => true,
            Self::Only(these) => these.contains(entity),
        }
    }
}

#[derive(Debug, Default)]
struct Kept {
    /// With the number of the first event of each.
    runs: VecDeque<(u64, Run)>,
    /// Number of the oldest event, from 1.
    base: u64,
    /// Number of the next event.
    next: u64,
    bytes: u64,
}

/// What was had of one life of a producer: events come for the first time in order.
#[derive(Debug)]
struct Had {
    high: u64,
    used: u64,
}

#[derive(Debug, Default)]
struct Writer {
    lives: BTreeMap<(ProducerId, u64, Shard), Had>,
    used: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    major: u64,
    limits: Limits,
    shards: BTreeMap<Shard, Kept>,
    writers: BTreeMap<EntityId, Writer>,
    clock: u64,
    duplicates: u64,
}

/// Where a reader goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Number of the next event.
    pub next: u64,
    /// What it missed.
    pub lost: Option<(Position, Position)>,
}

impl Store {
    /// With `major` as the first part of its positions.
    pub const fn new(major: u64, limits: Limits) -> Self {
        Self { major, limits, shards: BTreeMap::new(), writers: BTreeMap::new(), clock: 0, duplicates: 0 }
    }

    /// Keeps the events of a run that `from` did not send before.
    pub fn append(&mut self, from: &EntityId, shard: Shard, run: &Run) -> Result<(), Why> {
        if shard >= self.limits.shards.min(MAX_SHARDS) {
            return Err(Why::Limit);
        }
        let Some(last) = run.seq.checked_add(run.len().into()).and_then(|end| end.checked_sub(1)) else {
            return Err(Why::Violation);
        };
        self.clock += 1;
        let high = self.had(from, (run.producer, run.incarnation, shard));
        let known = high.map_or(0, |high| high.saturating_add(1).saturating_sub(run.seq));
        let known = u32::try_from(known).unwrap_or(u32::MAX).min(run.len());
        self.duplicates += u64::from(known);
        let new = if known == 0 { run.clone() } else { run.part(known, u32::MAX, usize::MAX) };
        if new.is_empty() {
            return Ok(());
        }
        self.remember(from, (run.producer, run.incarnation, shard), last);
        let kept = self.shards.entry(shard).or_insert_with(|| Kept { base: 1, next: 1, ..Kept::default() });
        kept.bytes += new.bytes() as u64 + RUN_COST;
        let first = kept.next;
        kept.next += u64::from(new.len());
        kept.runs.push_back((first, new));
        kept.trim(&self.limits);
        Ok(())
    }

    fn had(&self, from: &EntityId, life: (ProducerId, u64, Shard)) -> Option<u64> {
        Some(self.writers.get(from)?.lives.get(&life)?.high)
    }

    fn remember(&mut self, from: &EntityId, life: (ProducerId, u64, Shard), high: u64) {
        let used = self.clock;
        if self.writers.len() >= MAX_WRITERS && !self.writers.contains_key(from) {
            let oldest = self.writers.iter().min_by_key(|(_, w)| w.used).map(|(id, _)| *id);
            oldest.map(|id| self.writers.remove(&id));
        }
        let writer = self.writers.entry(*from).or_default();
        writer.used = used;
        if writer.lives.len() >= MAX_LIVES && !writer.lives.contains_key(&life) {
            let oldest = writer.lives.iter().min_by_key(|(_, had)| had.used).map(|(life, _)| *life);
            oldest.map(|life| writer.lives.remove(&life));
        }
        writer.lives.insert(life, Had { high, used });
    }

    /// Where a reader that stands at `at` goes on in a shard. `None`: the shard holds nothing.
    pub fn place(&self, shard: Shard, at: Option<Position>) -> Result<Option<Place>, Why> {
        let (base, next) = self.shards.get(&shard).map_or((1, 1), |kept| (kept.base, kept.next));
        let begin = |lost| Place { next: base, lost };
        // Up to the last that gave way.
        let gone = Position::new(self.major, base - 1);
        let place = match at {
            None => begin(None),
            Some(at) if at.major > self.major || at.major == self.major && at.minor >= next => {
                return Err(Why::Ahead);
            }
            Some(at) if at.major == self.major && at.minor + 1 >= base => {
                Place { next: at.minor + 1, lost: None }
            }
            // Events of an earlier life went with it, and those that gave way since.
            Some(at) => begin(Some((at, gone))),
        };
        let nothing = place.next == next && place.lost.is_none();
        Ok((!nothing).then_some(place))
    }

    /// Events of a shard from number `next` on, at most `events` and about `bytes` of them, and whether there
    /// are more behind. Fewer than are there: one run at a time.
    pub fn read(&self, shard: Shard, next: u64, events: u32, bytes: usize) -> Option<(Position, Run, bool)> {
        let kept = self.shards.get(&shard)?;
        let next = next.max(kept.base);
        let index = kept.runs.partition_point(|(first, run)| first + u64::from(run.len()) <= next);
        let (first, run) = kept.runs.get(index)?;
        let part = run.part((next - first) as u32, events, bytes);
        let end = next + u64::from(part.len());
        (!part.is_empty()).then(|| (Position::new(self.major, next), part, end < kept.next))
    }

    /// Position of the newest event of each shard that has, or had, any.
    pub fn ends(&self) -> Vec<(Shard, Position)> {
        self.shards.iter().map(|(shard, kept)| (*shard, Position::new(self.major, kept.next - 1))).collect()
    }

    /// Events and bytes that are held, and events that came twice.
    pub fn counts(&self) -> (u64, u64, u64) {
        let sum = |of: fn(&Kept) -> u64| self.shards.values().map(of).sum();
        (sum(|kept| kept.next - kept.base), sum(|kept| kept.bytes), self.duplicates)
    }

    /// Most bytes that it may come to hold.
    pub fn ceiling(&self) -> u64 {
        let had = size_of::<((ProducerId, u64, Shard), Had)>() * 2;
        let writers = (MAX_WRITERS * (MAX_LIVES * had + size_of::<(EntityId, Writer)>() * 2)) as u64;
        // The newest run is kept whatever its size.
        u64::from(self.limits.shards) * (self.limits.bytes + (2 << 20)) + writers
    }
}

impl Kept {
    fn trim(&mut self, limits: &Limits) {
        while self.runs.len() > 1
            && (self.bytes > limits.bytes || self.next - self.base > limits.events.max(1))
            && let Some((first, run)) = self.runs.pop_front()
        {
            self.base = first + u64::from(run.len());
            self.bytes -= run.bytes() as u64 + RUN_COST;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::RunBuilder;
    use super::*;
    use crate::bus::EventId;

    const ME: EntityId = EntityId([1; 32]);

    fn run(incarnation: u64, seqs: core::ops::Range<u64>) -> Run {
        let id = |seq| EventId { producer: ProducerId(1), incarnation, shard: 0, seq };
        let mut builder = RunBuilder::new(id(seqs.start), 0);
        assert!(seqs.clone().all(|seq| builder.push(id(seq), seq, &seq.to_le_bytes())));
        builder.finish()
    }

    fn all(store: &Store) -> Vec<u64> {
        let (mut next, mut seqs) = (1, Vec::new());
        while let Some((at, run, _)) = store.read(0, next, 3, usize::MAX) {
            seqs.extend(run.events().map(|e| e.seq));
            next = at.minor + u64::from(run.len());
        }
        seqs
    }

    #[test]
    fn what_is_sent_again_is_kept_once() {
        let mut store = Store::new(5, Limits::default());
        for seqs in [1..4, 2..8, 8..9, 1..9, 20..22] {
            store.append(&ME, 0, &run(1, seqs)).unwrap();
        }
        assert_eq!(all(&store), [1, 2, 3, 4, 5, 6, 7, 8, 20, 21]);
        assert_eq!(store.counts().2, 2 + 8);
        // Another node that names itself so, and another life, are others.
        store.append(&EntityId([2; 32]), 0, &run(1, 1..3)).unwrap();
        store.append(&ME, 0, &run(2, 1..3)).unwrap();
        assert_eq!(store.counts().0, 14);
    }

    #[test]
    fn readers_go_on_or_learn_what_is_gone() {
        let limits = Limits { events: 4, ..Limits::default() };
        let mut store = Store::new(5, limits);
        assert_eq!(store.place(0, None), Ok(None));
        for n in 0..4 {
            store.append(&ME, 0, &run(1, n * 2 + 1..n * 2 + 3)).unwrap();
        }
        let at = |minor| Some(Position::new(5, minor));
        let gone = Position::new(5, 4);
        assert_eq!(all(&store), [5, 6, 7, 8]);
        assert_eq!(store.place(0, None), Ok(Some(Place { next: 5, lost: None })));
        assert_eq!(store.place(0, at(6)), Ok(Some(Place { next: 7, lost: None })));
        assert_eq!(store.place(0, at(4)), Ok(Some(Place { next: 5, lost: None })));
        let lost = Some((Position::new(5, 3), gone));
        assert_eq!(store.place(0, at(3)), Ok(Some(Place { next: 5, lost })));
        assert_eq!(store.place(0, at(8)), Ok(None));
        assert_eq!(store.place(0, at(9)), Err(Why::Ahead));
        let old = Position::new(4, 900);
        assert_eq!(store.place(0, Some(old)), Ok(Some(Place { next: 5, lost: Some((old, gone)) })));
        assert_eq!(store.place(0, Some(Position::new(6, 0))), Err(Why::Ahead));
        // A shard that lost everything with the life before says so once.
        let lost = Some((old, Position::new(5, 0)));
        assert_eq!(store.place(3, Some(old)), Ok(Some(Place { next: 1, lost })));
        assert_eq!(store.place(3, Some(Position::new(5, 0))), Ok(None));
        assert_eq!(store.ends(), [(0, Position::new(5, 8))]);
    }

    #[test]
    fn bounds_hold() {
        let mut store = Store::new(1, Limits { shards: 2, events: 1 << 20, bytes: 1_000 });
        assert_eq!(store.append(&ME, 2, &run(1, 1..2)), Err(Why::Limit));
        for n in 1..100 {
            store.append(&ME, 0, &run(1, n..n + 1)).unwrap();
            let (events, bytes, _) = store.counts();
            assert!(bytes <= 1_000 && events <= 6 && bytes <= store.ceiling());
        }
        for n in 0..MAX_LIVES as u64 + 9 {
            store.append(&ME, 1, &run(n, 1..2)).unwrap();
        }
        for n in 0..=u8::MAX {
            store.append(&EntityId([n; 32]), 1, &run(1, 1..2)).unwrap();
        }
        assert!(store.writers.len() <= MAX_WRITERS);
        assert!(store.writers.values().all(|w| w.lives.len() <= MAX_LIVES));
    }
}
