//! What a transport of the event bus brings: an ordered link per shard to write to, and reads.
//!
//! Everything that can be decided without the world is decided elsewhere: which events are in one
//! batch, how many batches are under way, what is sent again after a reconnect and when
//! (`net_proto::bus::Pipeline`), and what a reader has missed (`docs/BUS.md`). An adapter moves
//! bytes and tells the truth about acknowledgements.
//!
//! # The contract
//!
//! 1. **Order.** Events of one shard become readable in the order in which they were sent on its
//!    links. A link never sends past an event that failed: it reports the error and is dropped.
//! 2. **Acknowledgements** are cumulative per link and never early: `upto` means that the engine
//!    has said so for that event and all before it. After an error everything unacknowledged is
//!    sent again on a new link, under the same ids.
//! 3. **Readers lose nothing silently.** Reading does not consume. What the engine no longer has is
//!    told as [`Page::lost`].
//! 4. **Any future may be dropped** at any point.
//! 5. Bodies are opaque: any bytes, also none. They are never spliced into another format.
//! 6. No call waits for ever: each ends within a time that the adapter's options name.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use net_proto::bus::{EventId, Position, ProducerId, Shard};

use crate::runtime::Runtime;

/// A boxed future that may borrow.
pub type BoxFut<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A transport of the event bus. Used as `Arc<dyn Adapter>`.
pub trait Adapter: Send + Sync + 'static {
    /// Name for people and figures, such as `redis`.
    fn name(&self) -> &'static str;

    /// What the engine promises and takes. Read once, after [`Adapter::start`].
    fn caps(&self) -> AdapterCaps;

    /// Called once, before anything else, while the bus is built. `Ok`: the engine answers and its
    /// configuration fits. [`AdapterError::Config`] and [`AdapterError::Denied`] fail the build.
    fn start<'a>(&'a self, setup: &'a Setup) -> BoxFut<'a, Result<(), AdapterError>>;

    /// A new link for writing to `shard`; at most one per shard exists at a time. Creates what the
    /// shard needs in the engine. Retried by the bus after a pause unless the error is final.
    fn open(&self, shard: Shard) -> BoxFut<'_, Result<Box<dyn Link>, AdapterError>>;

    /// Events after the given positions (`None`: from the oldest retained), at most `limit` per
    /// shard, in order. Returns as soon as any shard has some, else an empty list after `wait`
    /// (zero: at once). A shard that the engine does not know has none. One that others left no room
    /// for in the answer comes as an empty page with [`Page::more`].
    fn read<'a>(
        &'a self,
        from: &'a [(Shard, Option<Position>)],
        limit: usize,
        wait: Duration,
    ) -> BoxFut<'a, Result<Vec<Page>, AdapterError>>;

    /// Position of the newest event of each shard that has any: where a reader starts that wants
    /// only what comes from now on.
    fn tail<'a>(&'a self, shards: &'a [Shard]) -> BoxFut<'a, Result<Vec<(Shard, Position)>, AdapterError>>;

    /// The shards that the engine holds anything of, retired ones included. Subscriptions to all shards ask
    /// every two seconds, so that they find what others write to.
    fn shards(&self) -> BoxFut<'_, Result<Vec<Shard>, AdapterError>>;

    /// What is retained of each of these shards that has anything. Without a better way it looks at both ends
    /// and does not count.
    fn extents<'a>(&'a self, shards: &'a [Shard]) -> BoxFut<'a, Result<Vec<Extent>, AdapterError>> {
        Box::pin(async move {
            let newest = self.tail(shards).await?;
            let from: Vec<_> = newest.iter().map(|(shard, _)| (*shard, None)).collect();
            let pages = match from.is_empty() {
                true => Vec::new(),
                false => self.read(&from, 1, Duration::ZERO).await?,
            };
            let oldest = |shard| pages.iter().find(|page| page.shard == shard)?.events.first();
            let extent = |(shard, newest)| {
                Some(Extent { shard, events: None, oldest: oldest(shard)?.position, newest })
            };
            Ok(newest.into_iter().filter_map(extent).collect())
        })
    }

    /// Whether the engine answers now.
    fn health(&self) -> BoxFut<'_, Result<(), AdapterError>>;

    /// Ends connections and tasks. The bus has dropped its links before.
    fn shutdown(&self) -> BoxFut<'_, Result<(), AdapterError>>;
}

/// The writing side of one shard. Dropping it forgets what is under way.
pub trait Link: Send {
    /// Starts sending a batch behind all earlier ones. Never waits: the bus keeps at most
    /// [`AdapterCaps::window`] batches under way.
    fn send(&mut self, batch: Batch) -> Result<(), AdapterError>;

    /// The next acknowledgement. An error ends the link.
    fn poll_ack(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ack, AdapterError>>;
}

/// What an adapter learns of its bus.
#[derive(Clone)]
#[non_exhaustive]
pub struct Setup {
    /// Clock, timers, tasks, entropy.
    pub runtime: Arc<dyn Runtime>,
    /// Who produces.
    pub producer: ProducerId,
    /// Which life of the producer.
    pub incarnation: u64,
    /// Most shards that the bus will write to.
    pub shards: u16,
    /// Longest event, in bytes.
    pub max_event: u32,
}

impl Setup {
    /// For tests of an adapter that is driven without a bus.
    pub fn new(runtime: Arc<dyn Runtime>, producer: ProducerId, incarnation: u64, shards: u16) -> Self {
        Self { runtime, producer, incarnation, shards, max_event: net_proto::bus::MAX_EVENT }
    }
}

/// What an engine promises and takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdapterCaps {
    /// An acknowledged event survives the end of the engine's process.
    pub durable: bool,
    /// The engine drops an event whose id it has already, for a time of its own.
    pub dedup: bool,
    /// Longest event, in bytes.
    pub max_event: u32,
    /// Most events in one batch.
    pub batch_events: u32,
    /// Most bytes of bodies in one batch (one event may exceed it).
    pub batch_bytes: u32,
    /// Most batches under way per shard.
    pub window: u16,
}

/// What is retained of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The shard.
    pub shard: Shard,
    /// How many events, if the engine counts them.
    pub events: Option<u64>,
    /// The position of the oldest.
    pub oldest: Position,
    /// The position of the newest.
    pub newest: Position,
}

/// An event as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its name: the same on every attempt. The engine stores it beside the body.
    pub id: EventId,
    /// When it was accepted: nanoseconds since 1970, strictly rising within a shard of one life of a
    /// producer. Clocks are set back: another life may begin earlier.
    pub stamp: u64,
    /// The body.
    pub raw: Bytes,
}

/// Events of one shard, next to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The shard.
    pub shard: Shard,
    /// Number of the first event on this shard, for [`Ack`]; the others follow without gaps.
    pub first: u64,
    /// The events, at least one.
    pub events: Vec<Outgoing>,
}

/// The engine has all events up to and including number `upto` of [`Batch::first`]'s counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Number of the last event that it has.
    pub upto: u64,
}

/// Events of one shard that were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The shard.
    pub shard: Shard,
    /// Events are gone that the reader has not seen: everything after the first position up to and
    /// including the second. Comes before `events`.
    pub lost: Option<(Position, Position)>,
    /// The events in order.
    pub events: Vec<Incoming>,
    /// More of this shard are there already. Polls tell their users so.
    pub more: bool,
}

/// An event as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Where it lies; a cursor holds the last one.
    pub position: Position,
    /// Its name; `None` for entries that something else wrote.
    pub id: Option<EventId>,
    /// When its producer accepted it, nanoseconds since 1970; 0 if unknown.
    pub stamp: u64,
    /// The body.
    pub raw: Bytes,
}

/// Why an engine did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// The engine cannot be reached, or the connection broke.
    #[error("no connection: {0}")]
    Connection(String),
    /// No answer in time; what was asked may still happen.
    #[error("no answer in time: {0}")]
    Timeout(String),
    /// The engine is out of room, or asks to slow down.
    #[error("the engine takes no more now: {0}")]
    Full(String),
    /// Not allowed: credentials or rights.
    #[error("denied: {0}")]
    Denied(String),
    /// Something of another type, or of somebody else, is in the place that the bus needs.
    #[error("conflict in the engine: {0}")]
    Conflict(String),
    /// What the bus wrote to is gone, such as a stream that somebody removed.
    #[error("gone from the engine: {0}")]
    Gone(String),
    /// What came back does not make sense.
    #[error("unexpected answer: {0}")]
    Protocol(String),
    /// The configuration cannot work.
    #[error("configuration: {0}")]
    Config(String),
    /// The adapter was shut down.
    #[error("the adapter is shut down")]
    Shutdown,
}

impl AdapterError {
    /// Whether the bus tries again by itself after a pause. All but wrong configuration and the end
    /// are: credentials can be corrected and rooms emptied while the bus holds the events.
    pub const fn is_retryable(&self) -> bool {
        !matches!(self, Self::Config(_) | Self::Shutdown)
    }
}
