//! The event bus over the mesh: nodes that keep events, and the adapter that uses them.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use net_proto::bus::MAX_EVENT;
use net_proto::bus::mesh::{BusPlane, Command, Event, Hosting, PART, Part, Run, RunBuilder, Why};
use net_proto::bus::{Position, Shard};
use net_shell::bus::adapter::{
    Ack, Adapter, AdapterCaps, AdapterError, Batch, BoxFut, Extent, Incoming, Link, Page, Setup,
};
use net_shell::hub::{Control, Planes};
use net_shell::ports::{Feed, Stopped};

use super::{Result, SdkError};
use crate::{Error, Mesh, Ticket};

/// How long a node may take to be reached, and to answer, beyond what the caller waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that a read asks for.
const READ_BYTES: u32 = 1 << 20;
/// Batches under way, and what one of them holds.
const WINDOW: u16 = 16;
const BATCH_BYTES: u32 = 256 << 10;
/// Acknowledgements that a link may have waiting; more than its window can bring.
const ACKS: usize = 4096;

type Ports = Arc<Planes<BusPlane>>;

impl Mesh {
    /// Keeps events under `name` for other nodes of the mesh, in memory, as long as the returned handle
    /// lives. They use them with [`NetBuilder::mesh`](super::NetBuilder::mesh).
    ///
    /// `Ok`: events are kept from now on. Dropping the future may leave the name in use until the mesh ends.
    ///
    /// # Errors
    ///
    /// [`SdkError::NoMesh`] without [`MeshBuilder::event_bus`](crate::MeshBuilder::event_bus);
    /// [`SdkError::Host`] for a name that is in use, empty or longer than 64 bytes, or for limits of zero.
    pub async fn host_events(&self, name: &str, hosting: Hosting) -> Result<EventHost> {
        let ports = self.inner.bus.clone().ok_or(SdkError::NoMesh)?;
        let host = |call| Command::Host { call, name: name.into(), hosting };
        match ports.call(host).await {
            Ok(Event::Hosted { refused: None, .. }) => {
                Ok(EventHost { mesh: self.clone(), ports, name: name.into() })
            }
            Ok(Event::Hosted { refused: Some(why), .. }) => Err(SdkError::Host(why)),
            _ => Err(SdkError::Shutdown),
        }
    }
}

/// Events that this node keeps for the mesh. Dropping it forgets them, and tells who uses them.
#[must_use]
pub struct EventHost {
    /// Keeping events keeps the node.
    mesh: Mesh,
    ports: Ports,
    name: String,
}

impl fmt::Debug for EventHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventHost").field("name", &self.name).field("mesh", &self.mesh).finish()
    }
}

/// What an [`EventHost`] holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostStats {
    /// Events.
    pub events: u64,
    /// Their bytes, with 160 for each run of them.
    pub bytes: u64,
    /// Events that writers sent again and that were kept once, ever.
    pub duplicates: u64,
}

impl EventHost {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it holds now. Dropping the future has no effect.
    pub async fn stats(&self) -> Result<HostStats> {
        match self.ports.call(|call| Command::Count { call, name: self.name.clone() }).await {
            Ok(Event::Counts { counts: Some((events, bytes, duplicates)), .. }) => {
                Ok(HostStats { events, bytes, duplicates })
            }
            _ => Err(SdkError::Shutdown),
        }
    }
}

impl Drop for EventHost {
    fn drop(&mut self) {
        self.ports.tell(Command::Unhost { name: std::mem::take(&mut self.name) });
    }
}

/// Events that nodes of a mesh keep. [`NetBuilder::mesh`](super::NetBuilder::mesh) makes one; it is here for who
/// drives adapters directly.
#[derive(Debug)]
pub struct MeshAdapter {
    mesh: Mesh,
    name: String,
    hosts: Vec<Ticket>,
}

fn failed(why: Why) -> AdapterError {
    let text = why.to_string();
    match why {
        Why::NotConnected | Why::Down => AdapterError::Connection(text),
        Why::NoPlane | Why::Limit => AdapterError::Config(text),
        Why::NoTopic => AdapterError::Gone(text),
        Why::NotAllowed => AdapterError::Denied(text),
        Why::Full => AdapterError::Full(text),
        Why::Ahead | Why::Exists => AdapterError::Conflict(text),
        _ => AdapterError::Protocol(text),
    }
}

fn stopped(_: Stopped) -> AdapterError {
    AdapterError::Shutdown
}

/// A call that is taken back if nobody waits for its answer any more.
struct Asking<'a> {
    ports: &'a Ports,
    call: AtomicU64,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let call = *self.call.get_mut();
        if call != 0 {
            self.ports.tell(Command::Cancel { call });
        }
    }
}

impl MeshAdapter {
    /// Events named `name` of these nodes, as [`NetBuilder::mesh`](super::NetBuilder::mesh) says.
    pub fn new(mesh: &Mesh, name: &str, hosts: impl IntoIterator<Item = Ticket>) -> Self {
        Self { mesh: mesh.clone(), name: name.into(), hosts: hosts.into_iter().collect() }
    }

    fn ports(&self) -> Result<&Ports, AdapterError> {
        let missing = "the node was started without `.event_bus()`";
        self.mesh.inner.bus.as_ref().ok_or_else(|| AdapterError::Config(missing.into()))
    }

    fn host(&self, shard: Shard) -> Result<&Ticket, AdapterError> {
        let nobody = || AdapterError::Config("no node that keeps the events was named".into());
        self.hosts.get(usize::from(shard) % self.hosts.len().max(1)).ok_or_else(nobody)
    }

    /// Runs a future for at most `limit`.
    async fn within<T>(
        &self,
        limit: Duration,
        what: &str,
        future: impl Future<Output = T>,
    ) -> Result<T, AdapterError> {
        let runtime = &self.mesh.inner.runtime;
        let (mut future, mut timer, at) = (pin!(future), runtime.timer(), runtime.now() + limit);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Ok(value)),
            Poll::Pending => {
                timer.poll(cx, Some(at)).map(|()| Err(AdapterError::Timeout(format!("{what}, {limit:?}"))))
            }
        })
        .await
    }

    /// Sees to an association with a host; at once if there is one, or if it is this node.
    async fn reach(&self, host: &Ticket) -> Result<(), AdapterError> {
        if host.entity == self.mesh.id() {
            return Ok(());
        }
        let dial = self.mesh.inner.dial(host.clone());
        match self.within(PATIENCE, "no answer to the dial", dial).await? {
            Ok(_) => Ok(()),
            Err(Error::Shutdown) => Err(AdapterError::Shutdown),
            Err(error) => Err(AdapterError::Connection(error.to_string())),
        }
    }

    /// Asks a host, and takes the question back if the future is dropped or nothing comes in time.
    async fn ask(
        &self,
        host: &Ticket,
        limit: Duration,
        make: impl Fn(u64) -> Command,
    ) -> Result<Event, AdapterError> {
        self.reach(host).await?;
        let mut asking = Asking { ports: self.ports()?, call: AtomicU64::new(0) };
        let call = asking.ports.call(|call| {
            asking.call.store(call, Ordering::Relaxed);
            make(call)
        });
        let answer = self.within(limit, "no answer from the node that keeps the events", call).await?;
        *asking.call.get_mut() = 0;
        match answer.map_err(stopped)? {
            Event::Refused { why, .. } => Err(failed(why)),
            event => Ok(event),
        }
    }

    async fn ends(&self, host: &Ticket, write: bool) -> Result<Vec<(Shard, Position)>, AdapterError> {
        let (to, name) = (host.entity, &self.name);
        let ask = |call| Command::Ask { call, to, name: name.clone(), write };
        match self.ask(host, PATIENCE, ask).await? {
            Event::Ends { ends, .. } => Ok(ends),
            other => Err(AdapterError::Protocol(format!("{other:?}"))),
        }
    }

    /// The ends of all shards of all hosts.
    async fn all_ends(&self) -> Result<Vec<(Shard, Position)>, AdapterError> {
        let mut all = Vec::new();
        for (index, host) in self.hosts.iter().enumerate() {
            let ends = self.ends(host, false).await?;
            all.extend(ends.into_iter().filter(|(s, _)| usize::from(*s) % self.hosts.len() == index));
        }
        Ok(all)
    }

    /// Reads from one host. After `wait` without events: nothing.
    async fn read_from(
        &self,
        host: &Ticket,
        from: Vec<(Shard, Option<Position>)>,
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<Page>, AdapterError> {
        let events = u32::try_from(limit).unwrap_or(u32::MAX);
        let read = |call| Command::Read {
            call,
            to: host.entity,
            name: self.name.clone(),
            events,
            bytes: READ_BYTES,
            wait: !wait.is_zero(),
            from: from.clone(),
        };
        if wait.is_zero() {
            return self.ask(host, PATIENCE, read).await.and_then(pages);
        }
        // Reached first: what is waited for is events.
        self.reach(host).await?;
        match self.ask(host, wait, read).await {
            Err(AdapterError::Timeout(_)) => Ok(Vec::new()),
            answer => answer.and_then(pages),
        }
    }

    async fn read_all(
        &self,
        from: &[(Shard, Option<Position>)],
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<Page>, AdapterError> {
        let hosts = self.hosts.len();
        let mut by_host: Vec<Vec<(Shard, Option<Position>)>> = vec![Vec::new(); hosts];
        for entry in from {
            self.host(entry.0)?;
            by_host[usize::from(entry.0) % hosts].push(*entry);
        }
        by_host.iter_mut().for_each(|list| list.sort_unstable_by_key(|(shard, _)| *shard));
        let asked = || self.hosts.iter().zip(&by_host).filter(|(_, list)| !list.is_empty());
        if asked().count() > 1 {
            // All hosts are heard before any is waited for, so that a busy one does not drown the others.
            let looks = asked().map(|(host, list)| self.read_from(host, list.clone(), limit, Duration::ZERO));
            let pages = every(looks).await?;
            if !pages.is_empty() || wait.is_zero() {
                return Ok(pages);
            }
        }
        let waits = asked().map(|(host, list)| self.read_from(host, list.clone(), limit, wait));
        first(waits).await
    }
}

type Reading<'a> = Pin<Box<dyn Future<Output = Result<Vec<Page>, AdapterError>> + Send + 'a>>;

/// The answers of all, or the first error.
async fn every<'a, F>(reads: impl Iterator<Item = F>) -> Result<Vec<Page>, AdapterError>
where
    F: Future<Output = Result<Vec<Page>, AdapterError>> + Send + 'a,
{
    let mut reads: Vec<Reading<'a>> = reads.map(|read| Box::pin(read) as Reading<'a>).collect();
    let mut pages = Vec::new();
    poll_fn(|cx| {
        let mut failed = None;
        reads.retain_mut(|read| match read.as_mut().poll(cx) {
            Poll::Ready(Ok(some)) => {
                pages.extend(some);
                false
            }
            Poll::Ready(Err(error)) => {
                failed = Some(error);
                false
            }
            Poll::Pending => true,
        });
        match failed {
            Some(error) => Poll::Ready(Err(error)),
            None if reads.is_empty() => Poll::Ready(Ok(std::mem::take(&mut pages))),
            None => Poll::Pending,
        }
    })
    .await
}

/// The first answer that has events, or the first error; nothing if none has any.
async fn first<'a, F>(reads: impl Iterator<Item = F>) -> Result<Vec<Page>, AdapterError>
where
    F: Future<Output = Result<Vec<Page>, AdapterError>> + Send + 'a,
{
    let mut reads: Vec<Reading<'a>> = reads.map(|read| Box::pin(read) as Reading<'a>).collect();
    poll_fn(|cx| {
        let mut some = None;
        reads.retain_mut(|read| match read.as_mut().poll(cx) {
            Poll::Ready(Ok(pages)) if pages.is_empty() => false,
            Poll::Ready(answer) => {
                some.get_or_insert(answer);
                false
            }
            Poll::Pending => true,
        });
        match some {
            Some(answer) => Poll::Ready(answer),
            None if reads.is_empty() => Poll::Ready(Ok(Vec::new())),
            None => Poll::Pending,
        }
    })
    .await
}

fn pages(event: Event) -> Result<Vec<Page>, AdapterError> {
    match event {
        Event::Page { parts, .. } => Ok(parts.into_iter().map(page).collect()),
        other => Err(AdapterError::Protocol(format!("{other:?}"))),
    }
}

fn page(part: Part) -> Page {
    let Part { shard, lost, more, runs } = part;
    let mut events = Vec::with_capacity(runs.iter().map(|(_, run)| run.len() as usize).sum());
    for (at, run) in &runs {
        events.extend(run.events().zip(at.minor..).map(|(event, minor)| Incoming {
            position: Position::new(at.major, minor),
            id: Some(run.id(shard, event.seq)),
            stamp: event.stamp,
            raw: run.share(event.body),
        }));
    }
    Page { shard, lost, events, more }
}

impl Adapter for MeshAdapter {
    fn name(&self) -> &'static str {
        "mesh"
    }

    fn caps(&self) -> AdapterCaps {
        AdapterCaps {
            durable: false,
            dedup: true,
            max_event: MAX_EVENT,
            batch_events: 1 << 14,
            batch_bytes: BATCH_BYTES,
            window: WINDOW,
        }
    }

    fn start<'a>(&'a self, _: &'a Setup) -> BoxFut<'a, Result<(), AdapterError>> {
        Box::pin(async {
            self.ports()?;
            self.host(0)?;
            self.health().await
        })
    }

    fn open(&self, shard: Shard) -> BoxFut<'_, Result<Box<dyn Link>, AdapterError>> {
        Box::pin(async move {
            let host = self.host(shard)?;
            self.ends(host, true).await?;
            let ports = self.ports()?.clone();
            let feed = Planes::subscribe(&ports, ACKS);
            let link = feed.number();
            let open = Command::Link { link, to: host.entity, name: self.name.clone() };
            // From here on the link takes itself back.
            let opened = MeshLink { ports, link, acks: Mutex::new(next(feed)) };
            opened.ports.command(open).await.map_err(stopped)?;
            Ok(Box::new(opened) as Box<dyn Link>)
        })
    }

    fn read<'a>(
        &'a self,
        from: &'a [(Shard, Option<Position>)],
        limit: usize,
        wait: Duration,
    ) -> BoxFut<'a, Result<Vec<Page>, AdapterError>> {
        Box::pin(self.read_all(from, limit, wait))
    }

    fn tail<'a>(&'a self, shards: &'a [Shard]) -> BoxFut<'a, Result<Vec<(Shard, Position)>, AdapterError>> {
        Box::pin(async {
            let mut ends = self.all_ends().await?;
            ends.retain(|(shard, _)| shards.contains(shard));
            Ok(ends)
        })
    }

    fn extents<'a>(&'a self, shards: &'a [Shard]) -> BoxFut<'a, Result<Vec<Extent>, AdapterError>> {
        Box::pin(async {
            let newest = self.tail(shards).await?;
            let from: Vec<_> = newest.iter().map(|(shard, _)| (*shard, None)).collect();
            let pages = self.read_all(&from, 1, Duration::ZERO).await?;
            let oldest =
                |shard| Some(pages.iter().find(|page| page.shard == shard)?.events.first()?.position);
            // Numbers of one life have no gaps.
            let count = |from: Position, to: Position| {
                (from.major == to.major).then(|| to.minor.saturating_sub(from.minor) + 1)
            };
            let extent = |(shard, newest)| {
                let oldest = oldest(shard)?;
                Some(Extent { shard, events: count(oldest, newest), oldest, newest })
            };
            Ok(newest.into_iter().filter_map(extent).collect())
        })
    }

    fn shards(&self) -> BoxFut<'_, Result<Vec<Shard>, AdapterError>> {
        Box::pin(async { Ok(self.all_ends().await?.into_iter().map(|(shard, _)| shard).collect()) })
    }

    fn health(&self) -> BoxFut<'_, Result<(), AdapterError>> {
        Box::pin(async {
            for host in &self.hosts {
                // Who may only write, or only read, is welcome too.
                match self.ends(host, true).await {
                    Err(AdapterError::Denied(_)) => _ = self.ends(host, false).await?,
                    answer => _ = answer?,
                }
            }
            Ok(())
        })
    }

    fn shutdown(&self) -> BoxFut<'_, Result<(), AdapterError>> {
        Box::pin(async {
            let ports = self.ports()?;
            for host in &self.hosts {
                ports.tell(Command::Leave { to: host.entity, name: self.name.clone() });
            }
            Ok(())
        })
    }
}

type Acks = Feed<BusPlane, Control>;
type NextAck = Pin<Box<dyn Future<Output = (Acks, Option<Event>)> + Send>>;

fn next(feed: Acks) -> NextAck {
    Box::pin(async move {
        let event = feed.next().await;
        (feed, event)
    })
}

struct MeshLink {
    ports: Ports,
    link: u64,
    /// Behind a lock that nobody contends for: it makes the link shareable.
    acks: Mutex<NextAck>,
}

impl MeshLink {
    fn append(&self, shard: Shard, first: u64, run: Run) {
        // Not more than the window of batches can be under way, so this needs no bound of its own.
        self.ports.tell(Command::Append { link: self.link, shard, first, run });
    }
}

impl Link for MeshLink {
    fn send(&mut self, batch: Batch) -> Result<(), AdapterError> {
        let mut first = batch.first;
        let mut run: Option<RunBuilder> = None;
        for (number, event) in (batch.first..).zip(&batch.events) {
            if let Some(full) = run.take_if(|run| run.bytes() + event.raw.len() + 16 > PART) {
                self.append(batch.shard, first, full.finish());
                first = number;
            }
            let open = run.get_or_insert_with(|| RunBuilder::new(event.id, event.stamp));
            if open.push(event.id, event.stamp, &event.raw) {
                continue;
            }
            // It does not follow what came before: another life, or a gap.
            if let Some(done) = run.take() {
                self.append(batch.shard, first, done.finish());
            }
            first = number;
            let mut fresh = RunBuilder::new(event.id, event.stamp);
            fresh.push(event.id, event.stamp, &event.raw);
            run = Some(fresh);
        }
        if let Some(done) = run {
            self.append(batch.shard, first, done.finish());
        }
        Ok(())
    }

    fn poll_ack(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ack, AdapterError>> {
        let acks = self.acks.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Poll::Ready((feed, event)) = acks.as_mut().poll(cx) else { return Poll::Pending };
        let missed = feed.missed();
        *acks = next(feed);
        Poll::Ready(match event {
            _ if missed > 0 => Err(AdapterError::Protocol(format!("{missed} acknowledgements too many"))),
            Some(Event::Acked { upto, .. }) => Ok(Ack { upto }),
            Some(Event::Broken { why, .. }) => Err(failed(why)),
            Some(other) => Err(AdapterError::Protocol(format!("{other:?}"))),
            None => Err(AdapterError::Shutdown),
        })
    }
}

impl Drop for MeshLink {
    fn drop(&mut self) {
        self.ports.tell(Command::Unlink { link: self.link });
    }
}
