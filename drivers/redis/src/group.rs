//! Consumer groups: several consumers share the events of a bus, and what one of them leaves
//! unfinished another takes over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use net_proto::bus::{EventId, Position, Shard};
use net_shell::bus::adapter::{AdapterError, Incoming};
use net_shell::runtime::Runtime;

use crate::config::RedisConfig;
use crate::conn::pause;
use crate::core::{Core, error_of, no_error};
use crate::read::{entries, streams};
use crate::resp::{Item, Walk, begin, command, word};

/// The longest that one question waits for events; a longer wait takes several.
const MOST_WAIT: Duration = Duration::from_secs(3600);
/// Most events of a shard that one question may want, and the longest time that it may name. Servers count with 63
/// bits; nobody waits for longer.
const MOST_EVENTS: usize = 1 << 20;
const MOST_MILLIS: u128 = 1 << 50;

/// Which group, who in it, and of what.
#[derive(Clone, Debug)]
#[must_use]
pub struct GroupOptions {
    group: String,
    consumer: String,
    shards: Vec<Shard>,
    latest: bool,
}

impl GroupOptions {
    /// A consumer of a group. Its name has to be its own: two that share one share their unfinished
    /// events, too.
    pub fn new(
        group: impl Into<String>,
        consumer: impl Into<String>,
        shards: impl IntoIterator<Item = Shard>,
    ) -> Self {
        let shards = shards.into_iter().collect();
        Self { group: group.into(), consumer: consumer.into(), shards, latest: false }
    }

    /// If the group does not exist yet, it begins behind the newest event instead of at the oldest.
    pub const fn latest(mut self) -> Self {
        self.latest = true;
        self
    }
}

/// An event that was given to this consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// Its shard.
    pub shard: Shard,
    /// Where it lies; what [`RedisGroup::ack`] wants.
    pub position: Position,
    /// Its name, for [`crate::RedisStreamDedup`]; `None` for entries that something else wrote.
    pub id: Option<EventId>,
    /// When its producer accepted it, nanoseconds since 1970; 0 if unknown.
    pub stamp: u64,
    /// The body.
    pub raw: Bytes,
    /// It was given to somebody before, who may have worked on it.
    pub again: bool,
}

/// A consumer in a group. Each event goes to one of its consumers and stays theirs until it is
/// acknowledged or claimed: at least once, in order for each shard as long as nothing is claimed.
pub struct RedisGroup {
    core: Arc<Core>,
    options: GroupOptions,
    keys: Vec<String>,
    /// Where the search for stale entries goes on.
    stale_from: Vec<String>,
}

impl std::fmt::Debug for RedisGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.options.fmt(f)
    }
}

fn delivery(shard: Shard, again: bool) -> impl Fn(Incoming) -> Delivery {
    move |Incoming { position, id, stamp, raw }| Delivery { shard, position, id, stamp, raw, again }
}

impl RedisGroup {
    /// Joins, and creates the group and the streams where they do not exist.
    ///
    /// `Ok`: the server knows the group. Dropping the future may leave some of it created.
    pub async fn join(
        config: &RedisConfig,
        runtime: Arc<dyn Runtime>,
        options: GroupOptions,
    ) -> Result<Self, AdapterError> {
        let core = Arc::new(Core::new(config.check()?, runtime)?);
        if options.group.is_empty() || options.consumer.is_empty() || options.shards.is_empty() {
            return Err(AdapterError::Config("a group needs a name, a consumer and shards".into()));
        }
        let keys: Vec<_> = options.shards.iter().map(|shard| core.config.key(*shard)).collect();
        let start: &[u8] = if options.latest { b"$" } else { b"0" };
        for key in &keys {
            let write = |out: &mut BytesMut| {
                let (key, group) = (key.as_bytes(), options.group.as_bytes());
                command(out, &[b"XGROUP", b"CREATE", key, group, start, b"MKSTREAM"]);
            };
            for frame in core.ask(key, 1, Duration::ZERO, write).await? {
                // Others were here before.
                if !error_of(&frame)?.is_some_and(|text| text.starts_with("BUSYGROUP")) {
                    no_error(&frame)?;
                }
            }
        }
        let stale_from = vec!["0-0".to_owned(); keys.len()];
        Ok(Self { core, options, keys, stale_from })
    }

    /// Events that nobody in the group has got yet, at most `limit` for each shard; an empty list
    /// after `wait`. They are this consumer's from now on.
    ///
    /// Dropping the future, or an error, may leave events with this consumer that it has not seen:
    /// [`RedisGroup::unfinished`] has them.
    pub async fn next(&self, limit: usize, wait: Duration) -> Result<Vec<Delivery>, AdapterError> {
        let (core, until) = (&*self.core, self.core.runtime.now() + wait);
        let (mut left, mut nap) = (wait, Duration::from_millis(1));
        loop {
            let found = if core.is_cluster() {
                self.each(limit, ">").await?
            } else {
                self.read(0..self.keys.len(), limit, ">", Some(left.min(MOST_WAIT))).await?
            };
            left = until.since(core.runtime.now());
            if !found.is_empty() || left.is_zero() {
                return Ok(found);
            }
            if core.is_cluster() {
                pause(&*core.runtime, nap.min(left)).await;
                nap = (nap * 2).min(Duration::from_millis(32));
            }
        }
    }

    /// Events that this consumer got and has not acknowledged, the oldest of each shard first. To be
    /// called after a restart.
    pub async fn unfinished(&self, limit: usize) -> Result<Vec<Delivery>, AdapterError> {
        if self.core.is_cluster() {
            return self.each(limit, "0").await;
        }
        self.read(0..self.keys.len(), limit, "0", None).await
    }

    /// Takes over events that others got at least `idle` ago and have not acknowledged, at most `limit`
    /// for each shard. An empty list: none now.
    ///
    /// Dropping the future, or an error, may leave events with this consumer; [`RedisGroup::unfinished`] has them.
    pub async fn claim(&mut self, idle: Duration, limit: usize) -> Result<Vec<Delivery>, AdapterError> {
        let mut found = Vec::new();
        for n in 0..self.keys.len() {
            // Once around: from where the last search ended to the end, then from the beginning.
            for _ in 0..2 {
                let from = self.stale_from[n].clone();
                let write = |out: &mut BytesMut| {
                    let millis = idle.as_millis().min(MOST_MILLIS).to_string();
                    let limit = limit.clamp(1, MOST_EVENTS).to_string();
                    let (group, consumer) = (self.options.group.as_bytes(), self.options.consumer.as_bytes());
                    let by = [b"XAUTOCLAIM" as &[u8], self.keys[n].as_bytes(), group, consumer];
                    let rest = [millis.as_bytes(), from.as_bytes(), b"COUNT", limit.as_bytes()];
                    command(out, &[by, rest].concat());
                };
                let frames = self.core.ask_once(&self.keys[n], Duration::ZERO, write).await?;
                let before = found.len();
                for frame in &frames {
                    no_error(frame)?;
                    let mut walk = Walk::new(frame);
                    walk.list()?;
                    self.stale_from[n] = String::from_utf8_lossy(walk.bulk()?).into_owned();
                    let shard = self.options.shards[n];
                    found.extend(entries(&mut walk, frame)?.into_iter().map(delivery(shard, true)));
                }
                if found.len() > before || from == "0-0" {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// These events are done; how many of them were unfinished until now.
    ///
    /// `Ok`: the server does not give them to anybody again. Dropping the future leaves that open.
    pub async fn ack(&self, done: impl IntoIterator<Item = (Shard, Position)>) -> Result<u64, AdapterError> {
        let mut by_shard: BTreeMap<Shard, Vec<String>> = BTreeMap::new();
        for (shard, at) in done {
            by_shard.entry(shard).or_default().push(at.to_string());
        }
        let mut total = 0;
        for (shard, ids) in by_shard {
            let key = self.core.config.key(shard);
            let write = |out: &mut BytesMut| {
                begin(out, 3 + ids.len());
                [b"XACK" as &[u8], key.as_bytes(), self.options.group.as_bytes()]
                    .iter()
                    .for_each(|w| word(out, w));
                ids.iter().for_each(|id| word(out, id.as_bytes()));
            };
            for frame in self.core.ask(&key, 1, Duration::ZERO, write).await? {
                no_error(&frame)?;
                if let Item::Int(n) = Walk::new(&frame).item()? {
                    total += n.max(0) as u64;
                }
            }
        }
        Ok(total)
    }

    /// Every shard by itself, for servers of a Cluster.
    async fn each(&self, limit: usize, from: &str) -> Result<Vec<Delivery>, AdapterError> {
        let all = join_all((0..self.keys.len()).map(|n| self.read(n..n + 1, limit, from, None))).await;
        let mut found = Vec::new();
        for some in all {
            found.extend(some?);
        }
        Ok(found)
    }

    async fn read(
        &self,
        range: std::ops::Range<usize>,
        limit: usize,
        from: &str,
        wait: Option<Duration>,
    ) -> Result<Vec<Delivery>, AdapterError> {
        let keys = &self.keys[range.clone()];
        let shards: Vec<_> = self.options.shards[range].iter().map(|shard| (*shard, None)).collect();
        // 0 would mean: without end.
        let wait = wait.filter(|wait| wait.as_millis() > 0);
        let write = |out: &mut BytesMut| {
            let (limit, millis) =
                (limit.clamp(1, MOST_EVENTS).to_string(), wait.unwrap_or_default().as_millis().to_string());
            let (group, consumer) = (self.options.group.as_bytes(), self.options.consumer.as_bytes());
            let mut words =
                vec![b"XREADGROUP" as &[u8], b"GROUP", group, consumer, b"COUNT", limit.as_bytes()];
            if wait.is_some() {
                words.extend([b"BLOCK" as &[u8], millis.as_bytes()]);
            }
            words.push(b"STREAMS");
            words.extend(keys.iter().map(String::as_bytes));
            words.extend(keys.iter().map(|_| from.as_bytes()));
            command(out, &words);
        };
        let frames = self.core.ask_once(&keys[0], wait.unwrap_or_default(), write).await?;
        let mut found = Vec::new();
        for frame in &frames {
            no_error(frame)?;
            for page in streams(frame, &shards, keys)? {
                found.extend(page.events.into_iter().map(delivery(page.shard, from != ">")));
            }
        }
        Ok(found)
    }
}
