//! What a runtime brings: readiness, timers, tasks, a pool for blocking work, clocks and entropy.
//!
//! `docs/RUNTIMES.md` is the contract. Dispatch is dynamic, once per batch and never per message.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use net_proto::node::{Command, Event, Node, Taken};
use net_proto::path::Ecn;
use net_proto::session::Peer;
use net_proto::storage::Storage;
use net_proto::stream::StreamId;
use net_proto::time::{Duration, Instant, WallClock};

/// A task without a result.
pub type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send + 'static>>;

/// A socket that was bound: the half that the driver sends with, the half that it receives with.
pub type Bound = (Arc<dyn UdpTx>, Box<dyn UdpRx>);

/// A runtime, used as `Arc<dyn Runtime>`. No method blocks for longer than a system call.
pub trait Runtime: Send + Sync + 'static {
    /// Binds a UDP socket. Errors are the system's.
    fn bind(&self, at: SocketAddr, options: &UdpOptions) -> io::Result<Bound>;
    /// A timer. Each task makes one and resets it for ever.
    fn timer(&self) -> Box<dyn Timer>;
    /// Starts a task. `name` is for people. The driver calls this at start-up, never per peer or stream.
    fn spawn(&self, name: &'static str, task: BoxFuture);
    /// Runs work that blocks, or takes long, away from the tasks.
    fn blocking(&self, work: Box<dyn FnOnce() + Send>);
    /// Opens a directory for durable files; creates it, with mode 0700, if it is missing.
    fn storage(&self, dir: &Path) -> io::Result<Box<dyn Storage>>;
    /// The monotonic clock.
    fn now(&self) -> Instant;
    /// The wall clock and how wrong it may be.
    fn wall(&self) -> WallClock;
    /// 32 fresh random bytes, fit for keys.
    fn entropy(&self) -> [u8; 32];
    /// Asked first by whatever blocks its thread until a task or another thread did something;
    /// `call` names it.
    ///
    /// # Panics
    /// A runtime that has one thread for everything panics and names the call: the wait would never
    /// end. The simulator does.
    fn may_block(&self, _call: &str) {}
    /// Looks on at a node that starts here with these sockets, named by their local addresses. The
    /// simulator's checkers do; real runtimes have none.
    fn watcher(&self, _sockets: &[SocketAddr]) -> Option<Box<dyn Watcher>> {
        None
    }
}

/// Sees what passes between a node and those who use it, in the driver's task.
pub trait Watcher: Send {
    /// The node exists.
    fn started(&mut self, node: &Node);
    /// A command is about to reach the node.
    fn command(&mut self, command: &Command);
    /// The node told something.
    fn event(&mut self, event: &Event);
    /// Messages were taken from the node, into a receiving port.
    fn taken(&mut self, peer: Peer, stream: StreamId, taken: &Taken);
    /// A turn of the driver is over.
    fn worked(&mut self, node: &Node);
}

/// The sending half of a socket.
pub trait UdpTx: Send + Sync {
    /// What the socket can do now; it can get less while it runs.
    fn caps(&self) -> UdpCaps;
    /// Where it is bound, with the port that the system chose.
    fn local_addr(&self) -> SocketAddr;
    /// Sends one batch without blocking.
    ///
    /// `WouldBlock`: nothing was sent; [`UdpTx::poll_writable`] says when to try again.
    /// `ResourceBusy`: nothing was sent and nobody will say when; try again in about a millisecond.
    /// `Unsupported`: nothing was sent because batches are not supported after all;
    /// [`UdpTx::caps`] says so from now on. Anything else: this datagram cannot be sent; drop it.
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()>;
    /// Ready when a send may succeed. Only the driver polls it.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// The receiving half of a socket. It owns the receive memory and lends it, so that packets are
/// opened in place.
pub trait UdpRx: Send {
    /// The next batch of datagrams. Errors are transient; the caller polls again.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Batch<'_>>>;
}

/// A timer that is reset for ever.
pub trait Timer: Send {
    /// Ready once the clock passed `at`; never for `None`. A later call replaces the earlier one.
    fn poll(&mut self, cx: &mut Context<'_>, at: Option<Instant>) -> Poll<()>;
}

/// What is asked of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpOptions {
    /// Send several datagrams with one system call where the system can (GSO).
    pub gso: bool,
    /// Receive several datagrams with one system call where the system can (GRO).
    pub gro: bool,
    /// Set and read the ECN bits.
    pub ecn: bool,
    /// Bytes asked for as the system's send buffer.
    pub send_buffer: usize,
    /// Bytes asked for as the system's receive buffer.
    pub recv_buffer: usize,
}

impl Default for UdpOptions {
    fn default() -> Self {
        Self { gso: true, gro: true, ecn: true, send_buffer: 4 << 20, recv_buffer: 4 << 20 }
    }
}

/// What a socket can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpCaps {
    /// Most datagrams in one [`Transmit`]; 1 without GSO.
    pub segments: usize,
    /// Most datagrams that arrive as one; 1 without GRO.
    pub gro_segments: usize,
    /// Whether ECN bits are set and read.
    pub ecn: bool,
    /// Whether the system may cut large datagrams; then size probes prove nothing.
    pub may_fragment: bool,
    /// Bytes of send buffer that the system granted.
    pub send_buffer: usize,
    /// Bytes of receive buffer that the system granted.
    pub recv_buffer: usize,
}

/// A batch of equal datagrams to one destination.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    /// Where to.
    pub to: SocketAddr,
    /// The local address to leave from; `None` lets the system choose.
    pub from: Option<IpAddr>,
    /// ECN bits.
    pub ecn: Ecn,
    /// The datagrams, one after the other.
    pub data: &'a [u8],
    /// Size of each datagram but the last, if there are several.
    pub segment: Option<usize>,
}

/// One receive buffer: datagrams of one sender, one after the other.
#[derive(Debug)]
pub struct Slot {
    /// The memory.
    pub buf: Vec<u8>,
    /// Bytes filled.
    pub len: usize,
    /// Size of each datagram but the last.
    pub stride: usize,
    /// Who sent them.
    pub from: SocketAddr,
    /// The local address that they came to, if the system says so.
    pub to: Option<IpAddr>,
    /// Their ECN bits.
    pub ecn: Ecn,
}

impl Slot {
    /// An empty buffer of `size` bytes.
    pub fn new(size: usize) -> Self {
        let from = SocketAddr::from(([0, 0, 0, 0], 0));
        Self { buf: vec![0; size], len: 0, stride: 0, from, to: None, ecn: Ecn::NotEct }
    }
}

/// Datagrams that arrived together, lent by the socket.
#[derive(Debug)]
pub struct Batch<'a>(pub &'a mut [Slot]);

impl Batch<'_> {
    /// Calls `f` with every datagram (sender, local address, ECN bits, bytes) in order of arrival.
    pub fn for_each(self, mut f: impl FnMut(SocketAddr, Option<IpAddr>, Ecn, &mut [u8])) {
        for slot in self.0 {
            let len = slot.len.min(slot.buf.len());
            let stride = if slot.stride == 0 { len.max(1) } else { slot.stride };
            for datagram in slot.buf[..len].chunks_mut(stride) {
                f(slot.from, slot.to, slot.ecn, datagram);
            }
        }
    }
}

/// Clocks and entropy of the system, for runtimes on real machines.
#[derive(Clone, Copy, Debug)]
pub struct System {
    start: std::time::Instant,
}

impl System {
    /// A clock that starts now.
    pub fn new() -> Self {
        Self { start: std::time::Instant::now() }
    }

    /// Time since the start. Starts above zero, so that a machine may subtract from it.
    pub fn now(&self) -> Instant {
        const HEAD_START: Duration = Duration::from_secs(3600);
        Instant::ZERO + HEAD_START + self.start.elapsed()
    }

    /// The `std` instant of one of ours.
    pub fn std_instant(&self, at: Instant) -> std::time::Instant {
        let ahead = at.since(self.now()).min(Duration::from_secs(86_400 * 365));
        std::time::Instant::now() + ahead
    }

    /// The system's wall clock, trusted to a second.
    pub fn wall(&self) -> WallClock {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        WallClock { unix, max_error: Duration::from_secs(1) }
    }

    /// Fresh random bytes from the system.
    ///
    /// # Panics
    /// If the system has no randomness: nothing that is secret could be made.
    pub fn entropy(&self) -> [u8; 32] {
        use ring::rand::{SecureRandom, SystemRandom};
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).expect("the system gives no random bytes");
        seed
    }
}

impl Default for System {
    fn default() -> Self {
        Self::new()
    }
}
