//! Net on tokio: readiness, timers, tasks and a pool. Everything else is in `net-shell`.
#![forbid(unsafe_code)]

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use net_proto::storage::Storage;
use net_proto::time::{Duration, Instant, WallClock};
use net_shell::runtime::{
    Batch, Bound, BoxFuture, Runtime, System, Timer, Transmit, UdpCaps, UdpOptions, UdpRx, UdpTx,
};
use net_shell::storage::FileStorage;
use net_shell::udp::{Slots, UdpSocket};
use tokio::io::Interest;
use tokio::runtime::{Handle, TryCurrentError};

/// What the clock shows at its start: above zero, so that a machine may subtract from it.
const HEAD_START: Duration = Duration::from_secs(3600);

/// A tokio runtime, with its I/O and time drivers on.
///
/// Its clock is tokio's, which a test may have paused.
#[derive(Clone, Debug)]
pub struct Tokio {
    handle: Handle,
    start: tokio::time::Instant,
}

impl Tokio {
    /// The runtime that this code runs in. Fails outside of one.
    pub fn current() -> Result<Self, TryCurrentError> {
        Handle::try_current().map(Self::new)
    }

    /// The runtime of `handle`.
    pub fn new(handle: Handle) -> Self {
        // One clock for all: instants taken through different values of this type compare.
        static START: OnceLock<tokio::time::Instant> = OnceLock::new();
        let start = *START.get_or_init(tokio::time::Instant::now);
        Self::since(handle, start)
    }

    /// The runtime of `handle`, with a clock that began at `start`: for simulated machines, each of
    /// which has a time of its own.
    pub const fn since(handle: Handle, start: tokio::time::Instant) -> Self {
        Self { handle, start }
    }

    /// Tokio's instant for one of ours; at most a year ahead.
    fn instant(&self, at: Instant) -> tokio::time::Instant {
        let limit = self.start.elapsed() + Duration::from_secs(86_400 * 365);
        self.start + at.since(Instant::ZERO + HEAD_START).min(limit)
    }
}

impl Runtime for Tokio {
    fn bind(&self, at: SocketAddr, options: &UdpOptions) -> io::Result<Bound> {
        let inner = UdpSocket::bind(at, options)?;
        let _entered = self.handle.enter();
        // The copy shares the socket; it only serves to hear of readiness.
        let ready = tokio::net::UdpSocket::from_std(inner.std().try_clone()?)?;
        let socket = Arc::new(Socket { inner, ready });
        Ok((socket.clone(), Box::new(Receiver { socket, memory: Slots::new() })))
    }

    fn timer(&self) -> Box<dyn Timer> {
        Box::new(Sleep { runtime: self.clone(), sleep: None, armed: None })
    }

    fn spawn(&self, _name: &'static str, task: BoxFuture) {
        drop(self.handle.spawn(task));
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        drop(self.handle.spawn_blocking(work));
    }

    fn storage(&self, dir: &Path) -> io::Result<Box<dyn Storage>> {
        Ok(Box::new(FileStorage::open(dir)?))
    }

    fn now(&self) -> Instant {
        Instant::ZERO + HEAD_START + self.start.elapsed()
    }

    fn wall(&self) -> WallClock {
        System::new().wall()
    }

    fn entropy(&self) -> [u8; 32] {
        System::new().entropy()
    }
}

struct Socket {
    inner: UdpSocket,
    ready: tokio::net::UdpSocket,
}

impl UdpTx for Socket {
    fn caps(&self) -> UdpCaps {
        self.inner.caps()
    }

    fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.ready.try_io(Interest::WRITABLE, || self.inner.try_send(transmit))
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ready.poll_send_ready(cx)
    }
}

struct Receiver {
    socket: Arc<Socket>,
    memory: Slots,
}

impl UdpRx for Receiver {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Batch<'_>>> {
        loop {
            let ready = self.socket.ready.poll_recv_ready(cx);
            if ready.is_pending() {
                self.memory.rest();
            }
            ready!(ready)?;
            let Self { socket, memory } = self;
            let mut came = false;
            let asked = socket.ready.try_io(Interest::READABLE, || {
                socket.inner.fill(memory)?;
                came = true;
                // Tokio forgets its readiness for this answer, so that the next poll need not ask the socket
                // to learn that it is empty. What comes from now on makes it ready again.
                if memory.drained() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match asked {
                // Readiness was stale and is cleared now.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && !came => {}
                Err(e) if !came => return Poll::Ready(Err(e)),
                _ => return Poll::Ready(Ok(self.memory.batch())),
            }
        }
    }
}

struct Sleep {
    runtime: Tokio,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
    /// When `sleep` fires.
    armed: Option<Instant>,
}

impl Timer for Sleep {
    fn poll(&mut self, cx: &mut Context<'_>, at: Option<Instant>) -> Poll<()> {
        let Some(at) = at else {
            return Poll::Pending;
        };
        let runtime = &self.runtime;
        while at > runtime.now() {
            // Tokio's timers tick in milliseconds; it rounds up, so a wake is never early.
            let deadline = || runtime.instant(at);
            let sleep = self.sleep.get_or_insert_with(|| {
                let _entered = runtime.handle.enter();
                Box::pin(tokio::time::sleep_until(deadline()))
            });
            // A timer that fires before `at` stays: it is set anew then, so moving a deadline back,
            // which every packet does, costs nothing.
            if self.armed.is_none_or(|armed| armed > at) {
                sleep.as_mut().reset(deadline());
                self.armed = Some(at);
            }
            ready!(sleep.as_mut().poll(cx));
            self.armed = None;
        }
        Poll::Ready(())
    }
}
