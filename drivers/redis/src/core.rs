//! Finds the server that has a key, and keeps connections for questions.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use net_shell::bus::adapter::AdapterError;
use net_shell::runtime::Runtime;

use crate::addr::Addr;
use crate::config::{Checked, Servers};
use crate::conn::Conn;
use crate::error::answered;
use crate::resp::{Item, Walk, command};
use crate::socket::Sockets;

/// Idle connections that are kept for one place.
const IDLE: usize = 8;
/// How often a question follows servers that point to others.
const HOPS: usize = 5;

/// What every part of an adapter shares.
pub(crate) struct Core {
    pub(crate) config: Checked,
    pub(crate) runtime: Arc<dyn Runtime>,
    sockets: Sockets,
    /// Cluster: who has a key, as far as it is known.
    routes: Mutex<BTreeMap<String, Addr>>,
    /// By key in a Cluster, else all under one name.
    idle: Mutex<BTreeMap<String, Vec<Conn>>>,
    closed: AtomicBool,
    /// Bytes of an entry, as a moving average.
    pub(crate) entry_bytes: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first element of an answer, if it is an error.
pub(crate) fn error_of(frame: &Bytes) -> Result<Option<&str>, AdapterError> {
    match Walk::new(frame).item()? {
        Item::Error(text) => Ok(Some(text)),
        _ => Ok(None),
    }
}

/// Refuses answers that are errors.
pub(crate) fn no_error(frame: &Bytes) -> Result<(), AdapterError> {
    error_of(frame)?.map_or(Ok(()), |text| Err(answered(text)))
}

impl Core {
    pub(crate) fn new(config: Checked, runtime: Arc<dyn Runtime>) -> Result<Self, AdapterError> {
        let sockets = Sockets::detect().ok_or_else(|| {
            AdapterError::Config("no tokio runtime is entered, and the feature `smol` is off".into())
        })?;
        Ok(Self {
            config,
            runtime,
            sockets,
            routes: Mutex::default(),
            idle: Mutex::default(),
            closed: AtomicBool::new(false),
            // Careful until it is known.
            entry_bytes: AtomicU64::new(64 << 10),
        })
    }

    pub(crate) const fn is_cluster(&self) -> bool {
        matches!(self.config.servers, Servers::Cluster { .. })
    }

    /// From now on everything ends with [`AdapterError::Shutdown`].
    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
        lock(&self.idle).clear();
    }

    pub(crate) fn check_open(&self) -> Result<(), AdapterError> {
        if self.closed.load(Relaxed) { Err(AdapterError::Shutdown) } else { Ok(()) }
    }

    /// Notes where a server points to, if it does.
    pub(crate) fn follow(&self, key: &str, from: &Addr, said: &str) -> bool {
        let mut words = said.split(' ');
        if words.next() != Some("MOVED") {
            return false;
        }
        let Some(to) = words.nth(1) else { return false };
        // An empty host means the same host.
        let to = match to.strip_prefix(':') {
            Some(port) => port.parse().ok().map(|port| Addr { host: from.host.clone(), port }),
            // Addresses of version 6 come without brackets.
            None => to.rsplit_once(':').and_then(|(host, port)| {
                let host = host.trim_matches(['[', ']']).to_owned();
                Some(Addr { host, port: port.parse().ok()? })
            }),
        };
        to.is_some_and(|to| {
            lock(&self.routes).insert(key.to_owned(), to);
            true
        })
    }

    async fn dial(&self, to: &Addr) -> Result<Conn, AdapterError> {
        let (login, database) = (self.config.login.as_ref(), self.config.database);
        Conn::open((&self.sockets, &self.runtime), &self.config, to, login, database).await
    }

    /// A connection to the server that should have `key`.
    async fn route(&self, key: &str) -> Result<Conn, AdapterError> {
        match &self.config.servers {
            Servers::Single(addr) => self.dial(addr).await,
            Servers::Sentinel { name, sentinels } => self.master(name, sentinels).await,
            Servers::Cluster { seeds } => {
                let known = lock(&self.routes).get(key).cloned();
                if let Some(known) = known {
                    match self.dial(&known).await {
                        // Whoever has its slots now, another member knows.
                        Err(_) => _ = lock(&self.routes).remove(key),
                        conn => return conn,
                    }
                }
                self.first(seeds).await
            }
        }
    }

    async fn first(&self, of: &[Addr]) -> Result<Conn, AdapterError> {
        let mut last = AdapterError::Config("no server was given".into());
        for addr in of {
            match self.dial(addr).await {
                Ok(conn) => return Ok(conn),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A connection to the master that the Sentinels know, if it says that it is one.
    async fn master(&self, name: &str, sentinels: &[Addr]) -> Result<Conn, AdapterError> {
        let mut last = AdapterError::Config("no Sentinel was given".into());
        for sentinel in sentinels {
            match self.master_by(name, sentinel).await {
                Ok(conn) => return Ok(conn),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn master_by(&self, name: &str, sentinel: &Addr) -> Result<Conn, AdapterError> {
        let login = self.config.sentinel_login.as_ref();
        let mut conn = Conn::open((&self.sockets, &self.runtime), &self.config, sentinel, login, 0).await?;
        command(conn.output(), &[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name.as_bytes()]);
        let frame = self.one(&mut conn).await?;
        no_error(&frame)?;
        let mut walk = Walk::new(&frame);
        if walk.list()? != 2 {
            let why = format!("the Sentinel {sentinel} knows no master `{name}`");
            return Err(AdapterError::Connection(why));
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (host, port) = (text(walk.bulk()?), text(walk.bulk()?));
        let port = port.parse().map_err(|_| AdapterError::Protocol(format!("`{port}` is not a port")))?;
        let mut conn = self.dial(&Addr { host, port }).await?;
        command(conn.output(), &[b"ROLE"]);
        let frame = self.one(&mut conn).await?;
        no_error(&frame)?;
        let mut walk = Walk::new(&frame);
        let role = if walk.list()? > 0 { walk.bulk()? } else { b"" };
        if role != b"master" {
            let why = format!("{}: the Sentinels call it master, but it is not yet", conn.to());
            return Err(AdapterError::Connection(why));
        }
        Ok(conn)
    }

    async fn one(&self, conn: &mut Conn) -> Result<Bytes, AdapterError> {
        let mut frames = conn.frames(&*self.runtime, 1, self.config.command_timeout).await?;
        frames.pop().ok_or_else(|| AdapterError::Protocol("no answer".into()))
    }

    /// A connection to the server that has `key`, and the type of what is there.
    pub(crate) async fn connect(&self, key: &str) -> Result<(Conn, Bytes), AdapterError> {
        for _ in 0..HOPS {
            self.check_open()?;
            let mut conn = self.route(key).await?;
            command(conn.output(), &[b"TYPE", key.as_bytes()]);
            let frame = self.one(&mut conn).await?;
            match Walk::new(&frame).item()? {
                Item::Error(text) if self.follow(key, conn.to(), text) => {}
                Item::Error(text) => return Err(answered(text)),
                Item::Status(kind) => return Ok((conn, frame.slice_ref(kind))),
                _ => return Err(AdapterError::Protocol("TYPE answered something else".into())),
            }
        }
        Err(AdapterError::Connection(format!("the servers send each other the key {key}")))
    }

    fn place<'a>(&self, key: &'a str) -> &'a str {
        if self.is_cluster() { key } else { "" }
    }

    fn take_idle(&self, key: &str) -> Option<Conn> {
        lock(&self.idle).get_mut(self.place(key))?.pop()
    }

    fn give_back(&self, key: &str, conn: Conn) {
        if self.check_open().is_ok() {
            let mut idle = lock(&self.idle);
            let idle = idle.entry(self.place(key).to_owned()).or_default();
            if idle.len() < IDLE {
                idle.push(conn);
            }
        }
    }

    /// Asks the server that has `key`; so many answers. `extra`: how long the server may wait by itself.
    ///
    /// A connection that was kept and turns out to be broken is replaced once: what is asked must
    /// bear being asked twice.
    pub(crate) async fn ask(
        &self,
        key: &str,
        replies: usize,
        extra: Duration,
        write: impl Fn(&mut BytesMut),
    ) -> Result<Vec<Bytes>, AdapterError> {
        self.question((key, replies, extra), true, write).await
    }

    /// The same for what must not be asked twice in silence: the first time may have had its effect.
    pub(crate) async fn ask_once(
        &self,
        key: &str,
        extra: Duration,
        write: impl Fn(&mut BytesMut),
    ) -> Result<Vec<Bytes>, AdapterError> {
        self.question((key, 1, extra), false, write).await
    }

    async fn question(
        &self,
        (key, replies, extra): (&str, usize, Duration),
        again: bool,
        write: impl Fn(&mut BytesMut),
    ) -> Result<Vec<Bytes>, AdapterError> {
        let limit = self.config.command_timeout.saturating_add(extra);
        let mut moved = 0;
        loop {
            self.check_open()?;
            let kept = self.take_idle(key);
            let was_kept = kept.is_some();
            let mut conn = match kept {
                Some(conn) => conn,
                None => self.connect(key).await?.0,
            };
            write(conn.output());
            let frames = match conn.frames(&*self.runtime, replies, limit).await {
                Ok(frames) => frames,
                Err(error @ AdapterError::Connection(_)) if was_kept => {
                    // Others of the same age are no better.
                    lock(&self.idle).remove(self.place(key));
                    if again {
                        continue;
                    }
                    return Err(error);
                }
                Err(error) => return Err(error),
            };
            let first = frames.first().map(error_of).transpose()?.flatten();
            match first {
                Some(text) if moved < HOPS && self.follow(key, conn.to(), text) => moved += 1,
                // A master that is none any more, or is about to be one.
                Some(text) if text.starts_with("READONLY") => return Ok(frames),
                _ => {
                    self.give_back(key, conn);
                    return Ok(frames);
                }
            }
        }
    }
}
