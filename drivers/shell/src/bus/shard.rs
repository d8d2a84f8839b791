//! A shard: its log under one narrow lock, and who waits for it.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use net_proto::bus::{Backpressure, Ledger, Log, LogCounts, LogLimits, ReaderId, Refused, Slice};

use crate::bell::Bell;
use crate::short_lock::{Held, ShortLock};

/// Why an event was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EmitError {
    /// No room; nothing was taken, try again.
    #[error("no room now: readers or the engine are behind")]
    Backpressure,
    /// No room; the event was dropped, as configured.
    #[error("dropped for want of room, as configured")]
    Dropped,
    /// The event was left out by sampling, as configured.
    #[error("left out by sampling, as configured")]
    Sampled,
    /// The shard takes no events: it does not exist, or is retired.
    #[error("shard {0} takes no events")]
    Unrouted(u16),
    /// The event is longer than the limit.
    #[error("an event of {len} bytes is above the limit of {limit}")]
    TooLarge {
        /// Its length, in bytes.
        len: u64,
        /// The most that is possible, in bytes.
        limit: u64,
    },
    /// The bus was shut down.
    #[error("the bus is shut down")]
    Shutdown,
}

/// An event that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its number in the shard's log.
    pub at: u64,
    /// Incarnation and sequence.
    pub name: (u64, u64),
    /// When, in nanoseconds since 1970.
    pub stamp: u64,
}

#[derive(Debug)]
struct Core {
    log: Log,
    closed: bool,
    /// Bells of readers that sleep. Rung once, then forgotten.
    sleepers: Vec<Arc<Bell>>,
    /// Everything up to this number is safe: on memory all, else as outbox or engine say.
    safe: u64,
    /// Everything up to this number is acknowledged by the engine.
    acked: u64,
    /// Events that the engine acknowledged.
    delivered: u64,
    waiters: Vec<(u64, Waker)>,
    /// Events from this number on may not be sent yet: the outbox does not have them.
    gate: u64,
    /// The writing side is over for this reason; waiters learn it.
    stopped: bool,
    /// Nothing is sent any more: what left the log and is not acknowledged never will be.
    over: bool,
    external: bool,
    /// The reader that sends to the engine, attached from the start so that it misses nothing.
    sender: Option<ReaderId>,
    /// Rung once when so many events are unread, or one finds no room.
    watch: Option<(u64, Arc<Bell>)>,
}

/// A value on cache lines of its own: two, since processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Padded<T>(T);

/// A shard. Every call takes its lock for as long as it takes to copy an event or to count slices.
#[derive(Debug)]
pub struct ShardCell {
    core: Padded<ShortLock<Core>>,
    /// Number of the next event, as of the last change under the lock. A reader that keeps up looks here, and so
    /// takes neither the lock nor its cache line from the producers.
    published: Padded<AtomicU64>,
    max_event: u64,
}

impl ShardCell {
    /// An empty shard. `external`: delivery is what an engine acknowledges, not what is read.
    pub fn new(
        limits: LogLimits,
        mode: Backpressure,
        incarnation: u64,
        max_event: u32,
        external: bool,
    ) -> Self {
        let mut log = Log::new(limits, mode, incarnation);
        let sender = if external { log.attach(1, true) } else { None };
        let core = Core {
            log,
            closed: false,
            sleepers: Vec::new(),
            safe: 0,
            acked: 0,
            delivered: 0,
            waiters: Vec::new(),
            gate: u64::MAX,
            stopped: false,
            over: false,
            external,
            sender,
            watch: None,
        };
        let published = Padded(AtomicU64::new(core.log.next()));
        Self { core: Padded(ShortLock::new(core)), published, max_event: max_event.into() }
    }

    #[inline]
    fn lock(&self) -> Held<'_, Core> {
        self.core.0.lock()
    }

    /// Under the lock, after events were appended.
    #[inline]
    fn publish(&self, core: &Core) {
        self.published.0.store(core.log.next(), Ordering::Release);
    }

    /// Number of the next event, without the lock: at least that of everything whose `emit` was seen to return.
    #[inline]
    pub fn published(&self) -> u64 {
        self.published.0.load(Ordering::Acquire)
    }

    /// Appends an event. `now`: the clock in nanoseconds since 1970.
    pub fn emit(&self, body: &[u8], now: u64) -> Result<Taken, EmitError> {
        self.emit_under(self.lock(), body, now)
    }

    /// As [`ShardCell::emit`]; `None`, and nothing was done, if somebody holds the lock.
    #[inline(always)]
    pub fn try_emit(&self, body: &[u8], now: u64) -> Option<Result<Taken, EmitError>> {
        let core = self.core.0.try_lock()?;
        Some(self.emit_under(core, body, now))
    }

    #[inline(always)]
    fn emit_under(&self, mut core: Held<'_, Core>, body: &[u8], now: u64) -> Result<Taken, EmitError> {
        if body.len() as u64 > self.max_event {
            return Err(self.too_large(body));
        }
        if core.closed {
            return Err(EmitError::Shutdown);
        }
        let appended = core.log.append(body, now);
        self.publish(&core);
        let calls = core.calls(appended.is_ok(), appended.is_err());
        let taken = appended.map(|at| Taken { at, name: core.log.name_of(at), stamp: core.log.last_stamp() });
        drop(core);
        if let Some(calls) = calls {
            calls.ring();
        }
        taken.map_err(|why| self.refusal(why, body))
    }

    /// Appends events under one lock, with one reading of the clock; `each` learns what came of them.
    pub fn emit_many<B: AsRef<[u8]>>(
        &self,
        bodies: impl Iterator<Item = B>,
        now: u64,
        mut each: impl FnMut(Result<Taken, EmitError>),
    ) {
        let mut core = self.lock();
        let mut full = false;
        for body in bodies {
            let body = body.as_ref();
            if core.closed {
                each(Err(EmitError::Shutdown));
            } else if body.len() as u64 > self.max_event {
                each(Err(self.too_large(body)));
            } else {
                let result = core.log.append(body, now).map_err(|why| self.refusal(why, body));
                full |= result.is_err();
                let log = &core.log;
                each(result.map(|at| Taken { at, name: log.name_of(at), stamp: log.last_stamp() }));
            }
        }
        self.publish(&core);
        let calls = core.calls(true, full);
        drop(core);
        if let Some(calls) = calls {
            calls.ring();
        }
    }

    fn too_large(&self, body: &[u8]) -> EmitError {
        EmitError::TooLarge { len: body.len() as u64, limit: self.max_event }
    }

    fn refusal(&self, why: Refused, body: &[u8]) -> EmitError {
        match why {
            Refused::Newest => EmitError::Dropped,
            Refused::Sampled => EmitError::Sampled,
            Refused::TooLarge => self.too_large(body),
            _ => EmitError::Backpressure,
        }
    }

    /// Appends an event of an earlier life, whatever mode and room: the outbox bounds them.
    pub fn replay(&self, incarnation: u64, seq: u64, stamp: u64, body: &[u8]) -> u64 {
        let mut core = self.lock();
        core.log.rename(incarnation, seq);
        let at = core.log.replay(body, stamp);
        self.publish(&core);
        at
    }

    /// Events from now on are of this incarnation. Their sequences go on with the log's numbers.
    pub fn begin(&self, incarnation: u64) {
        let mut core = self.lock();
        let next = core.log.next();
        core.log.rename(incarnation, next);
    }

    /// Attaches a reader at number `next`, or at the oldest (`None`).
    pub fn attach(&self, next: Option<u64>, holds: bool) -> Option<(ReaderId, u64)> {
        let mut core = self.lock();
        let next = next.unwrap_or_else(|| core.log.base());
        core.log.attach(next, holds).map(|id| (id, next))
    }

    /// The reader that sends to the engine; `None` on memory.
    pub fn sender(&self) -> Option<ReaderId> {
        self.lock().sender
    }

    /// Detaches a reader.
    pub fn detach(&self, id: ReaderId) {
        self.lock().log.detach(id);
    }

    /// Reads on as an attached reader; what is gone. Afterwards nothing gets a stamp of at most
    /// `raise`.
    pub fn read(
        &self,
        id: ReaderId,
        (events, bytes, upto): (usize, u64, u64),
        raise: u64,
        out: &mut VecDeque<Slice>,
    ) -> Option<(u64, u64)> {
        let mut core = self.lock();
        core.log.raise(raise);
        core.log.read(id, events, bytes, upto, out)
    }

    /// Reads without being attached; what is gone.
    pub fn peek(
        &self,
        from: u64,
        (events, bytes): (usize, u64),
        raise: u64,
        out: &mut VecDeque<Slice>,
    ) -> Option<(u64, u64)> {
        let mut core = self.lock();
        core.log.raise(raise);
        core.log.peek(from, events, bytes, out).0
    }

    /// Whether a reader at number `next` may sleep: nothing is there, and the next event rings
    /// `bell`. False too once the shard is closed. `gated`: only what may be sent counts.
    pub fn may_sleep(&self, next: u64, gated: bool, bell: &Arc<Bell>) -> bool {
        let mut core = self.lock();
        let end = if gated { core.log.next().min(core.gate) } else { core.log.next() };
        if end > next || core.closed {
            return false;
        }
        core.sleep(bell);
        true
    }

    /// Rings `bell` at the next event or at the closing, whatever is there now.
    pub fn listen(&self, bell: &Arc<Bell>) {
        self.lock().sleep(bell);
    }

    /// What may be sent ends before this number.
    pub fn sendable(&self) -> u64 {
        let core = self.lock();
        core.log.next().min(core.gate)
    }

    /// Events from number `gate` on may not be sent.
    pub fn set_gate(&self, gate: u64) {
        let sleepers = {
            let mut core = self.lock();
            core.gate = gate;
            mem::take(&mut core.sleepers)
        };
        sleepers.iter().for_each(|bell| bell.ring());
    }

    /// Number of the next event that an attached reader gets.
    pub fn reader_next(&self, id: ReaderId) -> u64 {
        self.lock().log.reader_next(id)
    }

    /// Number of the oldest retained event, and of the next.
    pub fn range(&self) -> (u64, u64) {
        let core = self.lock();
        (core.log.base(), core.log.next())
    }

    /// Events that a holder, or the engine, has not got yet.
    pub fn depth(&self) -> u64 {
        self.lock().log.depth()
    }

    /// Rings `bell` once when `mark` events are unread or one finds no room. False if so many are now. A shard
    /// that is closed, also one alone, gets no more: there is nothing to watch.
    pub fn watch(&self, mark: u64, bell: &Arc<Bell>) -> bool {
        let mut core = self.lock();
        if core.closed {
            return true;
        }
        if core.log.depth() >= mark {
            return false;
        }
        core.watch = Some((mark, bell.clone()));
        true
    }

    /// Takes no more events; readers read to the end.
    pub fn close(&self) {
        let sleepers = {
            let mut core = self.lock();
            core.closed = true;
            mem::take(&mut core.sleepers)
        };
        sleepers.iter().for_each(|bell| bell.ring());
    }

    /// Whether it takes no more events.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// The engine has everything up to `acked`, which are `events` more; `safe` counts what an
    /// outbox has, too. How many calls waited for that.
    pub fn confirm(&self, safe: u64, acked: u64, events: u64) -> usize {
        let ready = {
            let mut core = self.lock();
            core.acked = core.acked.max(acked);
            core.delivered += events;
            core.safe = core.safe.max(safe).max(acked);
            let safe = core.safe;
            core.waiters.extract_if(.., |(at, _)| *at <= safe).collect::<Vec<_>>()
        };
        let woken = ready.len();
        ready.into_iter().for_each(|(_, waker)| waker.wake());
        woken
    }

    /// Nothing will be confirmed any more. `over`: nothing is sent any more either.
    pub fn stop(&self, over: bool) {
        let waiters = {
            let mut core = self.lock();
            core.stopped = true;
            core.over |= over;
            mem::take(&mut core.waiters)
        };
        waiters.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Ready when everything up to `at` is safe (true) or never will be (false).
    pub fn poll_safe(&self, at: u64, cx: &Context<'_>) -> Poll<bool> {
        let mut core = self.lock();
        if core.safe >= at || !core.external {
            return Poll::Ready(true);
        }
        if core.stopped {
            return Poll::Ready(false);
        }
        // A waker per waiting call; those of dropped calls go with the next confirmation.
        match core.waiters.iter_mut().find(|(held, waker)| *held == at && waker.will_wake(cx.waker())) {
            Some(_) => {}
            None => core.waiters.push((at, cx.waker().clone())),
        }
        Poll::Pending
    }

    /// What is safe, and what the engine has.
    pub fn confirmed(&self) -> (u64, u64) {
        let core = self.lock();
        if core.external { (core.safe, core.acked) } else { (core.log.next() - 1, core.log.next() - 1) }
    }

    /// Gives up what was not read, or only what nobody holds.
    pub fn abandon(&self, held: bool) -> u64 {
        self.lock().log.abandon(held)
    }

    /// Counters of the log.
    pub fn counts(&self) -> LogCounts {
        self.lock().log.counts()
    }

    /// The balance of the shard.
    pub fn ledger(&self) -> Ledger {
        let core = self.lock();
        let c = core.log.counts();
        let mut ledger = Ledger {
            ingested: c.ingested,
            delivered: c.read,
            queued: c.unread,
            lost: c.lost,
            refused: c.refused,
        };
        if core.external {
            // What left the log is on its way until the engine has it, or nobody sends it any more. Of that
            // the next life sends what an outbox has.
            let left = c.read.saturating_sub(core.delivered) + c.lost.shutdown;
            let queued = if core.over { left.min(core.safe - core.acked) } else { left - c.lost.shutdown };
            ledger.delivered = core.delivered;
            ledger.queued += queued;
            ledger.lost.shutdown = left - queued;
        }
        ledger
    }
}

impl Core {
    /// Whom to tell, once the lock is free, that events were `taken` or one found no room (`full`). Usually nobody.
    #[inline]
    fn calls(&mut self, taken: bool, full: bool) -> Option<Calls> {
        let calls = taken && !self.sleepers.is_empty() || self.watch.is_some();
        if calls { self.some_calls(taken, full) } else { None }
    }

    fn some_calls(&mut self, taken: bool, full: bool) -> Option<Calls> {
        let sleepers = if taken { mem::take(&mut self.sleepers) } else { Vec::new() };
        let fills_up = |(mark, _): &mut (u64, Arc<Bell>)| full || self.log.depth() >= *mark;
        let watch = self.watch.take_if(fills_up).map(|(_, bell)| bell);
        (!sleepers.is_empty() || watch.is_some()).then_some(Calls { sleepers, watch })
    }

    fn sleep(&mut self, bell: &Arc<Bell>) {
        if !self.sleepers.iter().any(|held| Arc::ptr_eq(held, bell)) {
            self.sleepers.push(bell.clone());
        }
    }
}

/// Bells to ring without the lock.
struct Calls {
    sleepers: Vec<Arc<Bell>>,
    watch: Option<Arc<Bell>>,
}

impl Calls {
    #[cold]
    fn ring(self) {
        self.sleepers.iter().chain(&self.watch).for_each(|bell| bell.ring());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell() -> ShardCell {
        let limits = LogLimits { events: 2, bytes: 4096, keep: true };
        ShardCell::new(limits, Backpressure::FailProducer, 1, 16, false)
    }

    #[test]
    fn who_meets_somebody_at_the_lock_is_told_so_and_nothing_happened() {
        let cell = cell();
        let held = cell.lock();
        assert_eq!(cell.try_emit(b"a", 1), None);
        drop(held);
        assert_eq!(cell.counts().ingested, 0);
        assert_eq!(cell.try_emit(b"a", 1).map(|taken| taken.map(|t| t.at)), Some(Ok(1)));
    }

    #[test]
    fn the_published_number_follows_every_way_in() {
        let cell = cell();
        assert_eq!(cell.published(), 1);
        cell.emit(b"a", 1).unwrap();
        assert_eq!(cell.published(), 2);
        let (id, _) = cell.attach(None, true).unwrap();
        cell.emit_many([b"b", b"c"].iter(), 1, drop);
        assert_eq!(cell.published(), 3, "the third found no room");
        assert_eq!(cell.emit(b"c", 1), Err(EmitError::Backpressure));
        assert_eq!(cell.published(), 3);
        cell.replay(2, 9, 1, b"d");
        assert_eq!((cell.published(), cell.reader_next(id), cell.range()), (4, 1, (1, 4)));
    }
}
