//! An engine in memory that fails on command: the smallest adapter there is, for tests of what
//! stands on adapters, and the example for whoever writes one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use net_proto::bus::{EventId, Position, Shard};

use super::adapter::{
    Ack, Adapter, AdapterCaps, AdapterError, Batch, BoxFut, Incoming, Link, Outgoing, Page, Setup,
};
use crate::bell::lock;
use crate::runtime::{Runtime, Timer};

/// What goes wrong next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// So many attempts to open a link fail.
    pub refuse_links: u32,
    /// After so many more batches the link breaks, and what it carried takes the next two values.
    pub break_after: Option<u32>,
    /// Events of the breaking batch that the engine takes before the break.
    pub take_of_last: usize,
    /// Nothing is acknowledged until this is lifted; events are taken all the same.
    pub hold_acks: bool,
    /// Nothing answers.
    pub down: bool,
}

#[derive(Debug, Default)]
struct State {
    shards: BTreeMap<Shard, Stored>,
    faults: Faults,
    wakers: Vec<Waker>,
    /// Questions of readers.
    reads: u64,
}

#[derive(Debug, Default)]
struct Stored {
    /// Position of the oldest event that is held.
    base: u64,
    events: VecDeque<Outgoing>,
    /// Names in order of arrival, never forgotten.
    log: Vec<EventId>,
}

/// The engine. Clones share it; it outlives every bus.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    state: Arc<Mutex<State>>,
    retain: Option<usize>,
    dedup: bool,
}

impl Engine {
    /// An empty engine that keeps everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps at most so many events per shard.
    pub const fn retaining(mut self, events: usize) -> Self {
        self.retain = Some(events);
        self
    }

    /// Drops events whose name it has already.
    pub const fn deduplicating(mut self) -> Self {
        self.dedup = true;
        self
    }

    /// An adapter to it.
    pub fn adapter(&self) -> EngineAdapter {
        EngineAdapter { engine: self.clone(), runtime: Mutex::default() }
    }

    /// Sets what goes wrong next.
    pub fn set(&self, faults: Faults) {
        let wakers = {
            let mut state = lock(&self.state);
            state.faults = faults;
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Names of all events that a shard ever took, in order, repetitions included.
    pub fn taken(&self, shard: Shard) -> Vec<EventId> {
        lock(&self.state).shards.get(&shard).map(|s| s.log.clone()).unwrap_or_default()
    }

    /// How often readers have asked for events.
    pub fn reads(&self) -> u64 {
        lock(&self.state).reads
    }

    fn take(&self, shard: Shard, events: &[Outgoing]) {
        let wakers = {
            let mut state = lock(&self.state);
            let stored = state.shards.entry(shard).or_default();
            for event in events {
                if self.dedup && stored.log.contains(&event.id) {
                    continue;
                }
                stored.log.push(event.id);
                stored.events.push_back(event.clone());
                if self.retain.is_some_and(|most| stored.events.len() > most) {
                    stored.events.pop_front();
                    stored.base += 1;
                }
            }
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn read(&self, from: &[(Shard, Option<Position>)], limit: usize, cx: Option<&Context<'_>>) -> Vec<Page> {
        let mut state = lock(&self.state);
        let mut pages = Vec::new();
        for (shard, at) in from {
            let Some(stored) = state.shards.get(shard) else { continue };
            let seen = at.map_or(0, |at| at.minor);
            let lost = (seen < stored.base && at.is_some())
                .then(|| (Position::new(0, seen), Position::new(0, stored.base)));
            let skip = seen.saturating_sub(stored.base) as usize;
            let mut events: Vec<_> = stored
                .events
                .iter()
                .enumerate()
                .skip(skip)
                .take(limit + 1)
                .map(|(n, e)| Incoming {
                    position: Position::new(0, stored.base + n as u64 + 1),
                    id: Some(e.id),
                    stamp: e.stamp,
                    raw: e.raw.clone(),
                })
                .collect();
            let more = events.len() > limit;
            events.truncate(limit);
            if lost.is_some() || !events.is_empty() {
                pages.push(Page { shard: *shard, lost, events, more });
            }
        }
        if let Some(cx) = cx
            && pages.is_empty()
        {
            state.wakers.push(cx.waker().clone());
        }
        pages
    }

    fn check(&self) -> Result<(), AdapterError> {
        if lock(&self.state).faults.down {
            return Err(AdapterError::Connection("the engine is down".into()));
        }
        Ok(())
    }
}

/// See [`Engine::adapter`].
pub struct EngineAdapter {
    engine: Engine,
    runtime: Mutex<Option<Arc<dyn Runtime>>>,
}

impl Adapter for EngineAdapter {
    fn name(&self) -> &'static str {
        "engine"
    }

    fn caps(&self) -> AdapterCaps {
        AdapterCaps {
            durable: true,
            dedup: self.engine.dedup,
            max_event: 1 << 20,
            batch_events: 1000,
            batch_bytes: 4 << 20,
            window: 4,
        }
    }

    fn start<'a>(&'a self, setup: &'a Setup) -> BoxFut<'a, Result<(), AdapterError>> {
        *lock(&self.runtime) = Some(setup.runtime.clone());
        Box::pin(async { self.engine.check() })
    }

    fn open(&self, shard: Shard) -> BoxFut<'_, Result<Box<dyn Link>, AdapterError>> {
        Box::pin(async move {
            self.engine.check()?;
            let mut state = lock(&self.engine.state);
            if state.faults.refuse_links > 0 {
                state.faults.refuse_links -= 1;
                return Err(AdapterError::Connection("refused".into()));
            }
            state.shards.entry(shard).or_default();
            let link = EngineLink { engine: self.engine.clone(), acks: VecDeque::new(), broken: false };
            Ok(Box::new(link) as Box<dyn Link>)
        })
    }

    fn read<'a>(
        &'a self,
        from: &'a [(Shard, Option<Position>)],
        limit: usize,
        wait: Duration,
    ) -> BoxFut<'a, Result<Vec<Page>, AdapterError>> {
        Box::pin(async move {
            lock(&self.engine.state).reads += 1;
            let mut timer: Option<(Box<dyn Timer>, _)> =
                lock(&self.runtime).as_ref().map(|rt| (rt.timer(), rt.now() + wait));
            std::future::poll_fn(|cx| {
                self.engine.check()?;
                let pages = self.engine.read(from, limit, Some(cx));
                if !pages.is_empty() || wait.is_zero() {
                    return Poll::Ready(Ok(pages));
                }
                match &mut timer {
                    Some((timer, at)) => timer.poll(cx, Some(*at)).map(|()| Ok(Vec::new())),
                    None => Poll::Ready(Ok(Vec::new())),
                }
            })
            .await
        })
    }

    fn tail<'a>(&'a self, shards: &'a [Shard]) -> BoxFut<'a, Result<Vec<(Shard, Position)>, AdapterError>> {
        Box::pin(async move {
            self.engine.check()?;
            let state = lock(&self.engine.state);
            let end = |s: &Stored| Position::new(0, s.base + s.events.len() as u64);
            Ok(shards.iter().filter_map(|s| Some((*s, end(state.shards.get(s)?)))).collect())
        })
    }

    fn shards(&self) -> BoxFut<'_, Result<Vec<Shard>, AdapterError>> {
        Box::pin(async move {
            self.engine.check()?;
            Ok(lock(&self.engine.state).shards.keys().copied().collect())
        })
    }

    fn health(&self) -> BoxFut<'_, Result<(), AdapterError>> {
        Box::pin(async { self.engine.check() })
    }

    fn shutdown(&self) -> BoxFut<'_, Result<(), AdapterError>> {
        Box::pin(async { Ok(()) })
    }
}

struct EngineLink {
    engine: Engine,
    acks: VecDeque<u64>,
    broken: bool,
}

impl Link for EngineLink {
    fn send(&mut self, batch: Batch) -> Result<(), AdapterError> {
        let (breaks, take) = {
            let mut state = lock(&self.engine.state);
            let breaks = state.faults.down || state.faults.break_after == Some(0);
            if let Some(left) = &mut state.faults.break_after {
                *left = left.saturating_sub(1);
            }
            if breaks {
                state.faults.break_after = None;
            }
            (breaks, if state.faults.down { 0 } else { state.faults.take_of_last })
        };
        if breaks || self.broken {
            if !self.broken {
                self.engine.take(batch.shard, &batch.events[..take.min(batch.events.len())]);
            }
            self.broken = true;
            return Ok(());
        }
        self.engine.take(batch.shard, &batch.events);
        self.acks.push_back(batch.first + batch.events.len() as u64 - 1);
        Ok(())
    }

    fn poll_ack(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ack, AdapterError>> {
        let mut state = lock(&self.engine.state);
        if self.broken || state.faults.down {
            return Poll::Ready(Err(AdapterError::Connection("broken".into())));
        }
        if !state.faults.hold_acks
            && let Some(upto) = self.acks.pop_front()
        {
            return Poll::Ready(Ok(Ack { upto }));
        }
        state.wakers.push(cx.waker().clone());
        Poll::Pending
    }
}
