//! A deterministic executor in virtual time behind [`Runtime`]: the whole SDK, and every application
//! that takes time, tasks and randomness from it, runs in the world unchanged.
//!
//! One thread, one queue of ready tasks in the order in which they were woken. Sockets are joined to
//! the world's links, timers to its queue of events. A wake that comes from another thread would make
//! the run depend on the machine's scheduler: it fails the run and names the task.

use std::any::Any;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, ThreadId};

use net_proto::path::Ecn;
use net_proto::storage::Storage;
use net_proto::time::{Duration, Instant, WallClock};
use net_shell::runtime::{
    Batch, Bound, BoxFuture, Runtime, Slot, Timer, Transmit, UdpCaps, UdpOptions, UdpRx, UdpTx,
};

use crate::disk::Disk;
use crate::keyed::{Domain, bytes32};
use crate::plan::DiskFault;

/// Datagrams in one batch, sent or received.
const BATCH: usize = 64;
/// Polls of tasks at one instant after which the tasks count as spinning.
const MAX_POLLS: u64 = 1_000_000;
/// First port that is given out.
const FIRST_PORT: u16 = 40_000;
/// What the wall clock says at the start of every world: 2026-01-01.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);

type Work = Box<dyn FnOnce() + Send>;

/// What a task sent, until the world takes it.
pub(crate) struct Outgoing {
    pub place: u32,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub ecn: Ecn,
    pub data: Vec<u8>,
    pub segment: usize,
}

struct Task {
    name: &'static str,
    host: u32,
    /// Out while it is polled.
    future: Option<BoxFuture>,
    waker: Waker,
    queued: bool,
}

struct Datagram {
    from: SocketAddr,
    to: IpAddr,
    ecn: Ecn,
    data: Vec<u8>,
}

#[derive(Default)]
struct Socket {
    host: u32,
    queue: VecDeque<Datagram>,
    bytes: usize,
    limit: usize,
    waker: Option<Waker>,
}

#[derive(Default)]
struct State {
    now: u64,
    /// Looked up only: the order of a hash map is nobody's business.
    tasks: HashMap<u64, Task>,
    next_task: u64,
    ready: VecDeque<u64>,
    /// By world time and number of the timer.
    timers: BTreeMap<(u64, u64), Waker>,
    next_timer: u64,
    /// The same.
    sockets: HashMap<SocketAddr, Socket>,
    /// Addresses that were bound or given up since the world looked.
    bound: Vec<(SocketAddr, Option<u32>)>,
    next_port: BTreeMap<u32, u16>,
    outbox: Vec<Outgoing>,
    works: VecDeque<Work>,
    draws: BTreeMap<u32, u64>,
    disks: BTreeMap<(u32, PathBuf), Disk>,
    /// Faults of disks that last, for disks that are opened later.
    disk_faults: BTreeMap<(u32, usize), DiskFault>,
    /// How far clocks jumped.
    shifts: BTreeMap<u32, u64>,
    overflow: u64,
    failure: Option<(Option<u32>, String)>,
}

impl State {
    fn shift(&self, host: u32) -> u64 {
        self.shifts.get(&host).copied().unwrap_or(0)
    }
}

/// The executor of one world.
pub(crate) struct Exec {
    seed: u64,
    home: ThreadId,
    state: Mutex<State>,
}

struct TaskWaker {
    exec: Arc<Exec>,
    id: u64,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.exec.wake(self.id);
    }
}

/// What running the ready tasks left for the world to do.
pub(crate) struct Ran {
    /// Tasks in the order in which they ran, with their machines, for the trace.
    pub polled: Vec<(u64, u32)>,
    pub outbox: Vec<Outgoing>,
    pub bound: Vec<(SocketAddr, Option<u32>)>,
    /// World time of the first timer.
    pub next: Option<u64>,
}

impl Exec {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { seed, home: thread::current().id(), state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, id: u64) {
        let mut state = self.state();
        let State { tasks, ready, .. } = &mut *state;
        let Some(task) = tasks.get_mut(&id) else { return };
        if thread::current().id() != self.home {
            let what = format!(
                "task `{}` of machine {} was woken by thread {:?}, which is not the simulator's: something in it uses real \
                 threads, real time or real sockets",
                task.name,
                task.host,
                thread::current().name().unwrap_or("without a name")
            );
            let host = task.host;
            state.failure.get_or_insert((Some(host), what.clone()));
            drop(state);
            panic!("{what}");
        }
        if !task.queued {
            task.queued = true;
            ready.push_back(id);
        }
    }

    /// Starts a task on a host.
    pub(crate) fn spawn(self: &Arc<Self>, host: u32, name: &'static str, future: BoxFuture) {
        let mut state = self.state();
        let id = state.next_task;
        state.next_task += 1;
        let waker = Waker::from(Arc::new(TaskWaker { exec: self.clone(), id }));
        state.tasks.insert(id, Task { name, host, future: Some(future), waker, queued: true });
        state.ready.push_back(id);
    }

    /// Runs everything that is ready at `now`, and what that makes ready, and so on.
    pub(crate) fn run(&self, now: u64) -> Ran {
        self.state().now = now;
        let due: Vec<Waker> = {
            let mut state = self.state();
            let mut due = Vec::new();
            while let Some(first) = state.timers.first_entry()
                && first.key().0 <= now
            {
                due.push(first.remove());
            }
            due
        };
        due.into_iter().for_each(Waker::wake);
        let mut polled = Vec::new();
        loop {
            let work = self.state().works.pop_front();
            if let Some(work) = work {
                work();
                continue;
            }
            let mut state = self.state();
            let Some(id) = state.ready.pop_front() else { break };
            let Some(task) = state.tasks.get_mut(&id) else { continue };
            task.queued = false;
            let (waker, name, host) = (task.waker.clone(), task.name, task.host);
            let Some(mut future) = task.future.take() else { continue };
            polled.push((id, host));
            if polled.len() as u64 > MAX_POLLS {
                let what = format!("livelock: tasks never wait; the last one is `{name}`");
                state.failure.get_or_insert((Some(host), what));
                break;
            }
            drop(state);
            // Polled without the lock: tasks use timers, sockets and spawn.
            let poll = || future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
            let done = catch_unwind(AssertUnwindSafe(poll)).unwrap_or_else(|panic| named(name, host, panic));
            if done {
                self.state().tasks.remove(&id);
                drop(future);
            } else if let Some(task) = self.state().tasks.get_mut(&id) {
                task.future = Some(future);
            }
        }
        let mut state = self.state();
        Ran {
            polled,
            outbox: std::mem::take(&mut state.outbox),
            bound: std::mem::take(&mut state.bound),
            next: state.timers.keys().next().map(|(at, _)| *at),
        }
    }

    pub(crate) fn failure(&self) -> Option<(Option<u32>, String)> {
        self.state().failure.clone()
    }

    pub(crate) fn has_work(&self) -> bool {
        let state = self.state();
        !state.ready.is_empty() || !state.works.is_empty()
    }

    /// A datagram reaches a socket.
    pub(crate) fn deliver(&self, to: SocketAddr, from: SocketAddr, ecn: Ecn, data: &[u8]) {
        let waker = {
            let mut state = self.state();
            let Some(socket) = state.sockets.get_mut(&to) else { return };
            if socket.bytes + data.len() > socket.limit {
                state.overflow += 1;
                return;
            }
            socket.bytes += data.len();
            socket.queue.push_back(Datagram { from, to: to.ip(), ecn, data: data.to_vec() });
            socket.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Everything of a host is gone but its disks, which lose what was not synced.
    pub(crate) fn crash(&self, host: u32) {
        let tasks: Vec<Task> = {
            let mut state = self.state();
            let mut ids: Vec<u64> =
                state.tasks.iter().filter(|(_, t)| t.host == host).map(|(id, _)| *id).collect();
            ids.sort_unstable();
            ids.iter().filter_map(|id| state.tasks.remove(id)).collect()
        };
        // Dropped without the lock: tasks own timers and sockets, which give themselves back.
        drop(tasks);
        let mut state = self.state();
        state.sockets.retain(|_, socket| socket.host != host);
        state.outbox.retain(|out| out.place != host);
        state.disks.iter().filter(|((h, _), _)| *h == host).for_each(|(_, disk)| disk.crash());
    }

    /// A disk of a host.
    pub(crate) fn disk(&self, host: u32, dir: &Path) -> Disk {
        let mut state = self.state();
        let State { disks, disk_faults, .. } = &mut *state;
        let entry = disks.entry((host, dir.to_path_buf()));
        let disk = entry.or_insert_with_key(|(_, dir)| {
            let name = dir.to_string_lossy();
            let disk = Disk::new(self.seed, crate::null::fold(u64::from(host), name.as_bytes()));
            let faults = disk_faults.iter().filter(|((h, _), _)| *h == host);
            faults.for_each(|((_, number), fault)| disk.worsen(*number, fault));
            disk
        });
        disk.clone()
    }

    /// Makes the disks of a host worse.
    pub(crate) fn worsen_disks(&self, host: u32, number: usize, fault: &DiskFault) {
        let mut state = self.state();
        // Rot happens at one instant, to what is there then.
        if *fault != DiskFault::Rot {
            state.disk_faults.insert((host, number), fault.clone());
        }
        let of = state.disks.iter().filter(|((h, _), _)| *h == host);
        of.for_each(|(_, disk)| disk.worsen(number, fault));
    }

    /// Ends a fault of disks.
    pub(crate) fn mend_disks(&self, host: u32, number: usize) {
        let mut state = self.state();
        state.disk_faults.remove(&(host, number));
        state.disks.iter().filter(|((h, _), _)| *h == host).for_each(|(_, disk)| disk.mend(number));
    }

    /// A host's clock jumps ahead. All timers look at their clocks again.
    pub(crate) fn shift_clock(&self, host: u32, by: u64) {
        let timers = {
            let mut state = self.state();
            *state.shifts.entry(host).or_default() += by;
            std::mem::take(&mut state.timers)
        };
        timers.into_values().for_each(Waker::wake);
    }

    fn draw(&self, host: u32) -> [u8; 32] {
        let mut state = self.state();
        let n = state.draws.entry(host).or_default();
        *n += 1;
        bytes32(self.seed, Domain::Entropy, u64::from(host), *n)
    }
}

/// Lets a panic go on, with the name of the task that it happened in.
fn named(name: &str, host: u32, panic: Box<dyn Any + Send>) -> ! {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    match text.or_else(|| panic.downcast_ref::<&str>().copied()) {
        Some(text) => resume_unwind(Box::new(format!("task `{name}` of machine {host}: {text}"))),
        None => resume_unwind(panic),
    }
}

/// A host's view of the executor.
pub(crate) struct HostRuntime {
    pub(crate) exec: Arc<Exec>,
    pub(crate) host: u32,
    pub(crate) ip: IpAddr,
    /// Added to world time.
    pub(crate) clock_offset: u64,
}

impl HostRuntime {
    fn same(&self) -> Self {
        Self { exec: self.exec.clone(), host: self.host, ip: self.ip, clock_offset: self.clock_offset }
    }

    fn world_time(&self, at: Instant, state: &State) -> u64 {
        at.as_nanos().saturating_sub(self.clock_offset + state.shift(self.host))
    }
}

impl Runtime for HostRuntime {
    fn bind(&self, at: SocketAddr, options: &UdpOptions) -> io::Result<Bound> {
        if at.ip() != self.ip && !(at.ip().is_unspecified() && at.is_ipv4() == self.ip.is_ipv4()) {
            let what = format!("this simulated host has the address {} and no other", self.ip);
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, what));
        }
        let mut state = self.exec.state();
        let port = match at.port() {
            0 => {
                let next = state.next_port.entry(self.host).or_insert(FIRST_PORT);
                *next += 1;
                *next
            }
            port => port,
        };
        let addr = SocketAddr::new(self.ip, port);
        if state.sockets.contains_key(&addr) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let limit = options.recv_buffer;
        state.sockets.insert(addr, Socket { host: self.host, limit, ..Socket::default() });
        state.bound.push((addr, Some(self.host)));
        let socket =
            Arc::new(HostSocket { exec: self.exec.clone(), host: self.host, addr, options: *options });
        Ok((socket.clone(), Box::new(HostReceiver { socket, slots: Vec::new() })))
    }

    fn timer(&self) -> Box<dyn Timer> {
        let mut state = self.exec.state();
        state.next_timer += 1;
        Box::new(HostTimer { runtime: self.same(), id: state.next_timer, at: None })
    }

    fn spawn(&self, name: &'static str, task: BoxFuture) {
        self.exec.spawn(self.host, name, task);
    }

    fn blocking(&self, work: Work) {
        // Between two polls: the caller may hold locks that the work takes.
        self.exec.state().works.push_back(work);
    }

    fn storage(&self, dir: &Path) -> io::Result<Box<dyn Storage>> {
        let disk = self.exec.disk(self.host, dir);
        let clock = self.same();
        Ok(Box::new(disk.open(move || clock.now(), self.timer())))
    }

    fn now(&self) -> Instant {
        let state = self.exec.state();
        Instant::from_nanos(state.now + self.clock_offset + state.shift(self.host))
    }

    fn wall(&self) -> WallClock {
        let now = Duration::from_nanos(self.exec.state().now);
        WallClock { unix: EPOCH + now, max_error: Duration::from_secs(1) }
    }

    fn entropy(&self) -> [u8; 32] {
        self.exec.draw(self.host)
    }

    fn may_block(&self, call: &str) {
        panic!(
            "`{call}` blocks its thread, and the simulator has one thread for everything: use the \
             asynchronous call"
        );
    }
}

struct HostSocket {
    exec: Arc<Exec>,
    host: u32,
    addr: SocketAddr,
    options: UdpOptions,
}

impl UdpTx for HostSocket {
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
        let (place, from, to) = (self.host, self.addr, t.to);
        self.exec.state().outbox.push(Outgoing { place, from, to, ecn, data: t.data.to_vec(), segment });
        Ok(())
    }

    fn poll_writable(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct HostReceiver {
    socket: Arc<HostSocket>,
    slots: Vec<Slot>,
}

impl UdpRx for HostReceiver {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Batch<'_>>> {
        let mut state = self.socket.exec.state();
        let Some(socket) = state.sockets.get_mut(&self.socket.addr) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        self.slots.clear();
        while self.slots.len() < BATCH {
            let Some(Datagram { from, to, ecn, data }) = socket.queue.pop_front() else { break };
            socket.bytes -= data.len();
            let ecn = if self.socket.options.ecn { ecn } else { Ecn::NotEct };
            let len = data.len();
            self.slots.push(Slot { buf: data, len, stride: len, from, to: Some(to), ecn });
        }
        if self.slots.is_empty() {
            socket.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        drop(state);
        Poll::Ready(Ok(Batch(&mut self.slots)))
    }
}

impl Drop for HostReceiver {
    fn drop(&mut self) {
        let mut state = self.socket.exec.state();
        state.sockets.remove(&self.socket.addr);
        state.bound.push((self.socket.addr, None));
    }
}

struct HostTimer {
    runtime: HostRuntime,
    id: u64,
    at: Option<u64>,
}

impl HostTimer {
    fn clear(&mut self, state: &mut State) {
        if let Some(at) = self.at.take() {
            state.timers.remove(&(at, self.id));
        }
    }
}

impl Timer for HostTimer {
    fn poll(&mut self, cx: &mut Context<'_>, at: Option<Instant>) -> Poll<()> {
        let exec = self.runtime.exec.clone();
        let mut state = exec.state();
        self.clear(&mut state);
        let Some(at) = at else { return Poll::Pending };
        let at = self.runtime.world_time(at, &state);
        if at <= state.now {
            return Poll::Ready(());
        }
        state.timers.insert((at, self.id), cx.waker().clone());
        self.at = Some(at);
        Poll::Pending
    }
}

impl Drop for HostTimer {
    fn drop(&mut self) {
        let exec = self.runtime.exec.clone();
        let mut state = exec.state();
        self.clear(&mut state);
    }
}
