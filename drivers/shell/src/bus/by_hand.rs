//! For tests: a bus whose tasks run when the test says so, and whose time stands still.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use net_proto::bus::{Backpressure, BatchConfig, LogLimits, MAX_EVENT, ProducerId};
use net_proto::storage::Storage;
use net_proto::time::{Duration, Instant, WallClock};

use super::engine::Engine;
use super::{Bus, BusConfig};
use crate::bell::lock;
use crate::runtime::{Bound, BoxFuture, Runtime, Timer, UdpOptions};

/// Keeps the tasks that were spawned for whoever runs them.
#[derive(Default)]
pub(super) struct ByHand(Mutex<Vec<BoxFuture>>);

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

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs the tasks of `runtime` beside a future until that is ready.
pub(super) fn block_on<T>(runtime: &ByHand, future: impl Future<Output = T>) -> T {
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

/// A bus before an engine, without a task. Up to two shards.
pub(super) fn bus(runtime: &Arc<ByHand>, shards: u16) -> Arc<Bus> {
    let config = BusConfig {
        shards,
        max_shards: 2,
        limits: LogLimits { events: 100, bytes: 1 << 20, keep: false },
        mode: Backpressure::FailProducer,
        max_event: MAX_EVENT,
        batch: BatchConfig::default(),
        producer: ProducerId(1),
        incarnation: 1,
        adapter: Some(Arc::new(Engine::new().adapter())),
    };
    Bus::new(runtime.clone(), config)
}
