//! The order in which an outbox ends.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};

use net_proto::bus::{Backpressure, BatchConfig, LogLimits, MAX_EVENT, ProducerId};
use net_proto::storage::{StoreOp, StoreResult, Ticket};
use net_proto::time::{Duration, Instant, WallClock};

use super::*;
use crate::bus::BusConfig;
use crate::bus::engine::Engine;
use crate::runtime::{Bound, Runtime, Timer, UdpOptions};
use crate::storage::{Disk, Forgetting};

/// Keeps the tasks that were spawned for whoever runs them.
#[derive(Default)]
struct ByHand(Mutex<Vec<BoxFuture>>);

struct Never;

impl Timer for Never {
    fn poll(&mut self, _: &mut Context<'_>, _: Option<Instant>) -> Poll<()> {
        Poll::Pending
    }
}

impl Runtime for ByHand {
    fn bind(&self, _: SocketAddr, _: &UdpOptions) -> io::Result<Bound> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn timer(&self) -> Box<dyn Timer> {
        Box::new(Never)
    }
    fn spawn(&self, _: &'static str, task: BoxFuture) {
        lock(&self.0).push(task);
    }
    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }
    fn storage(&self, _: &Path) -> io::Result<Box<dyn Storage>> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn now(&self) -> Instant {
        Instant::ZERO
    }
    fn wall(&self) -> WallClock {
        WallClock { unix: Duration::from_secs(1), max_error: Duration::ZERO }
    }
    fn entropy(&self) -> [u8; 32] {
        [7; 32]
    }
}

/// Notes whether the end had been told when this storage, and with it its lock, went.
struct Watched {
    inner: Forgetting,
    inline: bool,
    end: Arc<OutboxShared>,
    told: Arc<Mutex<Option<bool>>>,
}

impl Storage for Watched {
    fn submit(&mut self, ticket: Ticket, op: StoreOp) {
        self.inner.submit(ticket, op);
    }
    fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<(Ticket, StoreResult)> {
        self.inner.poll_done(cx)
    }
    fn inline(&mut self) -> bool {
        self.inline
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        *lock(&self.told) = Some(lock(&self.end.state).over);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs the tasks of `runtime` beside a future until that is ready.
fn block_on<T>(runtime: &ByHand, future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return value;
        }
        let mut tasks = std::mem::take(&mut *lock(&runtime.0));
        tasks.retain_mut(|task| task.as_mut().poll(&mut cx).is_pending());
        lock(&runtime.0).append(&mut tasks);
        thread::park();
    }
}

/// Who is told that a bus ended may open the same outbox at once.
#[test]
fn the_lock_is_gone_before_anybody_hears_of_the_end() {
    for inline in [false, true] {
        let runtime = Arc::new(ByHand::default());
        let config = BusConfig {
            shards: 1,
            max_shards: 1,
            limits: LogLimits { events: 100, bytes: 1 << 20, keep: false },
            mode: Backpressure::FailProducer,
            max_event: MAX_EVENT,
            batch: BatchConfig::default(),
            producer: ProducerId(1),
            incarnation: 1,
            adapter: Some(Arc::new(Engine::new().adapter())),
        };
        let (bus, end, told) =
            (Bus::new(runtime.clone(), config), Arc::<OutboxShared>::default(), Arc::default());
        let inner = Disk::new().open();
        let storage = Watched { inner, inline, end: end.clone(), told: Arc::clone(&told) };
        block_on(&runtime, start(&bus, Box::new(storage), 1 << 16, end.clone())).expect("an outbox");
        bus.emit(0, b"an event").expect("room");
        block_on(&runtime, end.finish());
        assert_eq!(*lock(&told), Some(false), "on a thread of its own: {inline}");
    }
}
