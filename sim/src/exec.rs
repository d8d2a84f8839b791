//! A deterministic executor in virtual time behind [`Runtime`]: the whole SDK, and every application
//! that takes time, tasks and randomness from it, runs in the world unchanged.
//!
//! One thread, one queue of ready tasks in the order in which they were woken. Sockets are joined to
//! the world's links, timers to its queue of events, machine by machine. A wake that comes from another
//! thread would make the run depend on the machine's scheduler: it fails the run and names the task.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
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
    Batch, Bound, BoxFuture, Runtime, Slot, Timer, Transmit, UdpCaps, UdpOptions, UdpRx, UdpTx, Watcher,
};

use crate::clock::Clock;
use crate::disk::Disk;
use crate::keyed::{Domain, bytes32};
use crate::plan::DiskFault;
use crate::residents::{Owner, Residents};
use crate::stage::Onlooker;

/// Datagrams in one batch, sent or received.
const BATCH: usize = 64;
/// Polls of tasks at one instant after which the tasks count as spinning.
const MAX_POLLS: u64 = 1_000_000;
/// First port that is given out.
const FIRST_PORT: u16 = 40_000;
/// Buffers of datagrams that are kept to be used again.
const MAX_BUFFERS: usize = 4_096;
/// What the wall clock says at the start of every world: 2026-01-01.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);

type Work = Box<dyn FnOnce() + Send>;

/// What a task sent, until the world takes it.
pub(crate) struct Outgoing {
    pub place: u32,
    /// The node whose socket it was.
    pub node: Option<u32>,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub ecn: Ecn,
    pub data: Vec<u8>,
    pub segment: usize,
}

/// Names a task: its slot, and a number that no other task ever has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TaskId {
    slot: u32,
    serial: u64,
}

struct Task {
    serial: u64,
    name: &'static str,
    host: u32,
    /// Counts the tasks of its machine.
    number: u64,
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

struct Socket {
    owner: Owner,
    queue: VecDeque<Datagram>,
    bytes: usize,
    limit: usize,
    waker: Option<Waker>,
}

/// What one machine has.
#[derive(Default)]
struct Host {
    /// By world time and number of the timer.
    timers: BTreeMap<(u64, u64), Waker>,
    /// The world was asked to call at this time.
    armed: Option<u64>,
    /// It stands in the list of those whose first timer may have become an earlier one.
    listed: bool,
    sockets: BTreeMap<SocketAddr, Socket>,
    residents: Residents,
    /// How often it lost its power.
    crashes: u32,
    ports: u16,
    tasks: u64,
    draws: u64,
    clock: Clock,
}

#[derive(Default)]
struct State {
    now: u64,
    tasks: Vec<Option<Task>>,
    free: Vec<u32>,
    serial: u64,
    ready: VecDeque<TaskId>,
    hosts: Vec<Host>,
    /// Those whose first timer may have become an earlier one.
    earlier: Vec<u32>,
    next_timer: u64,
    /// Addresses that were bound or given up since the world looked.
    bound: Vec<(SocketAddr, Option<u32>)>,
    outbox: Vec<Outgoing>,
    /// Addresses that became paths of nodes.
    paths: Vec<(u32, SocketAddr)>,
    buffers: Vec<Vec<u8>>,
    works: VecDeque<Work>,
    disks: BTreeMap<(u32, PathBuf), Disk>,
    /// Faults of disks that last, for disks that are opened later.
    disk_faults: BTreeMap<(u32, usize), DiskFault>,
    overflow: u64,
    failure: Option<(Option<u32>, String)>,
}

impl State {
    fn host(&mut self, host: u32) -> &mut Host {
        let index = host as usize;
        if self.hosts.len() <= index {
            self.hosts.resize_with(index + 1, Host::default);
        }
        &mut self.hosts[index]
    }

    fn task(&mut self, id: TaskId) -> Option<&mut Task> {
        self.tasks.get_mut(id.slot as usize)?.as_mut().filter(|task| task.serial == id.serial)
    }

    fn remove(&mut self, id: TaskId) -> Option<Task> {
        self.task(id)?;
        self.free.push(id.slot);
        self.tasks[id.slot as usize].take()
    }

    fn set_timer(&mut self, host: u32, at: u64, id: u64, waker: Waker) {
        let h = self.host(host);
        h.timers.insert((at, id), waker);
        if h.armed.is_none_or(|armed| at < armed) && !h.listed {
            h.listed = true;
            self.earlier.push(host);
        }
    }

    /// For a datagram; empty.
    fn buffer(&mut self) -> Vec<u8> {
        let mut buffer = self.buffers.pop().unwrap_or_default();
        buffer.clear();
        buffer
    }

    fn recycle(&mut self, buffer: Vec<u8>) {
        if self.buffers.len() < MAX_BUFFERS {
            self.buffers.push(buffer);
        }
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
    id: TaskId,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.exec.wake(self.id);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.exec.wake(self.id);
    }
}

/// What running the ready tasks left for the world to do.
#[derive(Default)]
pub(crate) struct Ran {
    /// Tasks in the order in which they ran, by machine and number, for the trace.
    pub polled: Vec<(u32, u64)>,
    pub outbox: Vec<Outgoing>,
    /// Addresses that became paths, by node.
    pub paths: Vec<(u32, SocketAddr)>,
    pub bound: Vec<(SocketAddr, Option<u32>)>,
    /// Machines that are to be called, and when.
    pub calls: Vec<(u32, u64)>,
}

impl Exec {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { seed, home: thread::current().id(), state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, id: TaskId) {
        let mut state = self.state();
        let Some(task) = state.task(id) else { return };
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
            state.ready.push_back(id);
        }
    }

    /// Starts a task on a host.
    pub(crate) fn spawn(self: &Arc<Self>, host: u32, name: &'static str, future: BoxFuture) {
        let mut state = self.state();
        state.serial += 1;
        let serial = state.serial;
        let slot = state.free.pop().unwrap_or_else(|| {
            state.tasks.push(None);
            (state.tasks.len() - 1) as u32
        });
        let id = TaskId { slot, serial };
        let waker = Waker::from(Arc::new(TaskWaker { exec: self.clone(), id }));
        let h = state.host(host);
        h.tasks += 1;
        let number = h.tasks;
        let task = Task { serial, name, host, number, future: Some(future), waker, queued: true };
        state.tasks[slot as usize] = Some(task);
        state.ready.push_back(id);
    }

    /// The time has come that a machine asked for.
    pub(crate) fn call(&self, now: u64, host: u32) {
        let mut state = self.state();
        state.now = now;
        let h = state.host(host);
        if h.armed.is_some_and(|at| at <= now) {
            h.armed = None;
        }
        while let Some(first) = state.host(host).timers.first_entry()
            && first.key().0 <= now
        {
            let waker = first.remove();
            drop(state);
            waker.wake();
            state = self.state();
        }
        let h = state.host(host);
        if h.armed.is_none() && !h.timers.is_empty() && !h.listed {
            h.listed = true;
            state.earlier.push(host);
        }
    }

    /// Runs everything that is ready at `now`, and what that makes ready, and so on. `turn`: only this
    /// machine may be called now.
    pub(crate) fn run(&self, now: u64, turn: Option<u32>, ran: &mut Ran) {
        let mut state = self.state();
        state.now = now;
        loop {
            if let Some(work) = state.works.pop_front() {
                drop(state);
                work();
                state = self.state();
                continue;
            }
            let Some(id) = state.ready.pop_front() else { break };
            let Some(task) = state.task(id) else { continue };
            task.queued = false;
            let (name, host, number) = (task.name, task.host, task.number);
            ran.polled.push((host, number));
            let broken = match turn {
                Some(turn) if turn != host => Some(format!(
                    "task `{name}` was woken by machine {turn}, not over the network: such machines cannot be \
                     called node by node (WorldConfig::by_node)"
                )),
                _ if ran.polled.len() as u64 > MAX_POLLS => {
                    Some(format!("livelock: tasks never wait; the last one is `{name}`"))
                }
                _ => None,
            };
            if let Some(what) = broken {
                state.failure.get_or_insert((Some(host), what));
                break;
            }
            let Some(task) = state.task(id) else { continue };
            let waker = task.waker.clone();
            let Some(mut future) = task.future.take() else { continue };
            // Polled without the lock: tasks use timers, sockets and spawn.
            drop(state);
            let poll = || future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
            let done = catch_unwind(AssertUnwindSafe(poll)).unwrap_or_else(|panic| named(name, host, panic));
            if done {
                let task = self.state().remove(id);
                drop((task, future));
                state = self.state();
            } else {
                state = self.state();
                if let Some(task) = state.task(id) {
                    task.future = Some(future);
                } else {
                    // It ended its own machine.
                    drop(state);
                    drop(future);
                    state = self.state();
                }
            }
        }
        std::mem::swap(&mut state.outbox, &mut ran.outbox);
        std::mem::swap(&mut state.bound, &mut ran.bound);
        std::mem::swap(&mut state.paths, &mut ran.paths);
        while let Some(host) = state.earlier.pop() {
            let h = state.host(host);
            h.listed = false;
            let first = h.timers.keys().next().map(|(at, _)| *at);
            if let Some(at) = first.filter(|at| h.armed.is_none_or(|armed| *at < armed)) {
                h.armed = Some(at);
                ran.calls.push((host, at));
            }
        }
    }

    pub(crate) fn failure(&self) -> Option<(Option<u32>, String)> {
        self.state().failure.clone()
    }

    /// Whether [`Self::run`] has something to do.
    pub(crate) fn has_work(&self) -> bool {
        let state = self.state();
        !state.ready.is_empty() || !state.works.is_empty() || !state.earlier.is_empty()
    }

    /// A buffer that a task sent from, to be used again.
    pub(crate) fn recycle(&self, buffer: Vec<u8>) {
        self.state().recycle(buffer);
    }

    /// Whether a socket of a machine has room for a datagram; of which node it is, if of one.
    pub(crate) fn has_room(&self, host: u32, to: SocketAddr, len: usize) -> Option<Option<u32>> {
        let mut state = self.state();
        let socket = state.host(host).sockets.get(&to)?;
        let owner = socket.owner.get();
        if socket.bytes + len > socket.limit {
            state.overflow += 1;
            return None;
        }
        Some(owner)
    }

    /// A datagram reaches a socket of a machine.
    pub(crate) fn deliver(&self, host: u32, to: SocketAddr, from: SocketAddr, ecn: Ecn, data: Vec<u8>) {
        let waker = {
            let mut state = self.state();
            let Some(socket) = state.host(host).sockets.get_mut(&to) else { return };
            socket.bytes += data.len();
            socket.queue.push_back(Datagram { from, to: to.ip(), ecn, data });
            socket.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Everything of a host is gone but its disks, which lose what was not synced. Returns the nodes that
    /// ran there.
    pub(crate) fn crash(&self, host: u32) -> Vec<u32> {
        let mut nodes = Vec::new();
        let tasks: Vec<Task> = {
            let mut state = self.state();
            let h = state.host(host);
            h.crashes += 1;
            nodes.extend(h.residents.crash());
            let slots = state.tasks.iter().zip(0..);
            let of_host = slots.filter_map(|(task, slot)| Some((task.as_ref()?, slot)));
            let of_host = of_host.filter(|(task, _)| task.host == host);
            let mut ids: Vec<TaskId> =
                of_host.map(|(task, slot)| TaskId { slot, serial: task.serial }).collect();
            ids.sort_unstable_by_key(|id| id.serial);
            ids.iter().filter_map(|id| state.remove(*id)).collect()
        };
        // Dropped without the lock: tasks own timers and sockets, which give themselves back.
        drop(tasks);
        let mut state = self.state();
        state.host(host).sockets.clear();
        state.outbox.retain(|out| out.place != host);
        state.disks.iter().filter(|((h, _), _)| *h == host).for_each(|(_, disk)| disk.crash());
        nodes
    }

    /// A node on a machine exists: the how manieth life this is.
    pub(crate) fn node_started(&self, host: u32, node: u32) -> u32 {
        self.state().host(host).residents.started(node)
    }

    /// A node is gone; `crashes` says in which life of the machine it began.
    pub(crate) fn node_ended(&self, host: u32, crashes: u32, node: u32) {
        let mut state = self.state();
        let h = state.host(host);
        if h.crashes == crashes {
            h.residents.ended(node);
        }
    }

    /// An address became a path of a node.
    pub(crate) fn note_path(&self, node: u32, addr: SocketAddr) {
        self.state().paths.push((node, addr));
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

    /// A host has this clock from now on. Its timers look at it again.
    pub(crate) fn set_clock(&self, host: u32, clock: Clock) {
        let timers = {
            let mut state = self.state();
            let h = state.host(host);
            h.clock = clock;
            std::mem::take(&mut h.timers)
        };
        timers.into_values().for_each(Waker::wake);
    }

    fn draw(&self, host: u32) -> [u8; 32] {
        let mut state = self.state();
        let h = state.host(host);
        h.draws += 1;
        bytes32(self.seed, Domain::Entropy, u64::from(host), h.draws)
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
}

impl HostRuntime {
    fn same(&self) -> Self {
        Self { exec: self.exec.clone(), host: self.host, ip: self.ip }
    }
}

impl Runtime for HostRuntime {
    fn bind(&self, at: SocketAddr, options: &UdpOptions) -> io::Result<Bound> {
        if at.ip() != self.ip && !(at.ip().is_unspecified() && at.is_ipv4() == self.ip.is_ipv4()) {
            let what = format!("this simulated host has the address {} and no other", self.ip);
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, what));
        }
        let mut state = self.exec.state();
        let h = state.host(self.host);
        let port = match at.port() {
            0 => {
                h.ports += 1;
                FIRST_PORT + h.ports
            }
            port => port,
        };
        let addr = SocketAddr::new(self.ip, port);
        if h.sockets.contains_key(&addr) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let limit = options.recv_buffer;
        let owner = h.residents.bound(addr);
        let (queue, waker) = (VecDeque::new(), None);
        h.sockets.insert(addr, Socket { owner: owner.clone(), queue, bytes: 0, limit, waker });
        state.bound.push((addr, Some(self.host)));
        let (exec, host, options) = (self.exec.clone(), self.host, *options);
        let socket = Arc::new(HostSocket { exec, host, owner, addr, options });
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
        let mut state = self.exec.state();
        let now = state.now;
        Instant::from_nanos(state.host(self.host).clock.read(now))
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

    fn watcher(&self, sockets: &[SocketAddr]) -> Option<Box<dyn Watcher>> {
        let mut state = self.exec.state();
        let h = state.host(self.host);
        let (node, crashes) = (h.residents.begins(self.host, sockets), h.crashes);
        Some(Box::new(Onlooker::new(self.exec.clone(), self.host, crashes, node)))
    }
}

struct HostSocket {
    exec: Arc<Exec>,
    host: u32,
    owner: Owner,
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
        let (place, node, from, to) = (self.host, self.owner.get(), self.addr, t.to);
        let mut state = self.exec.state();
        let mut data = state.buffer();
        data.extend_from_slice(t.data);
        state.outbox.push(Outgoing { place, node, from, to, ecn, data, segment });
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
        let HostSocket { exec, host, addr, options, .. } = &*self.socket;
        let mut state = exec.state();
        self.slots.drain(..).for_each(|slot| state.recycle(slot.buf));
        let Some(socket) = state.host(*host).sockets.get_mut(addr) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        while self.slots.len() < BATCH {
            let Some(Datagram { from, to, ecn, data }) = socket.queue.pop_front() else { break };
            socket.bytes -= data.len();
            let ecn = if options.ecn { ecn } else { Ecn::NotEct };
            let len = data.len();
            self.slots.push(Slot { buf: data, len, stride: len, from, to: Some(to), ecn });
        }
        if self.slots.is_empty() {
            match &mut socket.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        drop(state);
        Poll::Ready(Ok(Batch(&mut self.slots)))
    }
}

impl Drop for HostReceiver {
    fn drop(&mut self) {
        let mut state = self.socket.exec.state();
        state.host(self.socket.host).sockets.remove(&self.socket.addr);
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
            state.host(self.runtime.host).timers.remove(&(at, self.id));
        }
    }
}

impl Timer for HostTimer {
    fn poll(&mut self, cx: &mut Context<'_>, at: Option<Instant>) -> Poll<()> {
        let exec = self.runtime.exec.clone();
        let host = self.runtime.host;
        let mut state = exec.state();
        let at = at.map(|at| state.host(host).clock.world_time(at.as_nanos()));
        if let Some(at) = at.filter(|at| *at > state.now && self.at == Some(*at))
            && let Some(waker) = state.host(host).timers.get_mut(&(at, self.id))
        {
            waker.clone_from(cx.waker());
            return Poll::Pending;
        }
        self.clear(&mut state);
        let Some(at) = at else { return Poll::Pending };
        if at <= state.now {
            return Poll::Ready(());
        }
        state.set_timer(host, at, self.id, cx.waker().clone());
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
