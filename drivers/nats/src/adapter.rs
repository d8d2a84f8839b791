//! The adapter: what the bus calls, carried to the client's thread.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use net_proto::bus::{MAX_EVENT, Position, Shard};
use net_shell::bus::adapter::{Adapter, AdapterCaps, AdapterError, BoxFut, Extent, Link, Page, Setup};

use crate::config::JetStream;
use crate::connection::Connection;
use crate::read::{self, Pool};
use crate::stream::{self, HEADERS, Seen};
use crate::thread::{Call, Worker};
use crate::{error, link};

/// Streams that are looked at, or created, at the same time.
const AT_ONCE: usize = 16;
/// The longest that one question waits for events.
const MOST_WAIT: Duration = Duration::from_secs(3600);

/// What exists after the start.
struct Started {
    /// Ends the thread, and with it everything on it.
    worker: Mutex<Option<Worker>>,
    on: tokio::runtime::Handle,
    connection: Arc<Connection>,
    pool: Pool,
    setup: Setup,
    max_event: u32,
}

/// The event bus on JetStream. Made from [`JetStream`]; `Net::builder().jetstream(..)` does it.
pub struct JetStreamAdapter {
    options: JetStream,
    started: OnceLock<Started>,
}

impl std::fmt::Debug for JetStreamAdapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JetStreamAdapter").field("options", &self.options).finish_non_exhaustive()
    }
}

impl From<JetStream> for JetStreamAdapter {
    fn from(options: JetStream) -> Self {
        Self::new(options)
    }
}

impl JetStreamAdapter {
    /// An adapter that connects when the bus starts.
    pub const fn new(options: JetStream) -> Self {
        Self { options, started: OnceLock::new() }
    }

    fn started(&self) -> Result<&Started, AdapterError> {
        self.started.get().ok_or(AdapterError::Shutdown)
    }

    async fn call<T: Send + 'static, F>(
        &self,
        work: impl FnOnce(Arc<Connection>) -> F,
    ) -> Result<T, AdapterError>
    where
        F: Future<Output = Result<T, AdapterError>> + Send + 'static,
    {
        let started = self.started()?;
        Call::new(&started.on, work(started.connection.clone())).await?
    }

    /// The state of those streams that are there.
    async fn see(&self, shards: &[Shard]) -> Result<Vec<(Shard, Seen)>, AdapterError> {
        let shards = shards.to_vec();
        self.call(|connection| async move {
            let mut all = Vec::new();
            for some in shards.chunks(AT_ONCE) {
                let seen = some.iter().map(|shard| stream::see(&connection, *shard));
                let seen = futures_util::future::try_join_all(seen).await?;
                all.extend(some.iter().zip(seen).filter_map(|(shard, seen)| Some((*shard, seen?))));
            }
            Ok(all)
        })
        .await
    }
}

impl Adapter for JetStreamAdapter {
    fn name(&self) -> &'static str {
        "jetstream"
    }

    fn caps(&self) -> AdapterCaps {
        AdapterCaps {
            durable: !self.options.memory,
            dedup: true,
            max_event: self.started.get().map_or(MAX_EVENT, |started| started.max_event),
            batch_events: 1024,
            batch_bytes: 4 << 20,
            window: 4,
        }
    }

    fn start<'a>(&'a self, setup: &'a Setup) -> BoxFut<'a, Result<(), AdapterError>> {
        Box::pin(async move {
            self.options.check()?;
            let worker = Worker::start()?;
            let (options, shards, wanted) = (self.options.clone(), setup.shards, setup.max_event);
            let opened = Call::new(worker.handle(), async move {
                let connection = Arc::new(Connection::open(options).await?);
                let takes = u32::try_from(connection.client.max_payload()).unwrap_or(u32::MAX);
                let max_event = takes.saturating_sub(HEADERS).min(wanted);
                let mut shards = 0..shards;
                while !shards.is_empty() {
                    let some = shards.by_ref().take(AT_ONCE);
                    let some = some.map(|shard| stream::ensure(&connection, shard, max_event));
                    futures_util::future::try_join_all(some).await?;
                }
                Ok((connection, max_event))
            });
            let (connection, max_event) = opened.await??;
            let started = Started {
                on: worker.handle().clone(),
                worker: Mutex::new(Some(worker)),
                connection,
                pool: Pool::default(),
                setup: setup.clone(),
                max_event,
            };
            let again = AdapterError::Config("an adapter is started once".into());
            self.started.set(started).map_err(|_| again)
        })
    }

    fn open(&self, shard: Shard) -> BoxFut<'_, Result<Box<dyn Link>, AdapterError>> {
        Box::pin(async move {
            let started = self.started()?;
            let (producer, max_event) = (started.setup.producer, started.max_event);
            let link = self.call(|connection| link::open(connection, shard, producer, max_event)).await?;
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
            let (pool, from) = (self.started()?.pool.clone(), from.to_vec());
            self.call(|connection| read::read(connection, pool, from, limit, wait.min(MOST_WAIT))).await
        })
    }

    fn tail<'a>(&'a self, shards: &'a [Shard]) -> BoxFut<'a, Result<Vec<(Shard, Position)>, AdapterError>> {
        Box::pin(async move {
            let seen = self.see(shards).await?.into_iter().filter(|(_, seen)| seen.last > 0);
            Ok(seen.map(|(shard, seen)| (shard, Position::new(seen.created, seen.last))).collect())
        })
    }

    fn extents<'a>(&'a self, shards: &'a [Shard]) -> BoxFut<'a, Result<Vec<Extent>, AdapterError>> {
        Box::pin(async move {
            let seen = self.see(shards).await?.into_iter().filter(|(_, seen)| seen.messages > 0);
            let extent = |(shard, seen): (Shard, Seen)| Extent {
                shard,
                events: Some(seen.messages),
                oldest: Position::new(seen.created, seen.first),
                newest: Position::new(seen.created, seen.last),
            };
            Ok(seen.map(extent).collect())
        })
    }

    fn shards(&self) -> BoxFut<'_, Result<Vec<Shard>, AdapterError>> {
        Box::pin(
            async move { self.call(|connection| async move { stream::shards(&connection).await }).await },
        )
    }

    fn health(&self) -> BoxFut<'_, Result<(), AdapterError>> {
        Box::pin(async move {
            self.call(|connection| async move {
                if !connection.line().borrow().up {
                    return Err(connection.down());
                }
                let answer = connection.ask::<serde_json::Value>("INFO".into(), &()).await?;
                answer.map(|_| ()).map_err(|error| error::refused(&error))
            })
            .await
        })
    }

    fn shutdown(&self) -> BoxFut<'_, Result<(), AdapterError>> {
        Box::pin(async move {
            if let Some(started) = self.started.get() {
                let worker = started.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
                drop(worker);
            }
            Ok(())
        })
    }
}
