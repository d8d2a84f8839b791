//! The adapter: what the bus sees.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use net_proto::bus::{Position, Shard};
use net_shell::bus::adapter::{Adapter, AdapterCaps, AdapterError, BoxFut, Extent, Link, Page, Setup};

use crate::config::RedisConfig;
use crate::conn::pause;
use crate::core::{Core, error_of, no_error};
use crate::link::RedisLink;
use crate::read::entries;
use crate::resp::{Item, Walk, command};

/// A group with this name exists for a moment while a stream is created.
const CREATOR: &[u8] = b"net-create";
/// Bytes of bodies in one transaction.
const BATCH_BYTES: u32 = 4 << 20;
/// How long an error of a reader that would have waited is held back.
const CALM: Duration = Duration::from_millis(100);
/// Batches that are prepared while one is under way.
const WINDOW: u16 = 3;

/// The event bus on Redis Streams.
pub struct RedisAdapter {
    config: RedisConfig,
    started: OnceLock<Started>,
}

struct Started {
    core: Arc<Core>,
    durable: bool,
}

impl fmt::Debug for RedisAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

impl RedisAdapter {
    /// Connects when the bus is built.
    pub const fn new(config: RedisConfig) -> Self {
        Self { config, started: OnceLock::new() }
    }

    fn core(&self) -> Result<&Arc<Core>, AdapterError> {
        match self.started.get() {
            Some(started) => Ok(&started.core),
            None => Err(AdapterError::Config("the adapter was not started".into())),
        }
    }
}

impl Core {
    /// Makes sure that the shard's stream exists.
    async fn create(&self, shard: Shard) -> Result<(crate::conn::Conn, String), AdapterError> {
        let key = self.config.key(shard);
        let (mut conn, kind) = self.connect(&key).await?;
        if !matches!(&kind[..], b"stream" | b"none") {
            let kind = String::from_utf8_lossy(&kind);
            return Err(AdapterError::Conflict(format!("the key {key} holds a {kind}, not a stream")));
        }
        let out = conn.output();
        // Whether transactions are allowed has to be known before one is relied on.
        command(out, &[b"MULTI"]);
        command(out, &[b"EXEC"]);
        let mut replies = 2;
        if &kind[..] == b"none" {
            command(out, &[b"XGROUP", b"CREATE", key.as_bytes(), CREATOR, b"$", b"MKSTREAM"]);
            command(out, &[b"XGROUP", b"DESTROY", key.as_bytes(), CREATOR]);
            replies += 2;
        }
        for frame in conn.frames(&*self.runtime, replies, self.config.command_timeout).await? {
            if !error_of(&frame)?.is_some_and(|text| text.starts_with("BUSYGROUP")) {
                no_error(&frame)?;
            }
        }
        let directory = self.config.directory();
        let number = shard.to_string();
        let write = |out: &mut BytesMut| {
            command(out, &[b"SADD", directory.as_bytes(), number.as_bytes()]);
        };
        self.ask(&directory, 1, Duration::ZERO, write).await?.iter().try_for_each(no_error)?;
        Ok((conn, key))
    }

    async fn known(&self) -> Result<Vec<Shard>, AdapterError> {
        let directory = self.config.directory();
        let write = |out: &mut BytesMut| command(out, &[b"SMEMBERS", directory.as_bytes()]);
        let frames = self.ask(&directory, 1, Duration::ZERO, write).await?;
        let mut shards = Vec::new();
        for frame in &frames {
            no_error(frame)?;
            let mut walk = Walk::new(frame);
            for _ in 0..walk.list()? {
                let number = std::str::from_utf8(walk.bulk()?).ok().and_then(|n| n.parse::<Shard>().ok());
                shards.extend(number.filter(|n| *n < net_proto::bus::MAX_SHARDS));
            }
        }
        shards.sort_unstable();
        Ok(shards)
    }

    async fn tail(&self, shards: &[Shard]) -> Result<Vec<(Shard, Position)>, AdapterError> {
        let mut tails = Vec::new();
        // Shards of a Cluster are on different servers; others share a question.
        for some in shards.chunks(if self.is_cluster() { 1 } else { 64 }) {
            let keys: Vec<_> = some.iter().map(|shard| self.config.key(*shard)).collect();
            let write = |out: &mut BytesMut| {
                let range = |key: &String| {
                    command(out, &[b"XREVRANGE", key.as_bytes(), b"+", b"-", b"COUNT", b"1"]);
                };
                keys.iter().for_each(range);
            };
            let frames: Vec<Bytes> = self.ask(&keys[0], keys.len(), Duration::ZERO, write).await?;
            for (frame, shard) in frames.iter().zip(some) {
                no_error(frame)?;
                let last = entries(&mut Walk::new(frame), frame)?.pop();
                tails.extend(last.map(|last| (*shard, last.position)));
            }
        }
        Ok(tails)
    }

    async fn extents(&self, shards: &[Shard]) -> Result<Vec<Extent>, AdapterError> {
        let mut extents = Vec::new();
        // Shards of a Cluster are on different servers; others share a question.
        for some in shards.chunks(if self.is_cluster() { 1 } else { 64 }) {
            let keys: Vec<_> = some.iter().map(|shard| self.config.key(*shard)).collect();
            let write = |out: &mut BytesMut| {
                for key in &keys {
                    command(out, &[b"XLEN", key.as_bytes()]);
                    command(out, &[b"XRANGE", key.as_bytes(), b"-", b"+", b"COUNT", b"1"]);
                    command(out, &[b"XREVRANGE", key.as_bytes(), b"+", b"-", b"COUNT", b"1"]);
                }
            };
            let frames: Vec<Bytes> = self.ask(&keys[0], 3 * keys.len(), Duration::ZERO, write).await?;
            for (three, &shard) in frames.chunks_exact(3).zip(some) {
                three.iter().try_for_each(no_error)?;
                let end = |frame: &Bytes| {
                    entries(&mut Walk::new(frame), frame).map(|found| found.first().map(|e| e.position))
                };
                let events = match Walk::new(&three[0]).item()? {
                    Item::Int(n) => u64::try_from(n).ok(),
                    _ => None,
                };
                if let (Some(oldest), Some(newest)) = (end(&three[1])?, end(&three[2])?) {
                    extents.push(Extent { shard, events, oldest, newest });
                }
            }
        }
        Ok(extents)
    }

    /// Whether the server syncs before it answers. False where it does not say.
    async fn is_durable(&self) -> Result<bool, AdapterError> {
        let write = |out: &mut BytesMut| command(out, &[b"CONFIG", b"GET", b"append*"]);
        let frames = self.ask(&self.config.key(0), 1, Duration::ZERO, write).await?;
        let (mut on, mut always) = (false, false);
        for frame in &frames {
            let mut walk = Walk::new(frame);
            let Item::List(n) = walk.item()? else { continue };
            for _ in 0..n / 2 {
                match (walk.bulk()?, walk.bulk()?) {
                    (b"appendonly", value) => on = value == b"yes",
                    (b"appendfsync", value) => always = value == b"always",
                    _ => {}
                }
            }
        }
        Ok(on && always)
    }
}

impl Adapter for RedisAdapter {
    fn name(&self) -> &'static str {
        "redis"
    }

    /// `durable` after [`Adapter::start`], if the server syncs its log before each answer
    /// (`appendonly yes`, `appendfsync always`) and says so.
    fn caps(&self) -> AdapterCaps {
        let started = self.started.get();
        let (max_event, pipeline) = started
            .map_or((net_proto::bus::MAX_EVENT, 1000), |s| (s.core.config.max_event, s.core.config.pipeline));
        AdapterCaps {
            durable: started.is_some_and(|started| started.durable),
            dedup: false,
            max_event,
            batch_events: pipeline,
            batch_bytes: BATCH_BYTES,
            window: WINDOW,
        }
    }

    fn start<'a>(&'a self, setup: &'a Setup) -> BoxFut<'a, Result<(), AdapterError>> {
        Box::pin(async move {
            let core = Arc::new(Core::new(self.config.check()?, setup.runtime.clone())?);
            core.connect(&core.config.key(0)).await?;
            let durable = core.is_durable().await?;
            // A second start finds the first.
            let _ = self.started.set(Started { core, durable });
            Ok(())
        })
    }

    fn open(&self, shard: Shard) -> BoxFut<'_, Result<Box<dyn Link>, AdapterError>> {
        Box::pin(async move {
            let core = self.core()?;
            let (conn, key) = core.create(shard).await?;
            Ok(Box::new(RedisLink::new(core.clone(), conn, key)) as Box<dyn Link>)
        })
    }

    fn read<'a>(
        &'a self,
        from: &'a [(Shard, Option<Position>)],
        limit: usize,
        wait: Duration,
    ) -> BoxFut<'a, Result<Vec<Page>, AdapterError>> {
        Box::pin(async move {
            let core = self.core()?;
            let read = core.read(from, limit, wait).await;
            // Readers ask again at once; while a server is down they must not do so without end.
            if read.as_ref().is_err_and(AdapterError::is_retryable) {
                pause(&*core.runtime, wait.min(CALM)).await;
            }
            read
        })
    }

    fn tail<'a>(&'a self, shards: &'a [Shard]) -> BoxFut<'a, Result<Vec<(Shard, Position)>, AdapterError>> {
        Box::pin(async move { self.core()?.tail(shards).await })
    }

    fn extents<'a>(&'a self, shards: &'a [Shard]) -> BoxFut<'a, Result<Vec<Extent>, AdapterError>> {
        Box::pin(async move { self.core()?.extents(shards).await })
    }

    fn shards(&self) -> BoxFut<'_, Result<Vec<Shard>, AdapterError>> {
        Box::pin(async move { self.core()?.known().await })
    }

    fn health(&self) -> BoxFut<'_, Result<(), AdapterError>> {
        Box::pin(async move {
            let core = self.core()?;
            let write = |out: &mut BytesMut| command(out, &[b"PING"]);
            core.ask(&core.config.key(0), 1, Duration::ZERO, write).await?.iter().try_for_each(no_error)
        })
    }

    fn shutdown(&self) -> BoxFut<'_, Result<(), AdapterError>> {
        Box::pin(async move {
            self.core()?.close();
            Ok(())
        })
    }
}
