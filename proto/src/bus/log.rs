//! A shard's log: bounded by events and bytes, read by position, evicting by a rule that the
//! producer chose.
//!
//! Events lie one after the other in chunks. Whoever reads seals what was written so far, so a
//! reader shares memory with the writer instead of copying it.
//!
//! | Oldest event, when there is no room | FailProducer | DropOldest | DropNewest, Sample |
//! |---|---|---|---|
//! | every holder has read it, or there is no holder | trimmed | trimmed | trimmed |
//! | a holder has not read it | the new one is refused | trimmed, `evicted` | the new one is dropped, `newest` |
//!
//! What is trimmed before anybody read it counts as lost (`expired` without a holder).

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use super::ledger::Losses;

/// What happens to events that find no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backpressure {
    /// The producer is told, and nothing is lost.
    #[default]
    FailProducer,
    /// The oldest event gives way.
    DropOldest,
    /// The new event is dropped.
    DropNewest,
    /// Keeps the first of every `n` events, always; when there is no room, that one is dropped.
    Sample(u32),
}

/// How much a log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// Most events.
    pub events: u64,
    /// Most bytes: bodies, 16 for each event and 128 for each run of them that was read apart.
    pub bytes: u64,
    /// Whether events stay after every holder has read them, as room allows.
    pub keep: bool,
}

/// Why an event was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refused {
    /// No room; the event is not counted as ingested.
    #[error("no room now")]
    Full,
    /// No room; the event is counted as ingested and lost.
    #[error("dropped: no room")]
    Newest,
    /// Left out by sampling; counted as ingested and lost.
    #[error("left out by sampling")]
    Sampled,
    /// Longer than the log can ever hold.
    #[error("too long")]
    TooLarge,
}

/// First and largest size of a chunk, in bytes.
const CHUNK: (usize, usize) = (1 << 10, 1 << 16);
/// Most events of a segment.
const SEGMENT_EVENTS: usize = 4096;
/// Charges, in bytes.
const EVENT_COST: u64 = 16;
const SEGMENT_COST: u64 = 128;
/// Most readers of a log.
pub const MAX_READERS: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where the body ends in the segment.
    end: u32,
    /// Nanoseconds after the stamp of the segment.
    delta: u32,
}

/// Events next to each other, sealed: cheap to clone, never changing.
#[derive(Clone, Debug)]
pub struct Segment {
    first: u64,
    incarnation: u64,
    seq: u64,
    stamp: u64,
    data: Bytes,
    index: Arc<[Entry]>,
}

/// One event of a [`Slice`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its number in this log, from 1.
    pub at: u64,
    /// Which life of the producer accepted it.
    pub incarnation: u64,
    /// Its number within that life.
    pub seq: u64,
    /// When it was accepted: nanoseconds, strictly rising within the log.
    pub stamp: u64,
    /// The body.
    pub body: &'a [u8],
}

/// A part of a segment: what a reader got. Holds the segment's memory while it lives.
#[derive(Clone, Debug)]
pub struct Slice {
    segment: Segment,
    from: usize,
    to: usize,
}

impl Slice {
    /// Events left in it.
    pub const fn len(&self) -> usize {
        self.to - self.from
    }

    /// Whether none are left.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.from == self.to
    }

    #[inline]
    fn event(&self, at: usize) -> Option<Event<'_>> {
        if at >= self.to {
            return None;
        }
        let s = &self.segment;
        let entry = s.index.get(at)?;
        let begin = if at == 0 { 0 } else { s.index.get(at - 1)?.end };
        Some(Event {
            at: s.first + at as u64,
            incarnation: s.incarnation,
            seq: s.seq + at as u64,
            stamp: s.stamp + u64::from(entry.delta),
            body: s.data.get(begin as usize..entry.end as usize)?,
        })
    }

    /// The next event, without taking it.
    #[inline]
    pub fn peek(&self) -> Option<Event<'_>> {
        self.event(self.from)
    }

    /// Takes the next event, if there is one.
    #[inline]
    pub const fn skip_one(&mut self) {
        if !self.is_empty() {
            self.from += 1;
        }
    }

    /// The bytes of a body that an event of this slice showed, sharing the slice's memory.
    #[inline]
    pub fn share(&self, body: &[u8]) -> Bytes {
        if body.is_empty() { Bytes::new() } else { self.segment.data.slice_ref(body) }
    }

    /// The events left, in order.
    pub fn iter(&self) -> impl Iterator<Item = Event<'_>> + '_ {
        (self.from..self.to).filter_map(|at| self.event(at))
    }

    /// Number of the first event left; of the one behind the last if none is.
    pub const fn first(&self) -> u64 {
        self.segment.first + self.from as u64
    }

    /// One more than the number of the last event.
    pub const fn end(&self) -> u64 {
        self.segment.first + self.to as u64
    }

    /// Stamp of the last event, or of the segment if there is none.
    pub fn last_stamp(&self) -> u64 {
        self.to.checked_sub(1).and_then(|at| self.event(at)).map_or(self.segment.stamp, |e| e.stamp)
    }

    /// Cuts it so that at most `n` events are left.
    pub fn truncate(&mut self, n: usize) {
        self.to = self.to.min(self.from + n);
    }

    /// Cuts off what lies before number `at`.
    pub fn skip_to(&mut self, at: u64) {
        let skip = usize::try_from(at.saturating_sub(self.first())).unwrap_or(usize::MAX);
        self.from = self.from.saturating_add(skip).min(self.to);
    }

    fn bytes(&self) -> u64 {
        let end =
            |at: usize| at.checked_sub(1).and_then(|at| self.segment.index.get(at)).map_or(0, |e| e.end);
        u64::from(end(self.to) - end(self.from))
    }
}

/// Handle of a reader that is attached to a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderId(usize);

#[derive(Clone, Copy, Debug)]
struct Reader {
    next: u64,
    holds: bool,
}

/// What a log counted. Everything but `bytes` only rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogCounts {
    /// Events that were offered and not refused.
    pub ingested: u64,
    /// Events that were refused: the producer was told.
    pub refused: u64,
    /// Events that every holder has read, or, without a holder, somebody.
    pub read: u64,
    /// Events that wait to be read.
    pub unread: u64,
    /// Events that nobody will read.
    pub lost: Losses,
    /// Events in the log, read ones included.
    pub retained: u64,
    /// Bytes charged.
    pub bytes: u64,
}

impl LogCounts {
    /// ingested = read + unread + lost.
    pub fn balances(&self) -> bool {
        self.ingested == self.read + self.unread + self.lost.total()
    }
}

/// The log of a shard.
#[derive(Debug)]
pub struct Log {
    limits: LogLimits,
    mode: Backpressure,
    /// Number of the oldest event that is retained.
    base: u64,
    /// Number of the next event.
    next: u64,
    segments: VecDeque<Segment>,
    /// The open segment: its data, index and head.
    data: BytesMut,
    index: Vec<Entry>,
    open_first: u64,
    open_stamp: u64,
    /// Names of the next event: incarnation, and what to add to `next` for the sequence.
    incarnation: u64,
    seq_ahead: u64,
    chunk: usize,
    bytes: u64,
    last_stamp: u64,
    readers: Vec<Option<Reader>>,
    /// The least `next` of all holders; `u64::MAX` without one.
    floor: u64,
    /// Everything below was read or lost.
    taken: u64,
    sampling: u32,
    ingested: u64,
    refused: u64,
    lost: Losses,
}

impl Log {
    /// An empty log whose events carry `incarnation` and sequences from 1.
    pub fn new(limits: LogLimits, mode: Backpressure, incarnation: u64) -> Self {
        Self {
            limits,
            mode,
            base: 1,
            next: 1,
            segments: VecDeque::new(),
            data: BytesMut::new(),
            index: Vec::new(),
            open_first: 1,
            open_stamp: 0,
            incarnation,
            seq_ahead: 0,
            chunk: CHUNK.0,
            bytes: 0,
            last_stamp: 0,
            readers: Vec::new(),
            floor: u64::MAX,
            taken: 1,
            sampling: 0,
            ingested: 0,
            refused: 0,
            lost: Losses::default(),
        }
    }

    /// From here on events carry `incarnation`, and sequences from `seq`. The log's own numbers go
    /// on. For the replay of an outbox.
    pub fn rename(&mut self, incarnation: u64, seq: u64) {
        let ahead = seq.wrapping_sub(self.next);
        if (incarnation, ahead) != (self.incarnation, self.seq_ahead) {
            self.seal();
            (self.incarnation, self.seq_ahead) = (incarnation, ahead);
        }
    }

    /// Appends an event; its number. `now` is the clock in nanoseconds; the stamp is that, or one
    /// more than the last.
    #[inline]
    pub fn append(&mut self, body: &[u8], now: u64) -> Result<u64, Refused> {
        if let Backpressure::Sample(n) = self.mode {
            let keep = self.sampling == 0;
            self.sampling = if self.sampling + 1 >= n { 0 } else { self.sampling + 1 };
            if !keep {
                self.ingested += 1;
                self.lost.sampled += u64::from(!planted!(SampledUncounted));
                return Err(Refused::Sampled);
            }
        }
        let cost = body.len() as u64 + EVENT_COST;
        if self.next - self.base >= self.limits.events || self.bytes + cost + SEGMENT_COST > self.limits.bytes
        {
            self.make_room(cost)?;
        }
        Ok(self.push(body, now))
    }

    /// Appends an event that an earlier life accepted, whatever mode and room: that life promised to
    /// keep it, and its own log bounded how many there are.
    pub fn replay(&mut self, body: &[u8], now: u64) -> u64 {
        self.push(body, now)
    }

    #[inline]
    fn push(&mut self, body: &[u8], now: u64) -> u64 {
        let stamp = now.max(self.last_stamp + 1);
        let spare = self.data.capacity() - self.data.len();
        if self.index.is_empty()
            || body.len() > spare
            || self.index.len() >= SEGMENT_EVENTS
            || stamp - self.open_stamp > u64::from(u32::MAX)
        {
            self.begin(body.len(), stamp);
        }
        self.data.extend_from_slice(body);
        self.index.push(Entry { end: self.data.len() as u32, delta: (stamp - self.open_stamp) as u32 });
        self.bytes += body.len() as u64 + EVENT_COST;
        self.last_stamp = stamp;
        self.ingested += 1;
        let at = self.next;
        self.next += 1;
        at
    }

    /// The identity of the event that [`Log::append`] just numbered `at`: incarnation and sequence.
    #[inline]
    pub const fn name_of(&self, at: u64) -> (u64, u64) {
        (self.incarnation, at.wrapping_add(self.seq_ahead))
    }

    /// The stamp of the newest event; 0 if there was none.
    #[inline]
    pub const fn last_stamp(&self) -> u64 {
        self.last_stamp
    }

    /// Events from now on get stamps above `stamp`: a reader that merges several logs raises all of
    /// them, and so knows that nothing older can come.
    pub fn raise(&mut self, stamp: u64) {
        self.last_stamp = self.last_stamp.max(stamp);
    }

    #[cold]
    fn make_room(&mut self, cost: u64) -> Result<(), Refused> {
        if cost + SEGMENT_COST > self.limits.bytes || self.limits.events == 0 {
            self.refused += 1;
            return Err(Refused::TooLarge);
        }
        while self.next - self.base >= self.limits.events {
            self.give_way(self.base + 1)?;
        }
        while self.bytes + cost + SEGMENT_COST > self.limits.bytes {
            // Bytes come back a segment at a time.
            if self.segments.is_empty() {
                self.seal();
            }
            let Some(end) = self.segments.front().map(Segment::end) else { break };
            self.give_way(end)?;
        }
        Ok(())
    }

    /// Lets everything below `to` go, or refuses the event that asks for it.
    fn give_way(&mut self, to: u64) -> Result<(), Refused> {
        let held = to > self.floor;
        match self.mode {
            Backpressure::DropOldest => {}
            Backpressure::FailProducer if held => {
                self.refused += 1;
                return Err(Refused::Full);
            }
            Backpressure::DropNewest | Backpressure::Sample(_) if held => {
                self.ingested += 1;
                self.lost.newest += 1;
                return Err(Refused::Newest);
            }
            _ => {}
        }
        let unread = to.saturating_sub(self.taken.max(self.base));
        if held {
            self.lost.evicted += if planted!(EvictedUncounted) { 0 } else { unread };
        } else {
            self.lost.expired += unread;
        }
        self.trim(to);
        Ok(())
    }

    /// Forgets everything below `to`.
    fn trim(&mut self, to: u64) {
        self.base = self.base.max(to.min(self.next));
        self.taken = self.taken.max(self.base);
        while self.segments.front().is_some_and(|s| s.end() <= self.base) {
            if let Some(s) = self.segments.pop_front() {
                self.bytes -= s.cost();
            }
        }
        if self.open_first + (self.index.len() as u64) <= self.base && !self.index.is_empty() {
            self.bytes -= self.data.len() as u64 + EVENT_COST * self.index.len() as u64 + SEGMENT_COST;
            self.index.clear();
            self.data.clear();
        }
    }

    fn begin(&mut self, len: usize, stamp: u64) {
        self.seal();
        if self.data.capacity() < len || self.data.capacity() == 0 {
            self.data = BytesMut::with_capacity(self.chunk.max(len));
            self.chunk = (self.chunk * 2).min(CHUNK.1);
        }
        self.bytes += SEGMENT_COST;
        self.open_first = self.next;
        self.open_stamp = stamp;
    }

    fn seal(&mut self) {
        if self.index.is_empty() {
            return;
        }
        let data = self.data.split().freeze();
        let index: Arc<[Entry]> = Arc::from(self.index.as_slice());
        self.index.clear();
        self.segments.push_back(Segment {
            first: self.open_first,
            incarnation: self.incarnation,
            seq: self.open_first.wrapping_add(self.seq_ahead),
            stamp: self.open_stamp,
            data,
            index,
        });
    }

    /// Attaches a reader whose next event is number `next`. One that holds makes unread events
    /// count for [`Backpressure`]. `None`: [`MAX_READERS`] are there already.
    pub fn attach(&mut self, next: u64, holds: bool) -> Option<ReaderId> {
        let reader = Some(Reader { next, holds });
        let slot = match self.readers.iter().position(Option::is_none) {
            Some(slot) => slot,
            None if self.readers.len() < MAX_READERS => {
                self.readers.push(None);
                self.readers.len() - 1
            }
            None => return None,
        };
        *self.readers.get_mut(slot)? = reader;
        self.refloor();
        Some(ReaderId(slot))
    }

    /// Detaches a reader.
    pub fn detach(&mut self, id: ReaderId) {
        if let Some(slot) = self.readers.get_mut(id.0) {
            *slot = None;
        }
        self.refloor();
    }

    fn refloor(&mut self) {
        let holders = self.readers.iter().flatten().filter(|r| r.holds);
        self.floor = holders.map(|r| r.next).min().unwrap_or(u64::MAX);
        self.note_taken();
    }

    /// After the floor rose.
    fn note_taken(&mut self) {
        if self.floor != u64::MAX {
            self.taken = self.taken.max(self.floor.min(self.next));
            if !self.limits.keep {
                self.trim(self.floor.min(self.next));
            }
        }
    }

    /// Reads on: at most `events` events and about `bytes` bytes, none from number `upto` on, into
    /// `out`. What is gone comes back as a range of numbers that were never read.
    pub fn read(
        &mut self,
        id: ReaderId,
        events: usize,
        bytes: u64,
        upto: u64,
        out: &mut VecDeque<Slice>,
    ) -> Option<(u64, u64)> {
        let Some(Some(reader)) = self.readers.get(id.0).copied() else { return None };
        let (lost, next) = self.read_at(reader.next, events, bytes, upto, out);
        if let Some(Some(slot)) = self.readers.get_mut(id.0) {
            slot.next = next;
        }
        if next != reader.next {
            if reader.holds {
                self.refloor();
            } else {
                self.read_by_anybody(reader.next, next);
            }
        }
        lost
    }

    /// Reads from number `from` without being attached; `(what is gone, next number)`.
    pub fn peek(
        &mut self,
        from: u64,
        events: usize,
        bytes: u64,
        out: &mut VecDeque<Slice>,
    ) -> (Option<(u64, u64)>, u64) {
        let (lost, next) = self.read_at(from, events, bytes, u64::MAX, out);
        self.read_by_anybody(from, next);
        (lost, next)
    }

    /// Without a holder an event counts as read once anybody has read it.
    fn read_by_anybody(&mut self, from: u64, next: u64) {
        if self.floor == u64::MAX && from <= self.taken {
            self.taken = self.taken.max(next);
        }
    }

    fn read_at(
        &mut self,
        from: u64,
        events: usize,
        bytes: u64,
        upto: u64,
        out: &mut VecDeque<Slice>,
    ) -> (Option<(u64, u64)>, u64) {
        let lost = (from < self.base).then_some((from, self.base));
        let mut at = from.max(self.base);
        let upto = upto.min(self.next);
        if at < upto && !self.index.is_empty() && upto > self.open_first {
            self.seal();
        }
        let (mut events, mut bytes) = (events, bytes);
        // A reader that keeps up wants the newest, among very many.
        let newest = self.segments.back().filter(|s| s.first <= at).map(|_| self.segments.len() - 1);
        let first = newest.unwrap_or_else(|| self.segments.partition_point(|s| s.end() <= at));
        for segment in self.segments.range(first..) {
            if at >= upto || events == 0 || bytes == 0 {
                break;
            }
            let skip = at.saturating_sub(segment.first) as usize;
            let most = usize::try_from(upto - at).unwrap_or(usize::MAX).min(events);
            let mut slice = Slice { segment: segment.clone(), from: skip, to: segment.index.len() };
            slice.truncate(most);
            // About `bytes`: a slice that is too long is cut, but one event always goes.
            if slice.bytes() > bytes {
                let fits = segment.fits(skip, slice.to, bytes);
                slice.truncate(fits.max(1));
            }
            bytes = bytes.saturating_sub(slice.bytes());
            events -= slice.len();
            at = slice.end();
            let cut = at < segment.end();
            out.push_back(slice);
            if cut {
                break;
            }
        }
        (lost, at)
    }

    /// Number of the oldest event that is retained.
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Number of the next event.
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Number of the next event that a reader gets.
    pub fn reader_next(&self, id: ReaderId) -> u64 {
        self.readers.get(id.0).copied().flatten().map_or(self.next, |r| r.next)
    }

    /// Events that a holder has not read; 0 without a holder.
    pub const fn depth(&self) -> u64 {
        self.next.saturating_sub(self.floor)
    }

    /// Gives up what was not read, or only what nobody holds; it counts as lost in a shutdown.
    pub fn abandon(&mut self, held: bool) -> u64 {
        if !held && self.floor != u64::MAX {
            return 0;
        }
        let unread = self.next - self.taken;
        self.lost.shutdown += unread;
        self.taken = self.next;
        if held {
            self.trim(self.next);
        }
        unread
    }

    /// Counters.
    pub const fn counts(&self) -> LogCounts {
        let lost = self.lost;
        let unread = self.next - self.taken;
        LogCounts {
            ingested: self.ingested,
            refused: self.refused,
            read: self.ingested - unread - lost.total(),
            unread,
            lost,
            retained: self.next - self.base,
            bytes: self.bytes,
        }
    }
}

impl Segment {
    fn end(&self) -> u64 {
        self.first + self.index.len() as u64
    }

    fn cost(&self) -> u64 {
        self.data.len() as u64 + EVENT_COST * self.index.len() as u64 + SEGMENT_COST
    }

    /// How many events from `from` on, below `to`, take at most `bytes`.
    fn fits(&self, from: usize, to: usize, bytes: u64) -> usize {
        let begin = from.checked_sub(1).and_then(|at| self.index.get(at)).map_or(0, |e| e.end);
        let limit = u64::from(begin) + bytes;
        let part = self.index.get(from..to).unwrap_or(&[]);
        part.partition_point(|e| u64::from(e.end) <= limit)
    }
}

#[cfg(test)]
mod tests;
