//! A runtime around another: its sockets refuse batches or are out of buffers, its clock jumps.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll};

use net_proto::storage::Storage;
use net_proto::time::{Duration, Instant, WallClock};
use net_shell::runtime::{Bound, BoxFuture, Runtime, Timer, Transmit, UdpCaps, UdpOptions, UdpRx, UdpTx};

/// What is broken, and what came of it.
#[derive(Debug)]
pub struct Knobs {
    /// Nanoseconds that the clock jumped so far.
    pub jumped: AtomicU64,
    /// Batches that the socket still takes; the next is refused, and all after it.
    pub batches_left: AtomicU64,
    /// Set once a batch was refused.
    pub no_batches: AtomicBool,
    /// Sends in a row that are out of buffers from now on.
    pub busy: AtomicU64,
    /// Each n-th send is out of buffers; 0: none.
    pub busy_every: AtomicU64,
    /// Bytes of receive buffer to ask for; 0: what the node asks for.
    pub recv_buffer: AtomicU64,
    /// Sends so far.
    pub sends: AtomicU64,
    /// Batches of several datagrams that left.
    pub batches: AtomicU64,
    /// Sends that were refused.
    pub refused: AtomicU64,
}

impl Default for Knobs {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            jumped: zero(),
            batches_left: AtomicU64::new(u64::MAX),
            no_batches: AtomicBool::new(false),
            busy: zero(),
            busy_every: zero(),
            recv_buffer: zero(),
            sends: zero(),
            batches: zero(),
            refused: zero(),
        }
    }
}

/// A runtime that can be broken while it runs.
pub struct Faulty {
    inner: Arc<dyn Runtime>,
    knobs: Arc<Knobs>,
}

impl Faulty {
    /// `inner` with these faults.
    pub fn new(inner: Arc<dyn Runtime>, knobs: Arc<Knobs>) -> Self {
        Self { inner, knobs }
    }
}

impl Runtime for Faulty {
    fn bind(&self, at: SocketAddr, options: &UdpOptions) -> io::Result<Bound> {
        let mut options = *options;
        match self.knobs.recv_buffer.load(SeqCst) {
            0 => {}
            bytes => options.recv_buffer = bytes as usize,
        }
        let (tx, rx): (Arc<dyn UdpTx>, Box<dyn UdpRx>) = self.inner.bind(at, &options)?;
        Ok((Arc::new(Tx { inner: tx, knobs: self.knobs.clone() }), rx))
    }
    fn timer(&self) -> Box<dyn Timer> {
        Box::new(Late { inner: self.inner.timer(), knobs: self.knobs.clone() })
    }
    fn spawn(&self, name: &'static str, task: BoxFuture) {
        self.inner.spawn(name, task);
    }
    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        self.inner.blocking(work);
    }
    fn storage(&self, dir: &Path) -> io::Result<Box<dyn Storage>> {
        self.inner.storage(dir)
    }
    fn now(&self) -> Instant {
        self.inner.now() + Duration::from_nanos(self.knobs.jumped.load(SeqCst))
    }
    fn wall(&self) -> WallClock {
        let mut wall = self.inner.wall();
        wall.unix += Duration::from_nanos(self.knobs.jumped.load(SeqCst));
        wall
    }
    fn entropy(&self) -> [u8; 32] {
        self.inner.entropy()
    }
}

/// A timer of a clock that jumped. As on machines whose timers stand still in suspend, a timer that was
/// set before the jump rings when it would have rung without.
struct Late {
    inner: Box<dyn Timer>,
    knobs: Arc<Knobs>,
}

impl Timer for Late {
    fn poll(&mut self, cx: &mut Context<'_>, at: Option<Instant>) -> Poll<()> {
        let jumped = self.knobs.jumped.load(SeqCst);
        let at = at.map(|at| Instant::from_nanos(at.as_nanos().saturating_sub(jumped)));
        self.inner.poll(cx, at)
    }
}

struct Tx {
    inner: Arc<dyn UdpTx>,
    knobs: Arc<Knobs>,
}

impl Tx {
    fn refuse(&self, kind: ErrorKind) -> io::Result<()> {
        self.knobs.refused.fetch_add(1, SeqCst);
        Err(kind.into())
    }
}

impl UdpTx for Tx {
    fn caps(&self) -> UdpCaps {
        let mut caps = self.inner.caps();
        // Known only once a batch was refused, as on a real card.
        if self.knobs.no_batches.load(SeqCst) {
            caps.segments = 1;
        }
        caps
    }
    fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr()
    }
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let knobs = &self.knobs;
        let sends = knobs.sends.fetch_add(1, SeqCst) + 1;
        let every = knobs.busy_every.load(SeqCst);
        let less = |left: u64| left.checked_sub(1);
        if (every > 0 && sends.is_multiple_of(every)) || knobs.busy.fetch_update(SeqCst, SeqCst, less).is_ok()
        {
            return self.refuse(ErrorKind::ResourceBusy);
        }
        if transmit.segment.is_some_and(|size| size < transmit.data.len()) {
            let limited = |left: u64| if left == u64::MAX { Some(left) } else { left.checked_sub(1) };
            if knobs.batches_left.fetch_update(SeqCst, SeqCst, limited).is_err() {
                knobs.no_batches.store(true, SeqCst);
                return self.refuse(ErrorKind::Unsupported);
            }
            knobs.batches.fetch_add(1, SeqCst);
        }
        self.inner.try_send(transmit)
    }
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_writable(cx)
    }
}
