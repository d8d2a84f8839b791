//! How a bus is configured and started.

use std::fmt;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use net_proto::bus::{
    Backpressure, BatchConfig, LogLimits, MAX_BATCH, MAX_EVENT, MAX_SHARDS, ProducerFile, ProducerId,
    ScaleConfig,
};
use net_proto::storage::{Storage, StoreError};
use net_proto::time::nanos;
use net_shell::bus::adapter::{Adapter, Setup};
use net_shell::bus::{Bus, BusConfig};
use net_shell::runtime::Runtime;

use super::mesh::MeshAdapter;
use super::{Net, Result, SdkError};
use crate::{Mesh, Ticket, rt};

/// Where events go.
#[derive(Clone, Default)]
enum Transport {
    /// They stay in this process.
    #[default]
    Memory,
    /// To an engine.
    Adapter(Arc<dyn Adapter>),
}

/// Configures an event bus; [`NetBuilder::build`] starts it.
#[must_use]
#[derive(Clone)]
pub struct NetBuilder {
    shards: Option<u16>,
    max_shards: Option<u16>,
    capacity: u64,
    bytes: u64,
    max_event: Option<u32>,
    mode: Backpressure,
    batch: BatchConfig,
    transport: Vec<Transport>,
    runtime: Option<Arc<dyn Runtime>>,
    identity: Option<PathBuf>,
    outbox: Option<PathBuf>,
    read_only: bool,
    segment: u64,
    pub(super) timeout: Duration,
}

impl fmt::Debug for NetBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetBuilder").field("shards", &self.shards).finish_non_exhaustive()
    }
}

/// Largest capacity of a shard, in events.
const MAX_CAPACITY: u64 = 1 << 28;
/// Bytes of a file of the outbox.
const SEGMENT: u64 = 16 << 20;
/// Range of the bytes of a shard.
const BYTES: std::ops::RangeInclusive<u64> = 4096..=1 << 36;

impl Default for NetBuilder {
    fn default() -> Self {
        Self {
            shards: None,
            max_shards: None,
            capacity: 1 << 20,
            bytes: 64 << 20,
            max_event: None,
            mode: Backpressure::FailProducer,
            batch: BatchConfig::default(),
            transport: Vec::new(),
            runtime: None,
            identity: None,
            outbox: None,
            read_only: false,
            segment: SEGMENT,
            timeout: Duration::from_secs(30),
        }
    }
}

fn limit<T: Into<u64>>(what: &'static str, value: T, range: std::ops::RangeInclusive<u64>) -> Result<()> {
    let value = value.into();
    if range.contains(&value) {
        return Ok(());
    }
    Err(SdkError::Limit { what, value, limit: format!("{} to {}", range.start(), range.end()) })
}

impl NetBuilder {
    /// Shards: as many producers never meet at a lock, and an engine has as many streams. Without
    /// it: as many as the processor runs threads, at most 16.
    pub const fn shards(mut self, shards: u16) -> Self {
        self.shards = Some(shards);
        self
    }

    /// Lets the number of shards grow up to this while one fills up, and shrink again to that of
    /// [`NetBuilder::shards`] after a calm ([`ScaleConfig::between`]). A shard that retires is read to its end.
    /// Without it the number stays.
    pub const fn max_shards(mut self, shards: u16) -> Self {
        self.max_shards = Some(shards);
        self
    }

    /// Events that a shard holds. On memory this is also what it retains for readers that come
    /// later. 2^20 without it.
    pub const fn buffer_capacity(mut self, events: u64) -> Self {
        self.capacity = events;
        self
    }

    /// Bytes that a shard holds, with 16 for each event. 64 MiB without it; memory is taken as
    /// events come.
    pub const fn buffer_bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }

    /// Longest event, in bytes. Without it: 1 MiB, less if the buffer or the engine takes less.
    pub const fn max_event(mut self, bytes: u32) -> Self {
        self.max_event = Some(bytes);
        self
    }

    /// What happens to events that find no room. Without it the producer is told, and nothing is
    /// lost.
    pub const fn backpressure(mut self, mode: Backpressure) -> Self {
        self.mode = mode;
        self
    }

    /// How events are batched on their way to an engine.
    pub const fn batch(mut self, batch: BatchConfig) -> Self {
        self.batch = batch;
        self
    }

    /// Large batches: [`BatchConfig::high_throughput`].
    pub const fn high_throughput(self) -> Self {
        self.batch(BatchConfig::high_throughput())
    }

    /// Small batches, soon: [`BatchConfig::low_latency`].
    pub const fn low_latency(self) -> Self {
        self.batch(BatchConfig::low_latency())
    }

    /// Events stay in this process, in a bounded log. The default.
    pub fn memory(mut self) -> Self {
        self.transport.push(Transport::Memory);
        self
    }

    /// Events go to an engine through this adapter.
    pub fn adapter(mut self, adapter: impl Adapter) -> Self {
        self.transport.push(Transport::Adapter(Arc::new(adapter)));
        self
    }

    /// Events go to nodes of a mesh that keep them under `name` ([`Mesh::host_events`]): shard `s` to the node
    /// at `s % hosts.len()`. Everybody who uses the name must give the same nodes in the same order. This node
    /// may be one of them. It must have been started with [`MeshBuilder::event_bus`](crate::MeshBuilder::event_bus).
    pub fn mesh(self, mesh: &Mesh, name: &str, hosts: impl IntoIterator<Item = Ticket>) -> Self {
        self.adapter(MeshAdapter::new(mesh, name, hosts))
    }

    /// Events go to NATS JetStream: to the server at this address, or as [`net_nats::JetStream`]
    /// says. On any runtime: the client has a thread of its own.
    #[cfg(feature = "nats")]
    pub fn jetstream(self, options: impl Into<net_nats::JetStream>) -> Self {
        self.adapter(net_nats::JetStreamAdapter::new(options.into()))
    }

    /// Events go to streams of Redis: [`net_redis::RedisConfig`] says where.
    #[cfg(feature = "redis")]
    pub fn redis(self, config: net_redis::RedisConfig) -> Self {
        self.adapter(net_redis::RedisAdapter::new(config))
    }

    /// Keeps the producer's identity in this file, so that an event that is sent again by a later
    /// process is recognised, and a new one never looks like an old one. One bus at a time uses it.
    /// Without it every bus is a producer of its own.
    pub fn producer_nonce_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.identity = Some(path.into());
        self
    }

    /// Keeps every event in this directory until the engine has it: what the engine does not have
    /// when the process ends, the next one sends, under the same ids. The producer's identity lies
    /// in the file `producer` there, unless [`NetBuilder::producer_nonce_path`] says otherwise. One
    /// bus at a time uses it. Not for memory, and not with [`Backpressure::DropOldest`], which would drop
    /// what the outbox keeps.
    pub fn outbox(mut self, dir: impl Into<PathBuf>) -> Self {
        self.outbox = Some(dir.into());
        self
    }

    /// Only reads: creates nothing in the engine and does not mind how its streams are configured. Emitting
    /// is [`SdkError::Unrouted`]. Not for memory, and not with an outbox or shards.
    pub const fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Bytes of a file of the outbox, for tests that want many of them.
    #[doc(hidden)]
    pub const fn outbox_segment(mut self, bytes: u64) -> Self {
        self.segment = bytes;
        self
    }

    /// The longest that the engine may take to answer `flush` and `shutdown`: 1 ms or more. 30 s without it.
    pub const fn adapter_timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// Runs on this runtime. Without it: the one that [`NetBuilder::build`] is called in.
    pub fn runtime(mut self, runtime: Arc<dyn Runtime>) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Starts the bus.
    ///
    /// `Ok`: the configuration is sound; with an engine, it answered. Dropping the future starts
    /// nothing.
    pub async fn build(self) -> Result<Net> {
        let threads = || std::thread::available_parallelism().map_or(1, |n| n.get().min(16) as u16);
        let shards = self.shards.unwrap_or_else(threads);
        let max_shards = self.max_shards.unwrap_or(shards);
        limit("shards", shards, 1..=MAX_SHARDS.into())?;
        limit("most shards", max_shards, shards.into()..=MAX_SHARDS.into())?;
        limit("buffer_capacity", self.capacity, 1..=MAX_CAPACITY)?;
        limit("buffer_bytes", self.bytes, BYTES)?;
        limit("batch.max_events", self.batch.max_events, 1..=MAX_BATCH.into())?;
        limit("batch.min_events", self.batch.min_events, 0..=self.batch.max_events.into())?;
        limit("batch.max_delay (ms)", self.batch.max_delay.as_millis().min(1 << 62) as u64, 0..=60_000)?;
        limit("adapter_timeout (ms)", self.timeout.as_millis().min(1 << 62) as u64, 1..=u64::MAX)?;
        if let Backpressure::Sample(n) = self.mode {
            limit("Sample", n, 1..=u64::from(u32::MAX))?;
        }
        let fits = u32::try_from(self.bytes / 4).unwrap_or(u32::MAX).min(MAX_EVENT);
        let mut max_event = self.max_event.unwrap_or(fits);
        limit("max_event", max_event, 1..=fits.into())?;
        if self.transport.len() > 1 {
            return Err(SdkError::Config("more than one transport was chosen".into()));
        }
        if self.outbox.is_some() && !matches!(self.transport.first(), Some(Transport::Adapter(_))) {
            return Err(SdkError::Config(
                "an outbox needs an engine behind it; this bus is in memory".into(),
            ));
        }
        if self.outbox.is_some() && self.mode == Backpressure::DropOldest {
            return Err(SdkError::Config(
                "DropOldest would drop what the outbox has promised to keep; FailProducer, DropNewest and Sample do not".into(),
            ));
        }
        if self.read_only {
            let engine = matches!(self.transport.first(), Some(Transport::Adapter(_)));
            if !engine || self.outbox.is_some() || self.shards.is_some() || self.max_shards.is_some() {
                return Err(SdkError::Config(
                    "read_only needs an engine, and neither outbox nor shards".into(),
                ));
            }
        }
        // None for who only reads: nothing can be emitted, and the engine is not asked to keep anything.
        let (shards, max_shards) = if self.read_only { (0, 0) } else { (shards, max_shards) };
        let identity_at = self.identity.clone().or_else(|| Some(self.outbox.as_ref()?.join("producer")));
        let runtime = self.runtime.clone().or_else(rt::current).ok_or(SdkError::NoRuntime)?;
        let entropy = runtime.entropy();
        let mut id = [0; 8];
        id.copy_from_slice(&entropy[..8]);
        let fresh = ProducerId(u64::from_le_bytes(id));
        let floor = nanos(runtime.wall().unix) / 1000;
        let memory = !matches!(self.transport.first(), Some(Transport::Adapter(_)));
        let (producer, incarnation, identity) = match &identity_at {
            // Cursors name the life in whose memory they stand: those of an earlier one have to be told apart.
            None => (fresh, if memory { floor.max(1) } else { 1 }, None),
            Some(path) => {
                let (storage, producer, incarnation) = load(&*runtime, path, fresh, floor).await?;
                (producer, incarnation, Some(storage))
            }
        };
        let adapter = match self.transport.first().cloned().unwrap_or_default() {
            Transport::Memory => None,
            Transport::Adapter(adapter) => Some(adapter),
        };
        if let Some(adapter) = &adapter {
            let mut setup = Setup::new(runtime.clone(), producer, incarnation, max_shards);
            setup.max_event = max_event;
            adapter.start(&setup).await?;
            let takes = adapter.caps().max_event;
            if self.max_event.is_some() {
                limit("max_event", max_event, 1..=takes.into())?;
            }
            max_event = max_event.min(takes);
        }
        let config = BusConfig {
            shards,
            max_shards,
            limits: LogLimits { events: self.capacity, bytes: self.bytes, keep: adapter.is_none() },
            mode: self.mode,
            max_event,
            batch: self.batch,
            producer,
            incarnation,
            adapter,
        };
        let bus = Bus::new(runtime.clone(), config);
        if let Some(dir) = &self.outbox {
            let storage = runtime
                .storage(dir)
                .map_err(|why| SdkError::Config(format!("cannot open {}: {why}", dir.display())))?;
            bus.with_outbox(storage, self.segment).await?;
        }
        if !self.read_only {
            bus.run();
            bus.scale(ScaleConfig::between(shards, max_shards));
        }
        Ok(Net::new(bus, self.timeout, identity))
    }
}

/// Raises the incarnation in the identity file; the file stays locked while the storage lives.
async fn load(
    runtime: &dyn Runtime,
    path: &Path,
    fresh: ProducerId,
    floor: u64,
) -> Result<(Box<dyn Storage>, ProducerId, u64)> {
    let failed = |why| SdkError::Identity { path: path.display().to_string(), why };
    let name =
        path.file_name().and_then(|name| name.to_str()).ok_or_else(|| failed(StoreError::BadName.into()))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut storage = runtime
        .storage(dir)
        .map_err(|why| SdkError::Config(format!("cannot open {}: {why}", dir.display())))?;
    let mut file = ProducerFile::new(name.into(), fresh, floor);
    loop {
        if let Some(answer) = file.poll_event() {
            let (producer, incarnation) = answer.map_err(failed)?;
            return Ok((storage, producer, incarnation));
        }
        let Some((ticket, op)) = file.poll_store() else { return Err(failed(StoreError::Io.into())) };
        storage.submit(ticket, op);
        let (ticket, result) = poll_fn(|cx| storage.poll_done(cx)).await;
        file.handle_stored(ticket, result);
    }
}
