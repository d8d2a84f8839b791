//! The driver never sleeps on input: a socket wakes it once, and that wake may be one with another.
//!
//! Everything here is by hand: tasks run when they were woken and at no other time, sockets are queues
//! in memory, timers never fire. So a wake that is lost leaves nothing to run, and the test fails.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use net_proto::entropy::Entropy;
use net_proto::storage::Storage;
use net_proto::time::{Duration, Instant, WallClock};
use net_sdk::{Mesh, Reliable, Runtime, rt};
use net_shell::runtime::{Batch, Bound, BoxFuture, Slot, Timer, Transmit, UdpCaps, UdpOptions, UdpRx, UdpTx};

/// A task, and whether it was woken since it last ran: as in every executor, two wakes are one.
struct Task {
    future: Mutex<Option<BoxFuture>>,
    woken: AtomicBool,
    ready: Arc<Mutex<VecDeque<Arc<Task>>>>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if !self.woken.swap(true, SeqCst) {
            let ready = self.ready.clone();
            ready.lock().unwrap().push_back(self);
        }
    }
}

/// Datagrams that wait at an address, and who waits for them.
#[derive(Default)]
struct Queue {
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
}

type Queues = Arc<Mutex<HashMap<SocketAddr, Queue>>>;

#[derive(Clone)]
struct ByHand {
    ready: Arc<Mutex<VecDeque<Arc<Task>>>>,
    queues: Queues,
    clock: Arc<AtomicU64>,
    entropy: Arc<Mutex<Entropy>>,
}

impl ByHand {
    fn new() -> Self {
        Self {
            ready: Arc::default(),
            queues: Queues::default(),
            clock: Arc::new(AtomicU64::new(0)),
            entropy: Arc::new(Mutex::new(Entropy::new(&[7; 32], "by hand"))),
        }
    }

    /// Runs what was woken until nothing is.
    fn run(&self) {
        loop {
            let Some(task) = self.ready.lock().unwrap().pop_front() else { return };
            task.woken.store(false, SeqCst);
            let waker = Waker::from(task.clone());
            let mut future = task.future.lock().unwrap();
            if let Some(running) = &mut *future
                && running.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
            {
                *future = None;
            }
        }
    }
}

impl Runtime for ByHand {
    fn bind(&self, at: SocketAddr, _: &UdpOptions) -> io::Result<Bound> {
        self.queues.lock().unwrap().insert(at, Queue::default());
        let socket = Socket { at, queues: self.queues.clone() };
        let memory = vec![Slot::new(2048)];
        Ok((Arc::new(socket.clone()), Box::new(Receiver { socket, memory })))
    }

    fn timer(&self) -> Box<dyn Timer> {
        Box::new(Never(self.clone()))
    }

    fn spawn(&self, _: &'static str, future: BoxFuture) {
        let ready = self.ready.clone();
        Arc::new(Task { future: Mutex::new(Some(future)), woken: AtomicBool::new(false), ready }).wake();
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }

    fn storage(&self, _: &Path) -> io::Result<Box<dyn Storage>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// It moves a little whenever somebody looks.
    fn now(&self) -> Instant {
        Instant::ZERO + Duration::from_secs(3600) + Duration::from_micros(self.clock.fetch_add(5, SeqCst))
    }

    fn wall(&self) -> WallClock {
        WallClock { unix: Duration::from_secs(1_700_000_000), max_error: Duration::ZERO }
    }

    fn entropy(&self) -> [u8; 32] {
        self.entropy.lock().unwrap().array()
    }
}

/// Ready when polled late enough; it wakes nobody.
struct Never(ByHand);

impl Timer for Never {
    fn poll(&mut self, _: &mut Context<'_>, at: Option<Instant>) -> Poll<()> {
        if at.is_some_and(|at| at <= self.0.now()) { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[derive(Clone)]
struct Socket {
    at: SocketAddr,
    queues: Queues,
}

impl UdpTx for Socket {
    fn caps(&self) -> UdpCaps {
        UdpCaps {
            segments: 1,
            gro_segments: 1,
            ecn: false,
            may_fragment: false,
            send_buffer: 1 << 20,
            recv_buffer: 1 << 20,
        }
    }

    fn local_addr(&self) -> SocketAddr {
        self.at
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut queues = self.queues.lock().unwrap();
        let Some(queue) = queues.get_mut(&transmit.to) else { return Ok(()) };
        for datagram in transmit.data.chunks(transmit.segment.unwrap_or(transmit.data.len())) {
            queue.datagrams.push_back((self.at, datagram.to_vec()));
        }
        let waker = queue.waker.take();
        drop(queues);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct Receiver {
    socket: Socket,
    memory: Vec<Slot>,
}

impl UdpRx for Receiver {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Batch<'_>>> {
        let mut queues = self.socket.queues.lock().unwrap();
        let queue = queues.get_mut(&self.socket.at).expect("it is bound");
        let Some((from, datagram)) = queue.datagrams.pop_front() else {
            queue.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        drop(queues);
        let slot = &mut self.memory[0];
        slot.buf[..datagram.len()].copy_from_slice(&datagram);
        (slot.len, slot.stride, slot.from) = (datagram.len(), datagram.len(), from);
        Poll::Ready(Ok(Batch(&mut self.memory)))
    }
}

async fn echoes(runtime: Arc<ByHand>, callers: usize, calls: usize, done: Arc<AtomicU64>) {
    let rt: Arc<dyn Runtime> = runtime;
    let node = |port| Mesh::builder().runtime(rt.clone()).bind(SocketAddr::from(([10, 0, 0, 1], port)));
    let b = node(1).start().await.unwrap();
    let a = node(2).mesh(b.secret()).start().await.unwrap();
    let peer = a.connect(b.ticket()).await.unwrap();
    let spawning = rt.clone();
    rt.spawn(
        "accept",
        Box::pin(async move {
            while let Ok(stream) = b.accept_stream().await {
                drop(rt::spawn_on(spawning.clone(), async move {
                    while let Ok(Some(message)) = stream.recv().await {
                        stream.send(&message).await.unwrap();
                    }
                }));
            }
        }),
    );
    for caller in 0..callers {
        let stream = peer.open_stream(&format!("caller {caller}"), Reliable).await.unwrap();
        let (done, a) = (done.clone(), a.clone());
        drop(rt::spawn_on(rt.clone(), async move {
            for call in 0..calls {
                let message = format!("{caller} {call}");
                stream.send(message.as_bytes()).await.unwrap();
                assert_eq!(stream.recv().await.unwrap().unwrap(), message.as_bytes());
                done.fetch_add(1, SeqCst);
            }
            drop(a);
        }));
    }
}

#[test]
fn a_wake_that_joins_the_drivers_own_is_not_lost() {
    // One caller alone, and several, whose datagrams cross.
    for callers in [1, 2, 3, 8] {
        let runtime = Arc::new(ByHand::new());
        let done = Arc::new(AtomicU64::new(0));
        let calls = 200;
        let task = echoes(runtime.clone(), callers, calls, done.clone());
        runtime.spawn("echoes", Box::pin(task));
        runtime.run();
        assert_eq!(done.load(SeqCst), (callers * calls) as u64, "{callers} callers: nothing runs any more");
    }
}
