//! Readers: subscriptions and polls, over the logs in memory or over an adapter.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use net_proto::bus::{Cursor, Event, EventId, Position, ReaderId, Shard, Slice};
use net_proto::planted;
use net_proto::time::Instant;

use super::Bus;
use super::adapter::{Adapter, AdapterError, BoxFut, Incoming, Page};
use super::item::{EventRef, Item, ItemRef, Memory};
use crate::bell::Bell;

/// In which order a reader gets the events of several shards. Within a shard it is always the order
/// in which they were accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ordering {
    /// Shards take turns; no order between them.
    #[default]
    None,
    /// By the time of acceptance. On memory exact; elsewhere among what was fetched together, by the
    /// clocks of the producers.
    Insertion,
    /// Events of one key in the order of acceptance. They share a shard, so this costs nothing more
    /// than `None`; after the number of shards changed, what was accepted before the change may come
    /// after what was accepted later (use `Insertion` where that matters).
    Key,
}

/// Where a reader starts in shards that its cursor does not name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartAt {
    /// At the oldest event that is retained.
    #[default]
    Oldest,
    /// Behind the newest.
    Latest,
}

#[derive(Debug)]
enum Chunk {
    Slice(Slice),
    Page(VecDeque<Incoming>),
}

#[derive(Debug)]
struct Lane {
    shard: Shard,
    /// Attached to the log; `None` for polls and adapters.
    reader: Option<ReaderId>,
    /// Memory: number of the next event to fetch.
    next: u64,
    /// Adapters: what was fetched last.
    at: Option<Position>,
    lost: Option<(Position, Position)>,
    chunks: VecDeque<Chunk>,
    /// Engines: there was more behind what was fetched last.
    more: bool,
    /// The position that was returned last.
    seen: Option<Position>,
}

/// Reads on at most as many events, and about as many bytes, of a shard at a time.
const FETCH: (usize, u64) = (16_384, 1 << 20);
/// Events of one shard before the next has its turn.
const TURN: usize = 512;
/// How long one question to an engine may wait for events.
const LONG_POLL: Duration = Duration::from_secs(5);

/// A look that finds so many events after a sleep was too late: events flow.
const FLOW: u64 = 4;
/// While events flow, a batch of so many is waited for. Taking each event alone would cost its producer more than
/// the event.
const BATCH: u64 = 256;
/// It is waited for in so many pauses, of so many turns of the processor: 1 to 3 µs each. Looking more often would take
/// the number that is looked at from the producer's cache.
const PAUSES: u32 = 16;
const SPINS: u32 = 64;
/// Looks in a row that find something, before other tasks have their turn.
const LOOKS: u32 = 64;

/// How often a reader of all shards asks an engine which there are; and one that knows of none yet.
const NEW_SHARDS: Duration = Duration::from_secs(2);
const FIRST_SHARD: Duration = Duration::from_millis(250);

/// Shards that were not known before, and what was read.
type Fetched = (Vec<Shard>, Vec<Page>);
type Fetch = BoxFut<'static, Result<Fetched, AdapterError>>;

/// A reader of some shards. Not attached to any task: whoever polls it last is woken.
pub struct Reader {
    bus: Arc<Bus>,
    lanes: Vec<Lane>,
    ordering: Ordering,
    turn: usize,
    left: usize,
    bell: Arc<Bell>,
    fetch: Option<Fetch>,
    /// Memory, by insertion: events above this stamp may still get an older neighbour.
    horizon: u64,
    cursor: Cursor,
    scratch: VecDeque<Slice>,
    quantum: usize,
    /// Engines: events of a shard that are asked for at a time.
    page: usize,
    /// Engines: when to ask which shards there are; `None`: never, only some are wanted.
    look: Option<Instant>,
    /// Memory: more events are expected within microseconds; do not sleep at once.
    flows: bool,
    /// Looks since this reader slept or let others run.
    looks: u32,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("cursor", &self.cursor().to_string()).finish_non_exhaustive()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        for lane in &self.lanes {
            if let (Some(id), Some(cell)) = (lane.reader, self.bus.cell(lane.shard)) {
                cell.detach(id);
            }
        }
    }
}

impl Reader {
    /// A reader of `shards`, from `cursor` on. `attached`: events that it has not read count for
    /// back-pressure. `None`: too many readers are attached.
    pub fn new(
        bus: Arc<Bus>,
        shards: &[Shard],
        cursor: Cursor,
        tail: &[(Shard, Position)],
        ordering: Ordering,
        attached: bool,
    ) -> Option<Self> {
        let mut reader = Self {
            lanes: Vec::new(),
            ordering,
            turn: 0,
            left: TURN,
            bell: Arc::new(Bell::default()),
            fetch: None,
            horizon: 0,
            cursor,
            scratch: VecDeque::new(),
            quantum: TURN,
            page: TURN,
            look: None,
            flows: false,
            looks: 0,
            bus,
        };
        for &shard in shards {
            let at = reader.cursor.get(shard);
            let at = at.or_else(|| tail.iter().find(|(s, _)| *s == shard).map(|(_, at)| *at));
            let mut lane = Lane::at(shard, at);
            if reader.bus.adapter().is_none() {
                reader.place(&mut lane, attached)?;
            }
            reader.lanes.push(lane);
        }
        Some(reader)
    }

    /// Puts a lane on the log in memory.
    fn place(&self, lane: &mut Lane, attached: bool) -> Option<()> {
        let cell = self.bus.cell(lane.shard)?;
        let (base, end) = cell.range();
        let major = self.bus.incarnation();
        lane.next = match lane.at {
            None => base,
            Some(at) if at.major == major => at.minor.saturating_add(1).min(end),
            // A cursor of an earlier life, whose events went with its memory.
            Some(at) => {
                lane.lost = Some((at, Position::new(major, base - 1)));
                base
            }
        };
        if attached {
            lane.reader = Some(cell.attach(Some(lane.next), true)?.0);
        }
        Some(())
    }

    /// Gives shards their turn after so many events.
    pub fn turn_of(mut self, events: usize) -> Self {
        (self.quantum, self.left) = (events.max(1), events.max(1));
        self.page_of(events)
    }

    /// Shards that it reads.
    pub const fn shards(&self) -> usize {
        self.lanes.len()
    }

    /// Asks an engine for so many events of a shard at a time.
    pub fn page_of(mut self, events: usize) -> Self {
        self.page = events.clamp(1, FETCH.0);
        self
    }

    /// Reads shards of the engine as well that appear later, whoever writes to them: from the cursor on that this
    /// reader was given, or else from their first event.
    pub fn finding_shards(mut self) -> Self {
        self.look = Some(self.bus.runtime().now() + NEW_SHARDS);
        self
    }

    /// Where the reader stands: behind everything that it returned.
    pub fn cursor(&self) -> Cursor {
        let mut cursor = self.cursor.clone();
        for lane in &self.lanes {
            let seen = if planted!(CursorAhead) { lane.at } else { lane.seen };
            if let Some(seen) = seen {
                cursor.set(lane.shard, seen);
            }
        }
        cursor
    }

    /// The next item. `None` after the bus was shut down and everything was read. An error of the
    /// engine ends nothing: the next call asks again.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Item, AdapterError>>> {
        loop {
            if let Some(item) = self.pop() {
                return Poll::Ready(Some(Ok(item)));
            }
            if self.bus.adapter().is_some() {
                match ready!(self.poll_fetch(cx, LONG_POLL)) {
                    Ok(true) => continue,
                    Ok(false) if self.bus.is_closed() => return Poll::Ready(None),
                    Ok(false) => continue,
                    Err(AdapterError::Shutdown) => return Poll::Ready(None),
                    Err(error) => return Poll::Ready(Some(Err(error))),
                }
            }
            if self.looks >= LOOKS {
                self.looks = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.looks += 1;
            let waiting = self.gather();
            if self.collect() {
                self.flows |= waiting >= FLOW;
                continue;
            }
            if self.bus.is_closed() {
                // What was appended between the look and the closing.
                if self.collect() {
                    continue;
                }
                return Poll::Ready(None);
            }
            self.bell.doze(cx.waker());
            let quiet = self.lanes.iter().all(|lane| {
                self.bus.cell(lane.shard).is_some_and(|c| c.may_sleep(lane.next, false, &self.bell))
            });
            if quiet {
                (self.flows, self.looks) = (false, 0);
                return Poll::Pending;
            }
            self.bell.wake_up();
        }
    }

    /// Memory: events that wait in the logs. Takes no lock.
    fn waiting(&self) -> u64 {
        let of = |lane: &Lane| Some(self.bus.cell(lane.shard)?.published().saturating_sub(lane.next));
        self.lanes.iter().filter_map(of).sum()
    }

    /// Memory: the same, after a short while for a batch to form if events flow.
    fn gather(&self) -> u64 {
        let mut waiting = self.waiting();
        for _ in 0..if self.flows { PAUSES } else { 0 } {
            if waiting >= BATCH {
                break;
            }
            (0..SPINS).for_each(|_| std::hint::spin_loop());
            // Nothing but a system call, unless a producer waits for this very core.
            std::thread::yield_now();
            waiting = self.waiting();
        }
        waiting
    }

    /// Looks once, without waiting: on memory at once, else as fast as the engine answers.
    pub fn poll_once(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, AdapterError>> {
        if self.bus.adapter().is_none() {
            return Poll::Ready(Ok(self.collect()));
        }
        self.poll_fetch(cx, Duration::ZERO)
    }

    /// What was fetched and not returned yet, next in order.
    #[inline]
    pub fn pop(&mut self) -> Option<Item> {
        self.visit(|item| item.to_item())
    }

    /// As [`Reader::pop`], lent to `each`.
    #[inline]
    pub fn visit<R>(&mut self, each: impl FnOnce(ItemRef<'_>) -> R) -> Option<R> {
        let lane = match self.ordering {
            Ordering::Insertion => self.oldest()?,
            _ => self.next_turn()?,
        };
        let lane = self.lanes.get_mut(lane)?;
        if let Some((from, to)) = lane.lost.take() {
            lane.seen = Some(to);
            return Some(each(ItemRef::Lost { shard: lane.shard, from, to }));
        }
        let event = lane.front(&self.bus)?;
        let position = event.position;
        let told = each(ItemRef::Event(event));
        lane.advance(position);
        self.left = self.left.saturating_sub(1);
        Some(told)
    }

    #[inline]
    fn next_turn(&mut self) -> Option<usize> {
        let n = self.lanes.len();
        if self.left == 0 || !self.lanes.get(self.turn).is_some_and(Lane::has_any) {
            let begin = self.turn + 1;
            self.turn = (begin..begin + n).map(|i| i % n).find(|i| self.lanes[*i].has_any())?;
            self.left = self.quantum;
        }
        Some(self.turn)
    }

    /// The lane whose next event is the oldest, if nothing older can come.
    fn oldest(&self) -> Option<usize> {
        if let Some(lost) = self.lanes.iter().position(|lane| lane.lost.is_some()) {
            return Some(lost);
        }
        let memory = self.bus.adapter().is_none();
        let stamps = self.lanes.iter().enumerate().filter_map(|(i, lane)| Some((lane.stamp()?, i)));
        let (stamp, lane) = stamps.min()?;
        (!memory || stamp <= self.horizon).then_some(lane)
    }

    /// Memory: takes what is there. True if there is something to pop.
    fn collect(&mut self) -> bool {
        self.fetch_memory(0);
        if self.ordering == Ordering::Insertion {
            // Everything of at most this stamp is here once every log was looked at again and raised
            // to it; a log that was not read to its end bounds it further.
            let newest = self.lanes.iter().filter_map(Lane::last).max().unwrap_or(0);
            self.horizon = newest.min(self.fetch_memory(newest));
        }
        self.lanes.iter().any(Lane::has_any)
    }

    /// The last stamp that was fetched from any log that has more; `u64::MAX` if none has.
    fn fetch_memory(&mut self, raise: u64) -> u64 {
        let major = self.bus.incarnation();
        let mut complete = u64::MAX;
        for lane in &mut self.lanes {
            let Some(cell) = self.bus.cell(lane.shard) else { continue };
            // What waits is read first: a slow reader leaves events to the log's rule.
            let skipped = lane.chunks.len() > 1;
            // A log without news is left alone, unless it is to be raised.
            let news = raise > 0 || cell.published() > lane.next;
            if !skipped && news {
                let (events, bytes) = FETCH;
                let lost = match lane.reader {
                    Some(id) => cell.read(id, (events, bytes, u64::MAX), raise, &mut self.scratch),
                    None => cell.peek(lane.next, (events, bytes), raise, &mut self.scratch),
                };
                if let Some((from, to)) = lost {
                    lane.lost = Some((Position::new(major, from - 1), Position::new(major, to - 1)));
                    lane.next = to;
                }
                for slice in self.scratch.drain(..) {
                    lane.next = slice.end();
                    lane.chunks.push_back(Chunk::Slice(slice));
                }
            }
            // A log that was not looked at was not raised either.
            if raise > 0 && (skipped || cell.range().1 > lane.next) {
                complete = complete.min(lane.last().unwrap_or(0));
            }
        }
        complete
    }

    fn poll_fetch(&mut self, cx: &mut Context<'_>, wait: Duration) -> Poll<Result<bool, AdapterError>> {
        let Some(adapter) = self.bus.adapter().cloned() else { return Poll::Ready(Ok(false)) };
        if self.fetch.is_none() {
            self.fetch = Some(self.ask(adapter, wait));
        }
        let Some(fetch) = &mut self.fetch else { return Poll::Ready(Ok(false)) };
        let fetched = ready!(fetch.as_mut().poll(cx));
        self.fetch = None;
        let (shards, pages) = match fetched {
            Ok(fetched) => fetched,
            Err(error) => return Poll::Ready(Err(error)),
        };
        self.lanes.extend(shards.into_iter().map(|shard| Lane::at(shard, self.cursor.get(shard))));
        let mut any = false;
        self.lanes.iter_mut().for_each(|lane| lane.more = false);
        for page in pages {
            let Some(lane) = self.lanes.iter_mut().find(|lane| lane.shard == page.shard) else { continue };
            lane.more = page.more;
            if let Some((from, to)) = page.lost {
                lane.lost = Some((from, to)).filter(|_| !planted!(LostUntold));
                lane.at = Some(lane.at.map_or(to, |at| at.max(to)));
                any = true;
            }
            // An engine that repeats itself must not make a reader see an event twice.
            let floor = lane.at;
            let events: VecDeque<_> =
                page.events.into_iter().filter(|e| floor.is_none_or(|at| e.position > at)).collect();
            if let Some(last) = events.back() {
                lane.at = Some(last.position);
                lane.chunks.push_back(Chunk::Page(events));
                any = true;
            }
        }
        Poll::Ready(Ok(any))
    }

    /// A question to the engine: first for its shards if it is time for that, then for events.
    fn ask(&mut self, adapter: Arc<dyn Adapter>, wait: Duration) -> Fetch {
        let now = self.bus.runtime().now();
        let looks = self.look.is_some_and(|at| at <= now);
        if looks {
            self.look = Some(now + NEW_SHARDS);
        }
        let wait = match self.look {
            Some(_) if self.lanes.is_empty() => wait.min(FIRST_SHARD),
            Some(_) => wait.min(NEW_SHARDS),
            None => wait,
        };
        let looks = looks || self.look.is_some() && self.lanes.is_empty();
        let mut from: Vec<_> = self.lanes.iter().map(|lane| (lane.shard, lane.at)).collect();
        let (limit, cursor) = (self.page, self.cursor.clone());
        Box::pin(async move {
            let mut found = if looks { adapter.shards().await? } else { Vec::new() };
            found.sort_unstable();
            found.dedup();
            found.retain(|shard| from.iter().all(|(known, _)| known != shard));
            from.extend(found.iter().map(|shard| (*shard, cursor.get(*shard))));
            let pages = adapter.read(&from, limit, wait).await?;
            Ok((found, pages))
        })
    }

    /// Whether something was fetched and not returned, or an engine has more.
    pub fn has_more(&self) -> bool {
        self.lanes.iter().any(|lane| lane.more || lane.has_any())
    }
}

impl Lane {
    const fn at(shard: Shard, at: Option<Position>) -> Self {
        Self {
            shard,
            reader: None,
            next: 0,
            at,
            lost: None,
            chunks: VecDeque::new(),
            more: false,
            seen: None,
        }
    }

    #[inline]
    fn has_any(&self) -> bool {
        self.lost.is_some() || !self.chunks.is_empty()
    }

    fn stamp(&self) -> Option<u64> {
        match self.chunks.front()? {
            Chunk::Slice(slice) => slice.peek().map(|e| e.stamp),
            Chunk::Page(page) => page.front().map(|e| e.stamp),
        }
    }

    fn last(&self) -> Option<u64> {
        match self.chunks.back()? {
            Chunk::Slice(slice) => Some(slice.last_stamp()),
            Chunk::Page(page) => page.back().map(|e| e.stamp),
        }
    }

    #[inline]
    fn front(&self, bus: &Bus) -> Option<EventRef<'_>> {
        let shard = self.shard;
        match self.chunks.front()? {
            Chunk::Slice(slice) => {
                let Event { at, incarnation, seq, stamp, body } = slice.peek()?;
                let id = Some(EventId { producer: bus.producer(), incarnation, shard, seq });
                let position = Position::new(bus.incarnation(), at);
                Some(EventRef { shard, position, id, stamp, raw: body, memory: Memory::Slice(slice) })
            }
            Chunk::Page(page) => {
                let Incoming { position, id, stamp, raw } = page.front()?;
                let (position, id, stamp) = (*position, *id, *stamp);
                Some(EventRef { shard, position, id, stamp, raw, memory: Memory::Whole(raw) })
            }
        }
    }

    /// The event in front, which is at `position`, was returned.
    #[inline]
    fn advance(&mut self, position: Position) {
        self.seen = Some(position);
        let over = match self.chunks.front_mut() {
            Some(Chunk::Slice(slice)) => {
                slice.skip_one();
                slice.is_empty()
            }
            Some(Chunk::Page(page)) => {
                page.pop_front();
                page.is_empty()
            }
            None => false,
        };
        if over {
            self.chunks.pop_front();
        }
    }
}
