//! Net on smol: readiness, timers, tasks and a pool. Everything else is in `net-shell`.
//!
//! Tasks run on smol's global executor, which has one thread unless the environment variable
//! `SMOL_THREADS` says otherwise. It runs whoever starts the node: no runtime has to be entered.
#![forbid(unsafe_code)]

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use async_io::Async;
use net_proto::storage::Storage;
use net_proto::time::{Instant, WallClock};
use net_shell::runtime::{
    Batch, Bound, BoxFuture, Runtime, System, Timer, Transmit, UdpCaps, UdpOptions, UdpRx, UdpTx,
};
use net_shell::storage::FileStorage;
use net_shell::udp::{Slots, UdpSocket};

/// Smol's global executor, with its reactor and its pool for blocking work.
#[derive(Clone, Copy, Debug)]
pub struct Smol {
    system: System,
}

impl Smol {
    /// The executor of this process.
    pub fn new() -> Self {
        // One clock for all: instants taken through different values of this type compare.
        static SYSTEM: OnceLock<System> = OnceLock::new();
        Self { system: *SYSTEM.get_or_init(System::new) }
    }
}

impl Default for Smol {
    fn default() -> Self {
        Self::new()
    }
}

impl Runtime for Smol {
    fn bind(&self, at: SocketAddr, options: &UdpOptions) -> io::Result<Bound> {
        let inner = UdpSocket::bind(at, options)?;
        // The copy shares the socket; it only serves to hear of readiness.
        let ready = Async::new_nonblocking(inner.std().try_clone()?)?;
        let socket = Arc::new(Socket { inner, ready });
        Ok((socket.clone(), Box::new(Receiver { socket, memory: Slots::new(), empty: false })))
    }

    fn timer(&self) -> Box<dyn Timer> {
        Box::new(Sleep { system: self.system, timer: async_io::Timer::never(), armed: None })
    }

    fn spawn(&self, _name: &'static str, task: BoxFuture) {
        smol::spawn(task).detach();
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        smol::unblock(work).detach();
    }

    fn storage(&self, dir: &Path) -> io::Result<Box<dyn Storage>> {
        Ok(Box::new(FileStorage::open(dir)?))
    }

    fn now(&self) -> Instant {
        self.system.now()
    }

    fn wall(&self) -> WallClock {
        self.system.wall()
    }

    fn entropy(&self) -> [u8; 32] {
        self.system.entropy()
    }
}

struct Socket {
    inner: UdpSocket,
    ready: Async<std::net::UdpSocket>,
}

impl UdpTx for Socket {
    fn caps(&self) -> UdpCaps {
        self.inner.caps()
    }

    fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ready.poll_writable(cx)
    }
}

struct Receiver {
    socket: Arc<Socket>,
    memory: Slots,
    /// The socket was empty when it was last asked.
    empty: bool,
}

impl UdpRx for Receiver {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Batch<'_>>> {
        loop {
            // The reactor keeps no readiness: it tells of what came since a poll that was pending, and of what
            // lies in the socket when that poll begins. So the socket is asked first, unless it was empty.
            if self.empty {
                let ready = self.socket.ready.poll_readable(cx);
                if ready.is_pending() {
                    self.memory.rest();
                }
                ready!(ready)?;
                self.empty = false;
            }
            match self.socket.inner.fill(&mut self.memory) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.empty = true,
                Err(e) => return Poll::Ready(Err(e)),
                Ok(()) => {
                    self.empty = self.memory.drained();
                    return Poll::Ready(Ok(self.memory.batch()));
                }
            }
        }
    }
}

struct Sleep {
    system: System,
    timer: async_io::Timer,
    /// When `timer` fires.
    armed: Option<Instant>,
}

impl Timer for Sleep {
    fn poll(&mut self, cx: &mut Context<'_>, at: Option<Instant>) -> Poll<()> {
        let Some(at) = at else {
            return Poll::Pending;
        };
        while at > self.system.now() {
            // A timer that fires before `at` stays: it is set anew then, so moving a deadline back,
            // which every packet does, costs nothing.
            if self.armed.is_none_or(|armed| armed > at) {
                self.timer.set_at(self.system.std_instant(at));
                self.armed = Some(at);
            }
            ready!(Pin::new(&mut self.timer).poll(cx));
            self.armed = None;
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use net_proto::time::Duration;
    use std::future::poll_fn;

    fn sleep(timer: &mut dyn Timer, at: Instant) {
        smol::block_on(poll_fn(|cx| timer.poll(cx, Some(at))));
    }

    #[test]
    fn a_timer_is_reset_for_ever_and_never_early() {
        let smol = Smol::new();
        let mut timer = smol.timer();
        let start = smol.now();
        for step in [3, 1, 2] {
            let at = smol.now() + Duration::from_millis(step);
            sleep(&mut *timer, at);
            assert!(smol.now() >= at);
        }
        smol::block_on(poll_fn(|cx| {
            // Far, near, later than near, none: the last call counts.
            assert!(timer.poll(cx, Some(start + Duration::from_secs(3600))).is_pending());
            assert!(timer.poll(cx, Some(smol.now() + Duration::from_secs(60))).is_pending());
            assert!(timer.poll(cx, Some(smol.now() + Duration::from_secs(90))).is_pending());
            assert!(timer.poll(cx, None).is_pending());
            Poll::Ready(())
        }));
        let at = smol.now() + Duration::from_millis(5);
        sleep(&mut *timer, at);
        assert!(smol.now() >= at);
    }

    #[test]
    fn a_deadline_that_moved_back_is_met_by_a_timer_that_fires_first() {
        let smol = Smol::new();
        let mut timer = smol.timer();
        let early = smol.now() + Duration::from_millis(2);
        let late = early + Duration::from_millis(10);
        smol::block_on(poll_fn(|cx| Poll::Ready(_ = timer.poll(cx, Some(early)))));
        sleep(&mut *timer, late);
        assert!(smol.now() >= late);
    }

    #[test]
    fn tasks_and_blocking_work_survive_a_panic_of_their_neighbours() {
        let smol = Smol::new();
        let (tx, rx) = smol::channel::bounded(2);
        smol.spawn("falls", Box::pin(async { panic!("a task") }));
        smol.blocking(Box::new(|| panic!("blocking work")));
        let from_task = tx.clone();
        smol.spawn("runs", Box::pin(async move { from_task.send(1).await.unwrap() }));
        smol.blocking(Box::new(move || tx.send_blocking(2).unwrap()));
        let mut got = smol::block_on(async { [rx.recv().await.unwrap(), rx.recv().await.unwrap()] });
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
    }
}
