//! A wall clock that jumps.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use net_proto::storage::Storage;
use net_proto::time::{Duration, Instant, WallClock};
use net_sdk::Runtime;
use net_shell::runtime::{Bound, BoxFuture, Timer, UdpOptions};

/// A runtime whose wall clock says what the test wants.
pub struct Clock {
    inner: Arc<dyn Runtime>,
    /// Hours since 1970.
    pub hours: AtomicU64,
}

impl Clock {
    /// Over the runtime that is there, at this hour.
    pub fn at(hours: u64) -> Arc<Self> {
        let inner = net_sdk::rt::current().unwrap();
        Arc::new(Self { inner, hours: AtomicU64::new(hours) })
    }
}

impl Runtime for Clock {
    fn bind(&self, at: SocketAddr, options: &UdpOptions) -> io::Result<Bound> {
        self.inner.bind(at, options)
    }
    fn timer(&self) -> Box<dyn Timer> {
        self.inner.timer()
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
        self.inner.now()
    }
    fn wall(&self) -> WallClock {
        let unix = Duration::from_secs(3600 * self.hours.load(SeqCst));
        WallClock { unix, ..self.inner.wall() }
    }
    fn entropy(&self) -> [u8; 32] {
        self.inner.entropy()
    }
}
