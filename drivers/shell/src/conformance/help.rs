//! What cases are written with.

use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use net_proto::path::Ecn;
use net_proto::time::{Duration, Instant};

use crate::bell::lock;
use crate::runtime::{Runtime, Timer, Transmit, UdpOptions, UdpRx, UdpTx};

/// A waker that counts, and a task that waits for the count.
#[derive(Default)]
pub struct Flag {
    count: AtomicUsize,
    waiting: Mutex<Option<Waker>>,
}

impl Flag {
    /// Not woken yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The waker.
    pub fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(self.clone())
    }

    /// How often it was woken.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Waits until it was woken so often.
    pub async fn woken(&self, times: usize) {
        poll_fn(|cx| {
            *lock(&self.waiting) = Some(cx.waker().clone());
            if self.count() >= times { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.count.fetch_add(1, Ordering::SeqCst);
        let waiting = lock(&self.waiting).take();
        if let Some(waker) = waiting {
            waker.wake();
        }
    }
}

/// Where [`cut`] drops a future.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// After this many polls that were pending.
    Polls(usize),
    /// Once it was woken after this many polls, but not polled again.
    Woken(usize),
}

/// Every place to cut a future that is pending up to `polls` times.
pub fn cuts(polls: usize) -> impl Iterator<Item = Cut> + Clone {
    (0..=polls).flat_map(|n| [Cut::Polls(n), Cut::Woken(n)]).filter(|cut| *cut != Cut::Woken(0))
}

/// Polls a future as `cut` says, then drops it; its output if it was ready before.
pub async fn cut<T>(cut: Cut, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let (polls, after_wake) = match cut {
        Cut::Polls(n) => (n, false),
        Cut::Woken(n) => (n, true),
    };
    let flag = Flag::new();
    for poll in 1..=polls {
        let woken = flag.count();
        if let Poll::Ready(out) = future.as_mut().poll(&mut Context::from_waker(&flag.waker())) {
            return Some(out);
        }
        if poll < polls || after_wake {
            flag.woken(woken + 1).await;
        }
    }
    None
}

/// Polls a future once; its output if it is ready.
pub fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(out) => Some(out),
        Poll::Pending => None,
    }
}

/// Lets other tasks run once.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Waits with a timer.
pub async fn sleep_until(timer: &mut dyn Timer, at: Instant) {
    poll_fn(|cx| timer.poll(cx, Some(at))).await;
}

/// Waits on the runtime's clock.
pub async fn sleep(runtime: &dyn Runtime, time: Duration) {
    sleep_until(&mut *runtime.timer(), runtime.now() + time).await;
}

/// Starts a task and gives the end at which its result comes.
pub fn spawn<T: Send + 'static>(
    runtime: &dyn Runtime,
    task: impl Future<Output = T> + Send + 'static,
) -> async_channel::Receiver<T> {
    let (done, wait) = async_channel::bounded(1);
    let task = async move { drop(done.try_send(task.await)) };
    runtime.spawn("conformance", Box::pin(task));
    wait
}

/// The same, once the task was polled for the first time.
pub async fn spawn_polled<T: Send + 'static>(
    runtime: &dyn Runtime,
    task: impl Future<Output = T> + Send + 'static,
) -> async_channel::Receiver<T> {
    let polled = Flag::new();
    let (seen, mut task) = (polled.waker(), Box::pin(task));
    let wait = spawn(
        runtime,
        poll_fn(move |cx| {
            let out = task.as_mut().poll(cx);
            seen.wake_by_ref();
            out
        }),
    );
    polled.woken(1).await;
    wait
}

/// Both halves of a socket.
pub struct Socket {
    /// Sends.
    pub tx: Arc<dyn UdpTx>,
    /// Receives.
    pub rx: Box<dyn UdpRx>,
}

/// A datagram that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it.
    pub from: SocketAddr,
    /// Its ECN bits.
    pub ecn: Ecn,
    /// Its bytes.
    pub data: Vec<u8>,
}

impl Socket {
    /// Binds.
    ///
    /// # Panics
    /// With the runtime's reason if it refuses.
    pub fn bind(runtime: &Arc<dyn Runtime>, at: SocketAddr, options: &UdpOptions) -> Self {
        let (tx, rx) = runtime.bind(at, options).unwrap_or_else(|e| panic!("cannot bind {at}: {e}"));
        Self { tx, rx }
    }

    /// Where it is bound.
    pub fn addr(&self) -> SocketAddr {
        self.tx.local_addr()
    }

    /// Sends one datagram.
    pub fn send<'a>(&self, to: SocketAddr, data: &'a [u8]) -> impl Future<Output = ()> + Send + use<'a> {
        let tx = self.tx.clone();
        async move { send(&*tx, &one(to, data)).await.expect("the datagram leaves") }
    }

    /// Receives until `count` datagrams came.
    pub async fn recv(&mut self, count: usize) -> Vec<Datagram> {
        recv(&mut *self.rx, count).await
    }
}

/// One datagram to be sent.
pub fn one(to: SocketAddr, data: &[u8]) -> Transmit<'_> {
    Transmit { to, from: None, ecn: Ecn::NotEct, data, segment: None }
}

/// Sends as the driver does: waits when it is told to.
pub async fn send(tx: &dyn UdpTx, transmit: &Transmit<'_>) -> io::Result<()> {
    loop {
        match tx.try_send(transmit) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => poll_fn(|cx| tx.poll_writable(cx)).await?,
            Err(e) if e.kind() == ErrorKind::ResourceBusy => yield_now().await,
            other => return other,
        }
    }
}

/// Receives until `count` datagrams came.
pub async fn recv(rx: &mut dyn UdpRx, count: usize) -> Vec<Datagram> {
    let mut got = Vec::new();
    while got.len() < count {
        poll_fn(|cx| poll_recv(rx, cx, &mut got)).await;
    }
    got
}

/// Polls once for datagrams and appends them to `into`. Transient errors are polled over.
pub fn poll_recv(rx: &mut dyn UdpRx, cx: &mut Context<'_>, into: &mut Vec<Datagram>) -> Poll<()> {
    loop {
        match rx.poll_recv(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => {}
            Poll::Ready(Ok(batch)) => {
                batch.for_each(|from, _, ecn, data| into.push(Datagram { from, ecn, data: data.to_vec() }));
                return Poll::Ready(());
            }
        }
    }
}
