//! What really happened, and the promises of the bus held against it.
//!
//! | Rule | Promise |
//! |---|---|
//! | names | an event has one id for ever, and an id one event; nothing is stored that nobody emitted |
//! | order | first copies of a producer's events lie in a shard in the order of acceptance, without holes that nobody counted |
//! | alive | a bus that nobody closed takes events, or says that there is no room |
//! | ledger | ingested = delivered + queued + lost after every step, and each part is what the producer saw |
//! | safe | what was called safe is in the engine: at once without an outbox, in the end with one |
//! | lost | what is missing is what was reported: by the ledger, or because its producer died unsaved |
//! | reader | no event is left out and none comes back; `Lost` names what is gone, all of it and nothing else |
//! | cursor | a cursor stands behind what was returned, and is found again where it was kept |
//! | dedup | an event is seen once; a new one is never taken for an old one |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use net_proto::bus::{Backpressure, Cursor, EventId, Ledger, ProducerId, Shard};
use net_sdk::net::{Closed, Item, SdkError};

use super::engine::{Engine, Shelf};
use super::wire::Entry;
use crate::checkers::Broken;
use crate::keyed::mix;

/// Names what an application emitted: its machine, and a number that rises.
pub type Tag = (u32, u64);

/// The body of an event.
pub fn body((node, n): Tag) -> Vec<u8> {
    let mut body = [&node.to_le_bytes()[..], &n.to_le_bytes()].concat();
    let more = mix(u64::from(node) << 40 | n);
    body.resize(12 + (more % 40) as usize, more as u8);
    body
}

fn tag(body: &[u8]) -> Option<Tag> {
    let (node, rest) = body.split_first_chunk::<4>()?;
    let (n, _) = rest.split_first_chunk::<8>()?;
    Some((u32::from_le_bytes(*node), u64::from_le_bytes(*n)))
}

/// One life of a producer.
#[derive(Debug)]
struct Life {
    node: u32,
    outbox: bool,
    mode: Backpressure,
    producer: ProducerId,
    accepted: Vec<(Tag, EventId)>,
    safe: BTreeSet<Tag>,
    sampled: u64,
    newest: u64,
    refused: u64,
    /// When the first event was emitted; what was ingested by then was replayed.
    start: Ledger,
    last: Ledger,
    closed: Option<Closed>,
    /// Its outbox failed, so it kept nothing more.
    failed: bool,
}

/// One consumer.
#[derive(Debug, Default)]
struct Reader {
    /// Per shard which of the engine's events comes next.
    next: BTreeMap<Shard, usize>,
    /// Events that were seen after deduplication, in order.
    output: Vec<Tag>,
    seen: BTreeSet<Tag>,
    /// What was about to be kept, by its number.
    kept: BTreeMap<u64, (BTreeMap<Shard, usize>, usize)>,
}

#[derive(Debug)]
struct Book {
    engine: Engine,
    broken: Option<Broken>,
    lives: Vec<Life>,
    readers: BTreeMap<u32, Reader>,
    finished: BTreeSet<u32>,
    numbers: BTreeMap<u32, u64>,
    /// What every id names, from receipts.
    names: BTreeMap<EventId, Tag>,
    /// Under which id an event was stored.
    stored: BTreeMap<Tag, EventId>,
    looked: BTreeMap<Shard, usize>,
    highest: BTreeMap<(ProducerId, u64, Shard), u64>,
    /// The last event of a machine with an outbox, per shard.
    last: BTreeMap<(u32, Shard), u64>,
}

/// All of it; clones share it.
#[derive(Clone, Debug)]
pub struct Truth(Arc<Mutex<Book>>);

/// How an event was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Sampled,
    Newest,
    Full,
}

impl Truth {
    pub fn new(engine: Engine) -> Self {
        Self(Arc::new(Mutex::new(Book {
            engine,
            broken: None,
            lives: Vec::new(),
            readers: BTreeMap::new(),
            finished: BTreeSet::new(),
            numbers: BTreeMap::new(),
            names: BTreeMap::new(),
            stored: BTreeMap::new(),
            looked: BTreeMap::new(),
            highest: BTreeMap::new(),
            last: BTreeMap::new(),
        })))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- producers

    /// The number of a machine's next event. Goes on over crashes, so that no two are alike.
    pub fn number(&self, node: u32) -> u64 {
        let mut book = self.book();
        let number = book.numbers.entry(node).or_default();
        *number += 1;
        *number
    }

    /// A producer begins a life; its number. `start` is the balance before its first event.
    pub fn begins(
        &self,
        (node, outbox): (u32, bool),
        mode: Backpressure,
        producer: ProducerId,
        start: Ledger,
    ) -> usize {
        let mut book = self.book();
        book.lives.push(Life {
            node,
            outbox,
            mode,
            producer,
            accepted: Vec::new(),
            safe: BTreeSet::new(),
            sampled: 0,
            newest: 0,
            refused: 0,
            start,
            last: start,
            closed: None,
            failed: false,
        });
        book.lives.len() - 1
    }

    /// An event was offered; what came of it, and the balance then.
    pub fn offered(&self, life: usize, tag: Tag, outcome: Result<EventId, Refusal>, ledger: Ledger) {
        let mut book = self.book();
        let of = &mut book.lives[life];
        match outcome {
            Ok(id) => {
                of.accepted.push((tag, id));
                if let Some(other) = book.names.insert(id, tag) {
                    book.fail(tag.0, format!("names: {id} is event {other:?} and event {tag:?}"));
                }
            }
            Err(Refusal::Sampled) => of.sampled += 1,
            Err(Refusal::Newest) => of.newest += 1,
            Err(Refusal::Full) => of.refused += 1,
        }
        book.balance(life, ledger);
    }

    /// An event was refused for another reason. Only the end is one.
    pub fn refuses(&self, life: usize, why: &SdkError, closed: bool) {
        let mut book = self.book();
        let node = book.lives[life].node;
        if !closed {
            book.fail(node, format!("alive: a bus that is not closed refuses events: {why}"));
        }
    }

    /// The balance at some moment.
    pub fn balance(&self, life: usize, ledger: Ledger) {
        self.book().balance(life, ledger);
    }

    /// Events that were accepted in a life so far.
    pub fn accepted(&self, life: usize) -> usize {
        self.book().lives[life].accepted.len()
    }

    /// The first `count` events of a life were called safe.
    pub fn safe(&self, life: usize, count: usize) {
        let mut book = self.book();
        let of = &book.lives[life];
        let tags: Vec<Tag> = of.accepted[..count].iter().map(|(tag, _)| *tag).collect();
        book.called_safe(life, tags, false);
    }

    /// One event was called safe, perhaps in the engine.
    pub fn safe_one(&self, life: usize, tag: Tag, in_engine: bool) {
        self.book().called_safe(life, vec![tag], in_engine);
    }

    /// A life ended by itself, or because its outbox failed.
    pub fn closes(&self, life: usize, closed: Closed, failed: bool) {
        let mut book = self.book();
        book.balance(life, closed.ledger);
        let of = &mut book.lives[life];
        (of.closed, of.failed) = (Some(closed), failed);
        let (node, ledger) = (of.node, closed.ledger);
        if ledger.queued != closed.kept || closed.lost != ledger.lost.shutdown {
            book.fail(node, format!("lost: a shutdown answered {closed:?}"));
        }
    }

    /// A producer is done, with everything in the engine.
    pub fn finishes(&self, life: usize) {
        let mut book = self.book();
        let of = &book.lives[life];
        let (node, lost) = (of.node, of.closed.map_or(1, |c| c.lost + c.kept));
        book.finished.insert(node);
        if lost > 0 {
            book.fail(node, format!("lost: {lost} events given up or kept with everything healed"));
        }
    }

    /// Whether these producers are done.
    pub fn finished(&self, nodes: &[u32]) -> bool {
        let book = self.book();
        nodes.iter().all(|n| book.finished.contains(n))
    }

    // --- consumers

    /// A consumer begins where it was kept under this number; 0 is at the beginning.
    pub fn resumes(&self, node: u32, kept: u64, cursor: &Cursor) {
        let mut book = self.book();
        let engine = book.engine.clone();
        let reader = book.readers.entry(node).or_default();
        let found = if kept == 0 { Some(Default::default()) } else { reader.kept.get(&kept).cloned() };
        let Some((next, output)) = found else {
            return book.fail(node, format!("cursor: nothing was kept under number {kept}"));
        };
        reader.output.truncate(output);
        reader.seen = reader.output.iter().copied().collect();
        reader.next = next;
        let wrong = reader.next.iter().find_map(|(shard, next)| wrong(&engine, cursor, *shard, *next));
        if let Some(wrong) = wrong {
            book.fail(node, wrong);
        }
    }

    /// A consumer got an item.
    pub fn reads(&self, node: u32, item: &Item) {
        let mut book = self.book();
        let engine = book.engine.clone();
        let Some(reader) = book.readers.get_mut(&node) else { return };
        let wrong = match item {
            Item::Event(event) => engine.with(event.shard, |shelf| {
                let next = reader.next.get(&event.shard).copied();
                let at = shelf.behind(event.position).saturating_sub(1);
                reader.next.insert(event.shard, at + 1);
                let there = shelf.taken.get(at).is_some_and(|(position, entry)| {
                    *position == event.position && Some(entry.id) == event.id && entry.raw == event.raw
                });
                // Who begins, begins with the oldest that is kept.
                let fits = next.map_or(at <= shelf.trimmed, |next| next == at);
                (!there || !fits).then(|| {
                    format!("reader: number {at} of shard {} where {next:?} was next: {event:?}", event.shard)
                })
            }),
            Item::Lost { shard, from, to } => engine.with(*shard, |shelf| {
                let next = reader.next.get(shard).copied().unwrap_or(0);
                let after = shelf.behind(*to);
                reader.next.insert(*shard, after);
                let begins = next.checked_sub(1).is_some_and(|last| shelf.taken[last].0 == *from);
                let fits = begins && after > next && after <= shelf.trimmed;
                (!fits).then(|| {
                    let trimmed = shelf.trimmed;
                    format!("reader: lost {from} to {to} of shard {shard}, which is {next} to {after}; {trimmed} are gone")
                })
            }),
            _ => None,
        };
        if let Some(wrong) = wrong {
            book.fail(node, wrong);
        }
    }

    /// A consumer handled an event; whether deduplication knew it.
    pub fn handles(&self, node: u32, raw: &[u8], duplicate: bool) {
        let mut book = self.book();
        let Some(reader) = book.readers.get_mut(&node) else { return };
        let Some(tag) = tag(raw) else { return };
        let new = reader.seen.insert(tag);
        if new {
            reader.output.push(tag);
        }
        if new == duplicate {
            let what = if new { "is new and counts as a duplicate" } else { "was seen twice" };
            book.fail(node, format!("dedup: event {tag:?} {what}"));
        }
    }

    /// A consumer is about to keep where it stands.
    pub fn keeps(&self, node: u32, kept: u64, cursor: &Cursor) {
        let mut book = self.book();
        let engine = book.engine.clone();
        let Some(reader) = book.readers.get_mut(&node) else { return };
        reader.kept.insert(kept, (reader.next.clone(), reader.output.len()));
        let wrong = reader.next.iter().find_map(|(shard, next)| wrong(&engine, cursor, *shard, *next));
        if let Some(wrong) = wrong {
            book.fail(node, wrong);
        }
    }

    /// Whether these consumers have read everything.
    pub fn caught_up(&self, nodes: &[u32]) -> bool {
        let book = self.book();
        let ends: Vec<_> = book
            .engine
            .shards()
            .into_iter()
            .map(|s| (s, book.engine.with(s, |shelf| shelf.taken.len())))
            .collect();
        let at_end = |reader: &Reader| ends.iter().all(|(s, end)| reader.next.get(s) == Some(end));
        nodes.iter().all(|n| book.readers.get(n).is_some_and(at_end))
    }

    /// The first promise that was broken so far.
    pub fn holds(&self) -> Result<(), Broken> {
        let mut book = self.book();
        book.look();
        book.broken.clone().map_or(Ok(()), Err)
    }

    /// The rules that hold when everything is over.
    pub fn at_end(&self) -> Result<(), Broken> {
        let mut book = self.book();
        book.look();
        let lives = std::mem::take(&mut book.lives);
        let mut evicted: BTreeMap<u32, u64> = BTreeMap::new();
        for life in &lives {
            *evicted.entry(life.node).or_default() += life.last.lost.evicted;
        }
        for life in &lives {
            book.life_at_end(life, evicted[&life.node]);
        }
        book.lives = lives;
        book.broken.clone().map_or(Ok(()), Err)
    }
}

/// Whether a cursor stands elsewhere than behind the event before `next`.
fn wrong(engine: &Engine, cursor: &Cursor, shard: Shard, next: usize) -> Option<String> {
    let want = engine.with(shard, |shelf| Some(shelf.taken.get(next.checked_sub(1)?)?.0));
    let at = cursor.get(shard);
    (at != want).then(|| format!("cursor: it stands at {at:?} in shard {shard}, the reader at {want:?}"))
}

impl Book {
    fn fail(&mut self, node: u32, what: impl Into<String>) {
        self.broken.get_or_insert_with(|| Broken::at(node, what));
    }

    fn balance(&mut self, life: usize, ledger: Ledger) {
        let of = &mut self.lives[life];
        of.last = ledger;
        let (node, start) = (of.node, of.start);
        let saw = (of.accepted.len() as u64 + of.sampled + of.newest, of.sampled, of.newest, of.refused);
        let says = (
            ledger.ingested - start.ingested,
            ledger.lost.sampled - start.lost.sampled,
            ledger.lost.newest - start.lost.newest,
            ledger.refused - start.refused,
        );
        let evicts = of.mode == Backpressure::DropOldest || ledger.lost.evicted == 0;
        let (producer, delivered) = (of.producer, ledger.delivered);
        if !ledger.balances() || says != saw || !evicts || ledger.lost.expired + ledger.lost.rejected > 0 {
            return self
                .fail(node, format!("ledger: the producer saw {saw:?} after {start:?}, it says {ledger:?}"));
        }
        self.look();
        let there = self.stored.values().filter(|id| id.producer == producer).count() as u64;
        if delivered > there {
            self.fail(node, format!("ledger: {delivered} delivered, the engine has {there}"));
        }
    }

    fn called_safe(&mut self, life: usize, tags: Vec<Tag>, in_engine: bool) {
        self.look();
        let of = &mut self.lives[life];
        let (node, evicted) = (of.node, of.last.lost.evicted);
        let missing = tags.iter().filter(|tag| !self.stored.contains_key(tag)).count() as u64;
        if (in_engine || !of.outbox) && missing > evicted {
            self.fail(node, format!("safe: {missing} events are not in the engine, {evicted} gave way"));
        }
        self.lives[life].safe.extend(tags);
    }

    /// Looks at what the engine took since the last look.
    fn look(&mut self) {
        let engine = self.engine.clone();
        for shard in engine.shards() {
            let from = self.looked.get(&shard).copied().unwrap_or(0);
            let fresh: Vec<Entry> = engine
                .with(shard, |shelf: &Shelf| shelf.taken[from..].iter().map(|(_, e)| e.clone()).collect());
            self.looked.insert(shard, from + fresh.len());
            fresh.iter().for_each(|entry| self.took(shard, entry));
        }
    }

    /// The engine took an event.
    fn took(&mut self, shard: Shard, entry: &Entry) {
        let id = entry.id;
        let Some(tag) = tag(&entry.raw).filter(|tag| body(*tag) == entry.raw) else {
            return self.broken_at_engine(format!("names: {id} has a body that nobody emitted"));
        };
        // The other way round this fails at once.
        if let Some(other) = self.stored.get(&tag).filter(|other| **other != id) {
            return self.broken_at_engine(format!("names: event {tag:?} is stored as {other} and as {id}"));
        }
        if self.names.get(&id) != Some(&tag) || id.shard != shard {
            let named = self.names.get(&id);
            return self.broken_at_engine(format!(
                "names: event {tag:?} is stored as {id} in shard {shard}, which is {named:?}"
            ));
        }
        if self.stored.insert(tag, id).is_some() {
            return;
        }
        let high = self.highest.entry((id.producer, id.incarnation, shard)).or_insert(0);
        let in_order = id.seq > *high;
        *high = id.seq;
        let outbox = self.lives.iter().any(|life| life.node == tag.0 && life.outbox);
        let last = self.last.insert((tag.0, shard), tag.1).filter(|_| outbox);
        if !in_order || last.is_some_and(|last| last >= tag.1) {
            self.broken_at_engine(format!("order: {id}, event {tag:?}, came after later ones ({last:?})"));
        }
    }

    fn broken_at_engine(&mut self, what: String) {
        self.fail(super::ENGINE, what);
    }

    /// What became of the events of a life. `evicted`: how many gave way in all lives of its machine.
    fn life_at_end(&mut self, life: &Life, evicted: u64) {
        let there = |tag: &Tag| self.stored.contains_key(tag);
        let unsafe_loss = life.safe.iter().filter(|tag| !there(tag)).count() as u64;
        let (node, gave_way) = (life.node, if life.outbox { evicted } else { life.last.lost.evicted });
        if unsafe_loss > gave_way {
            let what =
                format!("safe: {unsafe_loss} events are gone that were called safe, {gave_way} gave way");
            return self.fail(node, what);
        }
        // In front of an event that is there only what gave way may be missing.
        let mut holes = 0u64;
        let mut missing: BTreeMap<Shard, u64> = BTreeMap::new();
        for (tag, id) in &life.accepted {
            let since = missing.entry(id.shard).or_default();
            if there(tag) {
                holes += std::mem::take(since);
            } else {
                *since += 1;
            }
        }
        if holes > gave_way {
            return self.fail(
                node,
                format!("order: {holes} events are left out in the middle, {gave_way} gave way"),
            );
        }
        let gone = holes + missing.values().sum::<u64>();
        if let Some(closed) = &life.closed {
            // What is in an outbox is sent by the next life, whatever this one gave up.
            let told = gave_way + if life.outbox && !life.failed { 0 } else { closed.lost };
            // An event that was given up may be there: its acknowledgement was under way.
            if gone > told || (!life.outbox && closed.lost == 0 && gone != gave_way) {
                self.fail(node, format!("lost: {gone} events of a life are gone, {told} were told"));
            }
        }
    }
}
