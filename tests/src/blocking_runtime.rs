//! A runtime of `std` alone: a thread per task, a thread per socket, one thread for all timers.
//!
//! Written from the chapter "Writing a third runtime" of `docs/RUNTIMES.md`, to show that the page is
//! enough. It is slow (no batches, a thread per spawned task) and complete.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use net_proto::path::Ecn;
use net_proto::storage::Storage;
use net_proto::time::{Instant, WallClock};
use net_shell::runtime::{
    Batch, Bound, BoxFuture, Runtime, Slot, System, Timer, Transmit, UdpCaps, UdpOptions, UdpRx, UdpTx,
};
use net_shell::storage::FileStorage;
use net_shell::udp::bind_std;

/// Datagrams that wait for the driver; more wait in the system's buffer.
const QUEUE: usize = 64;
/// A send may take so long; then the socket counts as full.
const SEND: Duration = Duration::from_millis(1);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic of a task poisons nothing: every critical section here leaves its value whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The runtime. Clones share it.
#[derive(Clone)]
pub struct Threads {
    shared: Arc<Shared>,
}

struct Shared {
    system: System,
    alarms: Arc<Alarms>,
    over: AtomicBool,
    tasks: Mutex<Vec<Arc<Parker>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.alarms.stop();
    }
}

/// Wakes one thread.
struct Parker {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, SeqCst);
        self.thread.unpark();
    }
}

impl Parker {
    fn here() -> Arc<Self> {
        Arc::new(Self { thread: thread::current(), woken: AtomicBool::new(true) })
    }

    /// Polls the future on this thread until it is ready, or `over` says so.
    fn run<T>(self: &Arc<Self>, future: impl Future<Output = T>, over: impl Fn() -> bool) -> Option<T> {
        let waker = Waker::from(self.clone());
        let mut future = pin!(future);
        loop {
            if over() {
                return None;
            }
            if !self.woken.swap(false, SeqCst) {
                thread::park();
            } else if let Poll::Ready(out) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Some(out);
            }
        }
    }
}

impl Threads {
    /// A runtime without tasks.
    pub fn new() -> Self {
        // One clock for all: instants taken through different values of this type compare.
        static SYSTEM: OnceLock<System> = OnceLock::new();
        let system = *SYSTEM.get_or_init(System::new);
        let alarms = Arc::new(Alarms::default());
        let ringer = alarms.clone();
        thread::spawn(move || ringer.run(&system));
        let (over, tasks, threads) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
        Self { shared: Arc::new(Shared { system, alarms, over, tasks, threads }) }
    }

    /// Runs a future on this thread.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        Parker::here().run(future, || false).expect("it only stops when it is ready")
    }

    /// Drops all tasks where they are and waits until they are gone. Not from within a task.
    pub fn end(&self) {
        self.shared.over.store(true, SeqCst);
        lock(&self.shared.tasks).iter().for_each(Wake::wake_by_ref);
        let threads = std::mem::take(&mut *lock(&self.shared.threads));
        // Who panicked is gone too.
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }
}

impl Default for Threads {
    fn default() -> Self {
        Self::new()
    }
}

impl Runtime for Threads {
    fn bind(&self, at: SocketAddr, options: &UdpOptions) -> io::Result<Bound> {
        let io = bind_std(at, options)?;
        io.set_write_timeout(Some(SEND))?;
        let socket = Arc::new(Socket { local: io.local_addr()?, io, options: *options });
        let arrived = Arc::new(Arrived::default());
        let (reader, queue) = (socket.clone(), arrived.clone());
        let thread = thread::Builder::new().name("socket".into()).spawn(move || queue.fill(&reader.io))?;
        let receiver = Receiver { socket: socket.clone(), arrived, lent: Vec::new(), thread: Some(thread) };
        Ok((socket, Box::new(receiver)))
    }

    fn timer(&self) -> Box<dyn Timer> {
        let (alarms, system) = (self.shared.alarms.clone(), self.shared.system);
        let id = alarms.number();
        Box::new(Alarm { alarms, system, id, at: None })
    }

    fn spawn(&self, name: &'static str, task: BoxFuture) {
        let shared = self.shared.clone();
        let run = move || {
            let parker = Parker::here();
            lock(&shared.tasks).push(parker.clone());
            let listed = Forget(shared, parker.clone());
            parker.run(task, || listed.0.over.load(SeqCst));
        };
        if let Ok(thread) = thread::Builder::new().name(name.into()).spawn(run) {
            let mut threads = lock(&self.shared.threads);
            threads.retain(|thread| !thread.is_finished());
            threads.push(thread);
        }
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        // If there is no thread the work is dropped, and who waits for its answer learns that.
        drop(thread::Builder::new().name("work".into()).spawn(work));
    }

    fn storage(&self, dir: &Path) -> io::Result<Box<dyn Storage>> {
        Ok(Box::new(FileStorage::open(dir)?))
    }

    fn now(&self) -> Instant {
        self.shared.system.now()
    }

    fn wall(&self) -> WallClock {
        self.shared.system.wall()
    }

    fn entropy(&self) -> [u8; 32] {
        self.shared.system.entropy()
    }
}

/// Takes a task off the list when it ends, also by a panic.
struct Forget(Arc<Shared>, Arc<Parker>);

impl Drop for Forget {
    fn drop(&mut self) {
        lock(&self.0.tasks).retain(|parker| !Arc::ptr_eq(parker, &self.1));
    }
}

/// All timers of a runtime, and the thread that rings them.
#[derive(Default)]
struct Alarms {
    state: Mutex<Armed>,
    changed: Condvar,
}

#[derive(Default)]
struct Armed {
    by_time: BTreeMap<(Instant, u64), Waker>,
    numbers: u64,
    over: bool,
}

impl Alarms {
    fn number(&self) -> u64 {
        let mut state = lock(&self.state);
        state.numbers += 1;
        state.numbers
    }

    fn stop(&self) {
        lock(&self.state).over = true;
        self.changed.notify_all();
    }

    fn run(&self, system: &System) {
        let mut state = lock(&self.state);
        while !state.over {
            let Some(((at, _), _)) = state.by_time.first_key_value() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if *at > system.now() {
                let wait = system.std_instant(*at).saturating_duration_since(std::time::Instant::now());
                state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            if let Some((_, waker)) = state.by_time.pop_first() {
                // Woken without the lock: a waker may do anything.
                drop(state);
                waker.wake();
                state = lock(&self.state);
            }
        }
    }
}

struct Alarm {
    alarms: Arc<Alarms>,
    system: System,
    id: u64,
    at: Option<Instant>,
}

impl Timer for Alarm {
    fn poll(&mut self, cx: &mut Context<'_>, at: Option<Instant>) -> Poll<()> {
        let mut state = lock(&self.alarms.state);
        if let Some(old) = self.at.take() {
            state.by_time.remove(&(old, self.id));
        }
        let Some(at) = at else { return Poll::Pending };
        // The clock decides, not the wake.
        if at <= self.system.now() {
            return Poll::Ready(());
        }
        self.at = Some(at);
        state.by_time.insert((at, self.id), cx.waker().clone());
        if state.by_time.first_key_value().is_some_and(|(key, _)| *key == (at, self.id)) {
            self.alarms.changed.notify_all();
        }
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            lock(&self.alarms.state).by_time.remove(&(at, self.id));
        }
    }
}

struct Socket {
    io: UdpSocket,
    local: SocketAddr,
    options: UdpOptions,
}

impl UdpTx for Socket {
    fn caps(&self) -> UdpCaps {
        UdpCaps {
            segments: 1,
            gro_segments: 1,
            ecn: false,
            // Nothing here forbids the system to cut datagrams.
            may_fragment: true,
            // `std` cannot ask what was granted.
            send_buffer: self.options.send_buffer,
            recv_buffer: self.options.recv_buffer,
        }
    }

    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn try_send(&self, t: &Transmit<'_>) -> io::Result<()> {
        if t.segment.is_some_and(|size| size < t.data.len()) {
            return Err(ErrorKind::Unsupported.into());
        }
        match self.io.send_to(t.data, t.to) {
            Ok(_) => Ok(()),
            // No poller tells when there is room again: the driver tries on its own.
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(ErrorKind::ResourceBusy.into())
            }
            Err(e) => Err(e),
        }
    }

    fn poll_writable(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Datagrams between the thread that reads the socket and the driver.
#[derive(Default)]
struct Arrived {
    state: Mutex<Queue>,
    room: Condvar,
}

#[derive(Default)]
struct Queue {
    slots: VecDeque<Slot>,
    waker: Option<Waker>,
    over: bool,
}

impl Arrived {
    fn fill(&self, io: &UdpSocket) {
        let mut buf = vec![0; net_shell::udp::SLOT];
        loop {
            let mut state = lock(&self.state);
            while state.slots.len() >= QUEUE && !state.over {
                state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.over {
                return;
            }
            drop(state);
            // Errors of a receive are transient, as after an ICMP message.
            let Ok((len, from)) = io.recv_from(&mut buf) else { continue };
            let slot = Slot { buf: buf[..len].to_vec(), len, stride: len, from, to: None, ecn: Ecn::NotEct };
            let waker = {
                let mut state = lock(&self.state);
                state.slots.push_back(slot);
                state.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

struct Receiver {
    socket: Arc<Socket>,
    arrived: Arc<Arrived>,
    /// What the driver holds until the next call.
    lent: Vec<Slot>,
    thread: Option<JoinHandle<()>>,
}

impl UdpRx for Receiver {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Batch<'_>>> {
        let mut state = lock(&self.arrived.state);
        self.lent.clear();
        self.lent.extend(state.slots.drain(..));
        if self.lent.is_empty() {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.arrived.room.notify_all();
        drop(state);
        Poll::Ready(Ok(Batch(&mut self.lent)))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        lock(&self.arrived.state).over = true;
        self.arrived.room.notify_all();
        let Some(thread) = self.thread.take() else { return };
        // The thread blocks in the system. A datagram to itself lets it look, again and again: one
        // may be lost.
        let ip = match self.socket.local.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        while !thread.is_finished() {
            let _ = self.socket.io.send_to(&[], (ip, self.socket.local.port()));
            thread::park_timeout(SEND);
        }
        // Joined, so that the address is free from here on.
        drop(thread.join());
    }
}
