//! The event bus around its machines: locks, wakers, tasks for adapters. `docs/BUS.md` is the guide.
//!
//! `emit` takes the lock of one shard and nothing else; it never reaches a task. Readers on memory
//! look at the shards themselves. With an adapter one task per shard moves batches from the log to
//! the engine.

pub mod adapter;
#[cfg(test)]
mod by_hand;
pub mod conformance;
pub mod engine;
mod item;
mod outbox;
mod pump;
mod reader;
mod scale;
mod shard;

use std::collections::BTreeMap;
use std::sync::atomic::{
    AtomicBool, AtomicU16, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed,
    Ordering::Release,
};
use std::sync::{Arc, Mutex, OnceLock};

use net_proto::bus::{
    Backpressure, BatchConfig, FULL, Ledger, LogLimits, OutboxError, ProducerId, ScaleConfig, Shard, route,
};
use net_proto::planted;
use net_proto::storage::Storage;
use net_proto::time::{Duration, Instant, nanos};

use crate::bell::{Bell, lock};
use crate::runtime::Runtime;
use adapter::{Adapter, AdapterError};
pub use item::{EventRef, Item, ItemRef, StoredEvent};
use outbox::OutboxShared;
use pump::PumpShared;
pub use reader::{Ordering, Reader, StartAt};
pub use shard::{EmitError, ShardCell, Taken};

/// How a bus is set up. Checked by whoever builds it.
#[derive(Clone)]
pub struct BusConfig {
    /// Shards that take events at first.
    pub shards: u16,
    /// Most shards that may come to take events.
    pub max_shards: u16,
    /// How much the log of a shard holds.
    pub limits: LogLimits,
    /// What happens when there is no room.
    pub mode: Backpressure,
    /// Longest event, in bytes.
    pub max_event: u32,
    /// How batches for an engine form.
    pub batch: BatchConfig,
    /// Who produces.
    pub producer: ProducerId,
    /// Which life of the producer.
    pub incarnation: u64,
    /// Where events go; `None`: they stay in memory.
    pub adapter: Option<Arc<dyn Adapter>>,
}

/// A running bus. Shared by handles and tasks.
pub struct Bus {
    runtime: Arc<dyn Runtime>,
    config: BusConfig,
    cells: Box<[ShardCell]>,
    active: AtomicU16,
    producers: AtomicU64,
    closed: AtomicBool,
    /// When tasks of a closed bus end that nobody waits for, whatever the engine has.
    linger: OnceLock<Instant>,
    pumps: Mutex<BTreeMap<Shard, Arc<PumpShared>>>,
    outbox: OnceLock<Arc<OutboxShared>>,
    /// Wakes the task that changes the number of shards.
    scaling: OnceLock<Arc<Bell>>,
    start: Instant,
    unix_start: u64,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").field("active", &self.active()).finish_non_exhaustive()
    }
}

impl Bus {
    /// A bus without tasks; see [`BusConfig`].
    pub fn new(runtime: Arc<dyn Runtime>, config: BusConfig) -> Arc<Self> {
        let external = config.adapter.is_some();
        let cell =
            || ShardCell::new(config.limits, config.mode, config.incarnation, config.max_event, external);
        let (start, unix_start) = (runtime.now(), nanos(runtime.wall().unix));
        Arc::new(Self {
            cells: (0..config.max_shards.max(config.shards)).map(|_| cell()).collect(),
            active: AtomicU16::new(config.shards.max(1)),
            producers: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            linger: OnceLock::new(),
            pumps: Mutex::default(),
            outbox: OnceLock::new(),
            scaling: OnceLock::new(),
            start,
            unix_start,
            runtime,
            config,
        })
    }

    /// Starts the tasks of the shards that have none and take events, or hold some of an earlier life.
    /// Without an adapter there are none.
    pub fn run(self: &Arc<Self>) {
        let Some(adapter) = self.adapter() else { return };
        let mut pumps = lock(&self.pumps);
        let holds = |shard: &Shard| self.cell(*shard).is_some_and(|cell| cell.depth() > 0);
        for shard in self.all_shards().filter(|shard| *shard < self.active() || holds(shard)) {
            if let std::collections::btree_map::Entry::Vacant(entry) = pumps.entry(shard) {
                let shared = entry.insert(Arc::default()).clone();
                let task = pump::pump(self.clone(), adapter.clone(), shard, shared);
                self.runtime.spawn("net bus", Box::pin(task));
            }
        }
    }

    /// Lets the number of active shards follow the load from now on, beginning with `config.min`. Only the
    /// first call does anything, and only if there is a range.
    pub fn scale(self: &Arc<Self>, config: ScaleConfig) {
        let config = ScaleConfig { max: config.max.min(self.cells.len() as u16), ..config };
        let bell = Arc::new(Bell::default());
        if config.min < config.max && self.scaling.set(bell.clone()).is_ok() {
            self.set_active(config.min);
            self.runtime.spawn("net bus scale", Box::pin(scale::scale(self, config, bell)));
        }
    }

    /// The fill of the fullest active shard, in thousandths of its capacity.
    fn fullest(&self) -> u32 {
        let limits = self.config.limits;
        let part =
            |value: u64, most: u64| (value.saturating_mul(FULL.into()) / most.max(1)).min(u64::MAX / 2);
        let fill = |cell: &ShardCell| {
            let events = part(cell.depth(), limits.events);
            // Without an engine the bytes are of events that were read, too.
            let bytes = if limits.keep { 0 } else { part(cell.counts().bytes, limits.bytes) };
            u32::try_from(events.max(bytes)).unwrap_or(u32::MAX)
        };
        (0..self.active()).filter_map(|shard| self.cell(shard)).map(fill).max().unwrap_or(0)
    }

    /// Has every active shard ring when it holds `mark` unread events. False if one does already.
    fn watch(&self, mark: u64, bell: &Arc<Bell>) -> bool {
        (0..self.active()).filter_map(|shard| self.cell(shard)).all(|cell| cell.watch(mark, bell))
    }

    /// Recovers an outbox, replays what the engine may not have, and keeps every event there from
    /// now on until the engine has it. Before [`Bus::run`] and before the first event.
    pub async fn with_outbox(
        self: &Arc<Self>,
        storage: Box<dyn Storage>,
        segment_bytes: u64,
    ) -> Result<(), OutboxError> {
        let shared = self.outbox.get_or_init(Arc::default).clone();
        outbox::start(self, storage, segment_bytes, shared).await
    }

    /// Whether events are kept in an outbox.
    pub fn has_outbox(&self) -> bool {
        self.outbox.get().is_some()
    }

    /// Why the outbox promises nothing any more, if so.
    pub fn outbox_error(&self) -> Option<OutboxError> {
        self.outbox.get()?.error()
    }

    /// Commits of the outbox so far.
    pub fn commits(&self) -> u64 {
        self.outbox.get().map_or(0, |outbox| outbox.commits())
    }

    /// Whether the bus is closed and nothing moves any more.
    fn is_drained(&self) -> bool {
        self.is_closed() && lock(&self.pumps).values().all(|pump| pump.is_over())
    }

    /// The engine has more: the outbox may forget it.
    fn acknowledged(&self) {
        if let Some(outbox) = self.outbox.get() {
            outbox.bell.ring();
        }
    }

    /// Why a link of the engine is down, if one is.
    pub fn link_error(&self) -> Option<AdapterError> {
        lock(&self.pumps).values().find_map(|pump| pump.error())
    }

    /// Why the link of a shard is down, if it is.
    pub fn shard_error(&self, shard: Shard) -> Option<AdapterError> {
        lock(&self.pumps).get(&shard)?.error()
    }

    /// Events that were sent to the engine again.
    pub fn resent(&self) -> u64 {
        lock(&self.pumps).values().map(|pump| pump.resent()).sum()
    }

    /// After [`Bus::close`]: waits until the engine has everything, or an outbox that failed lets no more go.
    /// With an engine that does not answer that never comes; dropping the future has no effect.
    pub async fn drained(&self) {
        let pumps: Vec<_> = lock(&self.pumps).values().cloned().collect();
        for pump in pumps {
            pump.over().await;
        }
    }

    /// As [`Bus::close`], when nobody waits for the end: the tasks go on by themselves for at most so long.
    pub fn close_within(&self, limit: Duration) {
        self.linger.get_or_init(|| self.runtime.now() + limit);
        self.close();
    }

    fn linger(&self) -> Option<Instant> {
        self.linger.get().copied()
    }

    /// After [`Bus::close`]: ends the tasks, whatever is under way, and waits for them.
    pub async fn stop(&self) {
        let pumps: Vec<_> = lock(&self.pumps).values().cloned().collect();
        pumps.iter().for_each(|pump| pump.give_up());
        for pump in pumps {
            pump.over().await;
        }
        if let Some(outbox) = self.outbox.get() {
            outbox.finish().await;
        }
    }

    /// Nanoseconds since 1970, by the wall clock at the start and the monotonic clock since.
    #[inline]
    pub fn unix_nanos(&self) -> u64 {
        let since = self.runtime.now().as_nanos().saturating_sub(self.start.as_nanos());
        self.unix_start.saturating_add(since)
    }

    /// The runtime.
    pub fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.runtime
    }

    /// The configuration.
    pub const fn config(&self) -> &BusConfig {
        &self.config
    }

    /// Who produces.
    pub const fn producer(&self) -> ProducerId {
        self.config.producer
    }

    /// Which life of the producer.
    pub const fn incarnation(&self) -> u64 {
        self.config.incarnation
    }

    /// Where events go; `None`: they stay in memory.
    pub const fn adapter(&self) -> Option<&Arc<dyn Adapter>> {
        self.config.adapter.as_ref()
    }

    /// A shard, retired ones included.
    #[inline]
    pub fn cell(&self, shard: Shard) -> Option<&ShardCell> {
        self.cells.get(usize::from(shard))
    }

    /// Shards that take events, from 0.
    #[inline]
    pub fn active(&self) -> u16 {
        self.active.load(Acquire)
    }

    /// Changes how many shards take events; those above retire and keep what they hold.
    pub fn set_active(&self, shards: u16) {
        let most = self.cells.len() as u16;
        self.active.store(shards.clamp(1, most), Release);
        if planted!(RetiredForgotten) {
            lock(&self.pumps)
                .iter()
                .filter(|(shard, _)| **shard >= shards)
                .for_each(|(_, pump)| pump.give_up());
        }
    }

    /// All shards that may hold events.
    pub fn all_shards(&self) -> std::ops::Range<Shard> {
        0..self.cells.len() as u16
    }

    /// The number from which a new producer counts its runs of events.
    pub fn next_producer(&self) -> u64 {
        self.producers.fetch_add(1, Relaxed)
    }

    /// The shard of a key.
    pub fn shard_of(&self, key: &[u8]) -> Shard {
        route::of_key(key, self.active())
    }

    /// Appends an event to a shard.
    #[inline]
    pub fn emit(&self, shard: Shard, body: &[u8]) -> Result<Taken, EmitError> {
        let cell = self.cell(shard).ok_or(EmitError::Unrouted(shard))?;
        cell.emit(body, self.unix_nanos())
    }

    /// As [`Bus::emit`]; `None`, and nothing was done, if somebody is at the shard just now.
    #[inline(always)]
    pub fn try_emit(&self, shard: Shard, body: &[u8]) -> Option<Result<Taken, EmitError>> {
        match self.cell(shard) {
            Some(cell) => cell.try_emit(body, self.unix_nanos()),
            None => Some(Err(EmitError::Unrouted(shard))),
        }
    }

    /// From now on nothing is taken. True for the first call.
    pub fn close(&self) -> bool {
        let first = !self.closed.swap(true, AcqRel);
        self.cells.iter().for_each(ShardCell::close);
        lock(&self.pumps).values().for_each(|pump| pump.wake());
        self.scaling.get().into_iter().for_each(|bell| bell.ring());
        first
    }

    /// Whether nothing is taken any more.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Acquire)
    }

    /// The balance over all shards.
    pub fn ledger(&self) -> Ledger {
        self.cells.iter().fold(Ledger::default(), |sum, cell| sum.plus(cell.ledger()))
    }
}
