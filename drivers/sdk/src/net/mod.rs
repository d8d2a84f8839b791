//! The event bus: opaque events, sharded, bounded, read by cursor; in memory or in an engine.
//!
//! `docs/BUS.md` says which transport to choose and what `Ok` proves on each.

mod builder;
mod error;
mod mesh;
mod read;

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

pub use builder::NetBuilder;
pub use error::{Result, SdkError};
pub use mesh::{EventHost, HostStats, MeshAdapter};
pub use net_proto::bus::filter::{Filter, FilterError, Op, Operand};
pub use net_proto::bus::mesh::{Access, Hosting, Limits as HostLimits};
pub use net_proto::bus::{
    Backpressure, BatchConfig, Cursor, Dedup, EventId, Ledger, Losses, MAX_EVENT, MAX_SHARDS, OutboxError,
    Position, ProducerId, Shard,
};
pub use net_shell::bus::adapter::{
    Ack, Adapter, AdapterCaps, AdapterError, Batch, BoxFut, Extent, Incoming, Link, Outgoing, Page, Setup,
};
pub use net_shell::bus::{Bus, EventRef, Item, ItemRef, Ordering, StoredEvent};
pub use read::{
    PollRequest, PollResponse, ReadOptions, SubscribeOptions, Subscription, Typed, TypedSubscription, parse,
};

use net_proto::bus::route;
use net_proto::storage::Storage;
use net_shell::bus::{EmitError, Taken};
use serde::Serialize;

/// An event was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its name for ever, the same in every engine.
    pub id: EventId,
    /// Its number in the shard's log; see [`Net::flush`].
    pub number: u64,
    /// When it was taken: nanoseconds since 1970, strictly rising within the shard.
    pub timestamp: u64,
}

impl Receipt {
    /// Its shard.
    pub const fn shard(&self) -> Shard {
        self.id.shard
    }
}

/// Where an event is when [`Net::emit_durable`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Safe {
    /// In the memory of this process: it does not survive it.
    Memory,
    /// On this machine's disk; it goes to the engine sooner or later.
    Outbox,
    /// In the engine, as durable as that is.
    Engine,
}

/// What is safe, per shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Flushed {
    /// For each shard the number up to which everything is safe ([`Receipt::number`]).
    pub watermarks: Vec<(Shard, u64)>,
}

/// What a shutdown leaves behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Closed {
    /// Events that were given up: nobody has read them, or the engine did not get them and no outbox keeps
    /// them. Those of a bus that was over before, for instance because its outbox failed, too.
    pub lost: u64,
    /// Events that the engine does not have and the outbox keeps: the next life sends them under the same ids.
    /// The balance has them as `queued`. 0 without an outbox.
    pub kept: u64,
    /// The final balance.
    pub ledger: Ledger,
}

/// Counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetStats {
    /// The balance over all shards.
    pub ledger: Ledger,
    /// The balance of each shard.
    pub shards: Vec<Ledger>,
    /// Events and bytes held now.
    pub retained: (u64, u64),
}

struct Inner {
    bus: Arc<Bus>,
    /// Keeps the identity file locked.
    _identity: Option<std::sync::Mutex<Box<dyn Storage>>>,
    timeout: Duration,
    /// Events given up, as far as a shutdown has answered so.
    told: AtomicU64,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.bus.close_within(self.timeout);
    }
}

/// A handle to an event bus.
///
/// Clones share the bus. Each clone is a producer of its own: give every task a clone, and tasks do
/// not meet at a lock. Events of one clone without a key go to one shard for 256 events, or until it meets another
/// producer there, then to the next.
pub struct Net {
    inner: Arc<Inner>,
    start: u64,
    emitted: AtomicU64,
}

impl Clone for Net {
    fn clone(&self) -> Self {
        let start = self.inner.bus.next_producer();
        Self { inner: self.inner.clone(), start, emitted: AtomicU64::new(0) }
    }
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.bus.fmt(f)
    }
}

impl Net {
    /// Configures a bus.
    pub fn builder() -> NetBuilder {
        NetBuilder::default()
    }

    fn new(bus: Arc<Bus>, timeout: Duration, identity: Option<Box<dyn Storage>>) -> Self {
        let start = bus.next_producer();
        let identity = identity.map(std::sync::Mutex::new);
        Self {
            inner: Arc::new(Inner { bus, timeout, told: AtomicU64::new(0), _identity: identity }),
            start,
            emitted: AtomicU64::new(0),
        }
    }

    /// The bus underneath.
    pub fn bus(&self) -> &Arc<Bus> {
        &self.inner.bus
    }

    /// Shards that take events now.
    pub fn shards(&self) -> u16 {
        self.inner.bus.active()
    }

    fn next_shard(&self, events: u64) -> Shard {
        // Not an atomic addition: two threads on one clone may count one event for two, and nothing
        // depends on it.
        let n = self.emitted.load(Relaxed);
        self.emitted.store(n.wrapping_add(events), Relaxed);
        route::of_run(self.start, n, self.inner.bus.active())
    }

    /// Appends an event without a key. Somebody may be at the shard just now: then the run ends early, and two
    /// producers who meet part instead of waiting for each other.
    fn emit_unkeyed(&self, body: &[u8]) -> Result<Receipt> {
        let n = self.emitted.load(Relaxed);
        let shard = self.next_shard(1);
        let Some(taken) = self.inner.bus.try_emit(shard, body) else {
            self.emitted.store(route::end_of_run(n), Relaxed);
            return self.emit_at(self.next_shard(1), body);
        };
        Ok(self.receipt(shard, taken.map_err(|why| self.refused(shard, why))?))
    }

    /// Why an event was not taken.
    #[cold]
    fn refused(&self, shard: Shard, why: EmitError) -> SdkError {
        match why {
            EmitError::Shutdown => self.ended(shard),
            other => other.into(),
        }
    }

    fn receipt(&self, shard: Shard, taken: Taken) -> Receipt {
        let (incarnation, seq) = taken.name;
        let id = EventId { producer: self.inner.bus.producer(), incarnation, shard, seq };
        Receipt { id, number: taken.at, timestamp: taken.stamp }
    }

    fn emit_at(&self, shard: Shard, body: &[u8]) -> Result<Receipt> {
        let taken = self.inner.bus.emit(shard, body).map_err(|why| self.refused(shard, why))?;
        Ok(self.receipt(shard, taken))
    }

    /// Emits a value as JSON. As [`Net::emit_raw`] otherwise.
    pub fn emit<T: Serialize + ?Sized>(&self, event: &T) -> Result<Receipt> {
        self.emit_raw(serde_json::to_vec(event)?)
    }

    /// Emits bytes: any bytes, also none. Never waits; takes the lock of one shard for as long as
    /// the copy takes.
    ///
    /// `Ok`: the event is in the memory of this process, and will be read or sent unless the process
    /// ends before.
    pub fn emit_raw(&self, event: impl AsRef<[u8]>) -> Result<Receipt> {
        self.emit_unkeyed(event.as_ref())
    }

    /// Emits a text, which need not be JSON. As [`Net::emit_raw`] otherwise.
    pub fn emit_str(&self, event: &str) -> Result<Receipt> {
        self.emit_raw(event)
    }

    /// Emits bytes under a key: events of one key go to one shard and are read in the order in which
    /// they were emitted. As [`Net::emit_raw`] otherwise.
    pub fn emit_keyed(&self, key: impl AsRef<[u8]>, event: impl AsRef<[u8]>) -> Result<Receipt> {
        self.emit_at(self.inner.bus.shard_of(key.as_ref()), event.as_ref())
    }

    /// Emits bytes to a shard of the caller's choice.
    pub fn emit_to(&self, shard: Shard, event: impl AsRef<[u8]>) -> Result<Receipt> {
        if shard >= self.shards() {
            return Err(SdkError::Unrouted(shard));
        }
        self.emit_at(shard, event.as_ref())
    }

    /// Emits values as JSON, next to each other in one shard. What came of each stands at its place.
    pub fn emit_batch<T: Serialize>(&self, events: &[T]) -> Vec<Result<Receipt>> {
        let mut bodies = Vec::with_capacity(events.len());
        let mut results = Vec::with_capacity(events.len());
        for event in events {
            match serde_json::to_vec(event) {
                Ok(body) => {
                    bodies.push(body);
                    results.push(Err(SdkError::Shutdown)); // replaced below
                }
                Err(error) => results.push(Err(error.into())),
            }
        }
        let slots = results.iter_mut().filter(|r| !matches!(r, Err(SdkError::Serialization(_))));
        for (slot, outcome) in slots.zip(self.emit_raw_batch(&bodies)) {
            *slot = outcome;
        }
        results
    }

    /// Emits events next to each other in one shard. What came of each stands at its place: one that
    /// found no room does not keep the others out.
    pub fn emit_raw_batch<B: AsRef<[u8]>>(&self, events: &[B]) -> Vec<Result<Receipt>> {
        let shard = self.next_shard(events.len() as u64);
        let mut results = Vec::with_capacity(events.len());
        let bus = &self.inner.bus;
        let each = |r: Result<Taken, EmitError>| {
            results.push(r.map(|taken| self.receipt(shard, taken)).map_err(SdkError::from));
        };
        match bus.cell(shard) {
            Some(cell) => cell.emit_many(events.iter(), bus.unix_nanos(), each),
            None => results.extend(events.iter().map(|_| Err(SdkError::Unrouted(shard)))),
        }
        // Not above, where the shard is locked.
        for refused in results.iter_mut().filter(|told| matches!(told, Err(SdkError::Shutdown))) {
            *refused = Err(self.ended(shard));
        }
        results
    }

    /// Emits bytes and waits until they are as safe as the bus can make them, which the answer says.
    ///
    /// Dropping the future takes nothing back: the event was emitted when it was first polled.
    pub async fn emit_durable(&self, event: impl AsRef<[u8]>) -> Result<(Receipt, Safe)> {
        let receipt = self.emit_raw(event)?;
        let bus = &self.inner.bus;
        let Some(cell) = bus.cell(receipt.shard()) else { return Err(SdkError::Shutdown) };
        if !poll_fn(|cx| cell.poll_safe(receipt.number, cx)).await {
            return Err(self.ended(receipt.shard()));
        }
        let (_, acked) = cell.confirmed();
        Ok((
            receipt,
            match bus.adapter() {
                None => Safe::Memory,
                Some(_) if acked >= receipt.number => Safe::Engine,
                Some(_) => Safe::Outbox,
            },
        ))
    }

    /// Why the bus is over, or one shard alone, which the engine refused for good.
    fn ended(&self, shard: Shard) -> SdkError {
        let bus = &self.inner.bus;
        let refused = || bus.shard_error(shard).filter(|_| !bus.is_closed());
        match (bus.outbox_error(), refused()) {
            (Some(error), _) => SdkError::Outbox(error),
            (None, Some(error)) => SdkError::Adapter(error),
            (None, None) => SdkError::Shutdown,
        }
    }

    /// Waits until everything emitted so far is as safe as the bus can make it.
    ///
    /// `Ok`: the engine has it, or the outbox if there is one; on memory it is where it was. After
    /// the time that [`NetBuilder::adapter_timeout`] names: [`SdkError::Unconfirmed`]; nothing was
    /// given up. Dropping the future has no effect.
    pub async fn flush(&self) -> Result<Flushed> {
        let bus = &self.inner.bus;
        let targets: Vec<_> =
            bus.all_shards().filter_map(|s| Some((s, bus.cell(s)?.range().1 - 1))).collect();
        let mut timer = bus.runtime().timer();
        let deadline = bus.runtime().now() + self.inner.timeout;
        for (shard, at) in &targets {
            let Some(cell) = bus.cell(*shard) else { continue };
            let safe = poll_fn(|cx| {
                if let Poll::Ready(safe) = cell.poll_safe(*at, cx) {
                    return Poll::Ready(Some(safe));
                }
                timer.poll(cx, Some(deadline)).map(|()| None)
            })
            .await;
            match safe {
                Some(true) => {}
                Some(false) => return Err(self.ended(*shard)),
                None => return Err(SdkError::Unconfirmed { why: bus.link_error() }),
            }
        }
        Ok(Flushed { watermarks: targets })
    }

    /// Whether the engine answers now. Memory always does.
    pub async fn health(&self) -> Result<()> {
        match self.inner.bus.adapter() {
            _ if self.inner.bus.is_closed() => Err(self.ended(0)),
            Some(adapter) => Ok(adapter.health().await?),
            None => Ok(()),
        }
    }

    /// What is retained of each shard that has anything, in ascending order, whoever wrote it. Dropping the
    /// future has no effect.
    pub async fn extents(&self) -> Result<Vec<Extent>> {
        let bus = &self.inner.bus;
        if let Some(adapter) = bus.adapter() {
            let mut shards = adapter.shards().await?;
            shards.sort_unstable();
            let mut extents = adapter.extents(&shards).await?;
            extents.sort_unstable_by_key(|extent| extent.shard);
            return Ok(extents);
        }
        let at = |number| Position::new(bus.incarnation(), number);
        let extent = |shard| {
            let (first, next) = bus.cell(shard)?.range();
            let events = Some(next - first);
            (first < next).then(|| Extent { shard, events, oldest: at(first), newest: at(next - 1) })
        };
        Ok(bus.all_shards().filter_map(extent).collect())
    }

    /// Counters.
    pub fn stats(&self) -> NetStats {
        let bus = &self.inner.bus;
        let cells = || bus.all_shards().filter_map(|s| bus.cell(s));
        let shards: Vec<_> = cells().map(|c| c.ledger()).collect();
        let counts = cells().map(|c| c.counts());
        let retained = counts.fold((0, 0), |(n, b), c| (n + c.retained, b + c.bytes));
        NetStats { ledger: shards.iter().fold(Ledger::default(), |a, b| a.plus(*b)), shards, retained }
    }

    fn abandon(&self) {
        let bus = &self.inner.bus;
        let external = bus.adapter().is_some();
        bus.all_shards().filter_map(|s| bus.cell(s)).for_each(|cell| _ = cell.abandon(external));
    }

    /// Takes nothing more, waits for the engine as long as [`NetBuilder::adapter_timeout`] says, and
    /// ends. On memory, subscriptions that exist read to the end, whenever they do.
    ///
    /// What it gave up is in the answer. With an outbox nothing that is on disk is given up: what the engine
    /// does not have by then is `kept`, and the next life sends it. A second call answers with the same balance
    /// and `lost` 0. Dropping the future does not undo it.
    ///
    /// When the last handle is dropped without this, the tasks go on by themselves, for as long at most, and
    /// nobody is told.
    pub async fn shutdown(&self) -> Closed {
        let bus = &self.inner.bus;
        bus.close();
        if let Some(adapter) = bus.adapter() {
            let deadline = bus.runtime().now() + self.inner.timeout;
            // An error here is in the balance: what was not confirmed is lost, or kept.
            let _ = self.flush().await;
            if bus.has_outbox() {
                // The flush was for the disk; this is for the engine.
                let mut drained = pin!(bus.drained());
                let mut timer = bus.runtime().timer();
                poll_fn(|cx| match drained.as_mut().poll(cx) {
                    Poll::Ready(()) => Poll::Ready(()),
                    Poll::Pending => timer.poll(cx, Some(deadline)),
                })
                .await;
            }
            bus.stop().await;
            self.abandon();
            if let Err(error) = adapter.shutdown().await {
                tracing::warn!(adapter = adapter.name(), %error, "shutdown of the event bus");
            }
        }
        self.abandon();
        let ledger = bus.ledger();
        let told = self.inner.told.swap(ledger.lost.shutdown, AcqRel);
        let kept = if bus.has_outbox() { ledger.queued } else { 0 };
        Closed { lost: ledger.lost.shutdown.saturating_sub(told), kept, ledger }
    }
}
