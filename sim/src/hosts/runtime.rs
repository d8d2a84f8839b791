//! A machine's runtime: `net-tokio`'s, with the machine's clock, disks and randomness, and with sockets
//! over turmoil's that pass the links of the run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use net_proto::node::{Command, Event, Node, Taken};
use net_proto::path::Ecn;
use net_proto::session::Peer;
use net_proto::storage::Storage;
use net_proto::stream::StreamId;
use net_proto::time::{Duration, Instant, WallClock};
use net_shell::runtime::{
    Batch, Bound, BoxFuture, Runtime, Slot, Timer, Transmit, UdpCaps, UdpOptions, UdpRx, UdpTx, Watcher,
};
use net_tokio::Tokio;
use turmoil::net::UdpSocket;

use super::net::{Frame, try_with, with};
use crate::checkers::{Seen, Wants};
use crate::residents::Owner;

/// Datagrams in one batch, sent or received.
const BATCH: usize = 64;
/// Largest datagram.
const LARGEST: usize = 65_536;
/// What the wall clock says at the start of every run: 2026-01-01.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);
/// Turns of a driver at one instant after which it counts as spinning.
const MAX_TURNS: u32 = 100_000;

#[derive(Clone)]
pub(super) struct HostRuntime {
    pub host: u32,
    tokio: Tokio,
    /// What tokio's clock reads ahead of world time.
    ahead: u64,
}

impl HostRuntime {
    /// On a machine that runs now.
    pub fn here(host: u32) -> Self {
        let tokio = Tokio::since(tokio::runtime::Handle::current(), tokio::time::Instant::now());
        let ahead = tokio.now().as_nanos() - with(|net| net.now());
        Self { host, tokio, ahead }
    }

    /// What tokio's clock reads at a world time.
    fn on_tokio(&self, world: u64) -> Instant {
        Instant::from_nanos(world.saturating_add(self.ahead))
    }
}

impl Runtime for HostRuntime {
    fn bind(&self, at: SocketAddr, options: &UdpOptions) -> io::Result<Bound> {
        let ip = with(|net| net.machine(self.host).ip);
        if at.ip() != IpAddr::V4(ip) && at.ip() != IpAddr::V4(Ipv4Addr::UNSPECIFIED) {
            let what = format!("this simulated host has the address {ip} and no other");
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, what));
        }
        let unspecified = SocketAddr::from((Ipv4Addr::UNSPECIFIED, at.port()));
        // Asynchronous by its signature only.
        let Poll::Ready(socket) =
            pin!(UdpSocket::bind(unspecified)).poll(&mut Context::from_waker(Waker::noop()))
        else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let socket = socket?;
        let port = socket.local_addr()?.port();
        let addr = SocketAddr::from((ip, port));
        let owner = with(|net| net.machine(self.host).residents.bound(addr));
        let socket = Arc::new(socket);
        let sender = Arc::new(Sender { socket, host: self.host, addr, owner, options: *options });
        let receiver = Receiver {
            sender: sender.clone(),
            runtime: self.clone(),
            timer: self.tokio.timer(),
            readable: None,
            queue: BinaryHeap::new(),
            count: 0,
            buf: vec![0; LARGEST],
            slots: Vec::new(),
        };
        Ok((sender, Box::new(receiver)))
    }

    fn timer(&self) -> Box<dyn Timer> {
        let id = with(|net| {
            let machine = net.machine(self.host);
            machine.next_timer += 1;
            machine.next_timer
        });
        Box::new(HostTimer { runtime: self.clone(), inner: self.tokio.timer(), id })
    }

    fn spawn(&self, name: &'static str, task: BoxFuture) {
        self.tokio.spawn(name, task);
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        // Threads come back in an order that nobody chose. Between two polls: the caller may hold locks
        // that the work takes.
        self.tokio.spawn("blocking work", Box::pin(async move { work() }));
    }

    fn storage(&self, dir: &Path) -> io::Result<Box<dyn Storage>> {
        let disk = with(|net| net.disk(self.host, dir));
        let clock = self.clone();
        Ok(Box::new(disk.open(move || clock.now(), self.timer())))
    }

    fn now(&self) -> Instant {
        with(|net| net.local(self.host))
    }

    fn wall(&self) -> WallClock {
        WallClock { unix: EPOCH + with(|net| net.at()), max_error: Duration::from_secs(1) }
    }

    fn entropy(&self) -> [u8; 32] {
        with(|net| net.draw(self.host))
    }

    fn may_block(&self, call: &str) {
        panic!(
            "`{call}` blocks its thread, and the simulator has one thread for all machines: use the \
             asynchronous call"
        );
    }

    fn watcher(&self, sockets: &[SocketAddr]) -> Option<Box<dyn Watcher>> {
        let number = with(|net| net.machine(self.host).residents.begins(self.host, sockets));
        Some(Box::new(Looks { host: self.host, number, life: self.life(), turn: (0, 0) }))
    }
}

impl HostRuntime {
    fn life(&self) -> u32 {
        with(|net| net.machine(self.host).life)
    }
}

struct Sender {
    socket: Arc<UdpSocket>,
    host: u32,
    /// The machine's own address, with the port.
    addr: SocketAddr,
    owner: Owner,
    options: UdpOptions,
}

impl UdpTx for Sender {
    fn caps(&self) -> UdpCaps {
        UdpCaps {
            segments: if self.options.gso { BATCH } else { 1 },
            gro_segments: if self.options.gro { BATCH } else { 1 },
            ecn: self.options.ecn,
            may_fragment: false,
            send_buffer: self.options.send_buffer,
            recv_buffer: self.options.recv_buffer,
        }
    }

    fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    fn try_send(&self, t: &Transmit<'_>) -> io::Result<()> {
        let segment = t.segment.unwrap_or(t.data.len());
        if segment == 0 || (!self.options.gso && segment < t.data.len()) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let ecn = if self.options.ecn { t.ecn } else { Ecn::NotEct };
        let from = (self.host, self.addr.port(), self.owner.get());
        for data in t.data.chunks(segment) {
            for (to, frame) in with(|net| net.send(from, t.to, ecn, data)) {
                // The links decided already that it arrives.
                self.socket.try_send_to(&frame.encode(), to)?;
            }
        }
        Ok(())
    }

    fn poll_writable(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A datagram that has come through turmoil and waits for its time.
#[derive(PartialEq, Eq)]
struct Waiting {
    at: u64,
    count: u64,
    frame: Frame,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.count).cmp(&(other.at, other.count))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

type Readable = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

struct Receiver {
    sender: Arc<Sender>,
    runtime: HostRuntime,
    timer: Box<dyn Timer>,
    /// Holds the socket's lock while it waits.
    readable: Option<Readable>,
    queue: BinaryHeap<Reverse<Waiting>>,
    count: u64,
    buf: Vec<u8>,
    slots: Vec<Slot>,
}

impl Receiver {
    /// Takes what turmoil delivered, and registers for more.
    fn collect(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            let socket = self.sender.socket.clone();
            let readable =
                self.readable.get_or_insert_with(|| Box::pin(async move { socket.readable().await }));
            let Poll::Ready(ready) = readable.as_mut().poll(cx) else { return Ok(()) };
            self.readable = None;
            ready?;
            while let Ok((len, _)) = self.sender.socket.try_recv_from(&mut self.buf) {
                if let Some(frame) = Frame::decode(&self.buf[..len]) {
                    self.count += 1;
                    self.queue.push(Reverse(Waiting { at: frame.at, count: self.count, frame }));
                }
            }
        }
    }
}

impl UdpRx for Receiver {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Batch<'_>>> {
        self.collect(cx)?;
        let (host, addr) = (self.sender.host, self.sender.addr);
        let node = self.sender.owner.get();
        self.slots.clear();
        let now = with(|net| net.now());
        while self.slots.len() < BATCH
            && let Some(Reverse(next)) = self.queue.peek()
            && next.at <= now
        {
            let Some(Reverse(Waiting { frame, .. })) = self.queue.pop() else { break };
            if with(|net| net.arrived(host, addr.port(), node, &frame)) {
                let Frame { src, ecn, data, .. } = frame;
                let ecn = if self.sender.options.ecn { ecn } else { Ecn::NotEct };
                let len = data.len();
                let (from, to) = (src.into(), Some(addr.ip()));
                self.slots.push(Slot { buf: data, len, stride: len, from, to, ecn });
            }
        }
        if !self.slots.is_empty() {
            return Poll::Ready(Ok(Batch(&mut self.slots)));
        }
        let next = self.queue.peek().map(|Reverse(next)| self.runtime.on_tokio(next.at));
        if self.timer.poll(cx, next).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// Tokio's timer, set by the machine's clock.
struct HostTimer {
    runtime: HostRuntime,
    inner: Box<dyn Timer>,
    id: u64,
}

impl Timer for HostTimer {
    fn poll(&mut self, cx: &mut Context<'_>, at: Option<Instant>) -> Poll<()> {
        let (host, id) = (self.runtime.host, self.id);
        let world = with(|net| {
            let machine = net.machine(host);
            match at {
                // A clock that jumps or drifts wakes everybody who waits for it.
                Some(_) => machine.wakers.insert(id, cx.waker().clone()),
                None => machine.wakers.remove(&id),
            };
            at.map(|at| machine.clock.world_time(at.as_nanos()))
        });
        self.inner.poll(cx, world.map(|world| self.runtime.on_tokio(world)))
    }
}

impl Drop for HostTimer {
    fn drop(&mut self) {
        let (host, id) = (self.runtime.host, self.id);
        try_with(|net| net.machine(host).wakers.remove(&id));
    }
}

/// Shows a node to the run's checkers.
struct Looks {
    host: u32,
    number: u32,
    life: u32,
    /// Turns at one instant.
    turn: (u64, u32),
}

impl Watcher for Looks {
    fn started(&mut self, node: &Node) {
        with(|net| net.started(self.host, self.number, node));
    }

    fn command(&mut self, command: &Command) {
        let node = self.number;
        with(|net| net.api(4, node, command, &Seen::Command { node, command }));
    }

    fn event(&mut self, event: &Event) {
        with(|net| net.event(self.number, event));
    }

    fn taken(&mut self, peer: Peer, stream: StreamId, taken: &Taken) {
        let node = self.number;
        with(|net| net.api(9, node, &taken.chunk, &Seen::Taken { node, peer, stream, taken }));
    }

    fn worked(&mut self, machine: &Node) {
        machine.invariants();
        let node = self.number;
        let now = with(|net| {
            if net.watch.wants(Wants::WORKED) {
                net.watch.see(net.at(), &Seen::Worked { node, machine });
            }
            net.now()
        });
        self.turn = if self.turn.0 == now { (now, self.turn.1 + 1) } else { (now, 0) };
        assert!(self.turn.1 <= MAX_TURNS, "no livelock: node {node} took {MAX_TURNS} turns at one instant");
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        // Its successor on this machine has its number; after a crash the run knows already.
        try_with(|net| {
            let machine = net.machine(self.host);
            if machine.life == self.life {
                machine.residents.ended(self.number);
            }
        });
    }
}
