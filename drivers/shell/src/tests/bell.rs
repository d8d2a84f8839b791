use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::thread;

use crate::bell::Inbox;

struct Unpark {
    thread: thread::Thread,
    woken: AtomicUsize,
}
impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, Ordering::Relaxed);
        self.thread.unpark();
    }
}

#[test]
fn ring_wakes_only_a_sleeper() {
    let unpark = Arc::new(Unpark { thread: thread::current(), woken: AtomicUsize::new(0) });
    let waker = Waker::from(unpark.clone());
    let inbox = Inbox::<()>::new(1);
    inbox.port(1);
    assert_eq!(unpark.woken.load(Ordering::Relaxed), 0);
    assert!(!inbox.sleep(&waker), "work waits: no sleep");
    let mut ports = Vec::new();
    inbox.take_ports(&mut ports);
    assert_eq!(ports, [1]);
    assert!(inbox.sleep(&waker));
    inbox.port(2);
    inbox.port(3);
    assert_eq!(unpark.woken.load(Ordering::Relaxed), 1, "once for two rings");
}

#[test]
fn no_wake_is_lost_between_threads() {
    const THREADS: u32 = 3;
    const EACH: u32 = 20_000;
    let inbox = Arc::new(Inbox::<()>::new(1));
    let unpark = Arc::new(Unpark { thread: thread::current(), woken: AtomicUsize::new(0) });
    let waker = Waker::from(unpark.clone());
    let ringers: Vec<_> = (0..THREADS)
        .map(|id| {
            let inbox = inbox.clone();
            thread::spawn(move || (0..EACH).for_each(|_| inbox.port(id)))
        })
        .collect();
    let (mut got, mut ports) = (0, Vec::new());
    while got < THREADS * EACH {
        inbox.take_ports(&mut ports);
        got += ports.len() as u32;
        ports.clear();
        if got < THREADS * EACH && inbox.sleep(&waker) {
            // A lost wake would leave us here: the time limit turns that into a failure.
            let start = std::time::Instant::now();
            let before = unpark.woken.load(Ordering::Relaxed);
            thread::park_timeout(std::time::Duration::from_secs(20));
            assert!(start.elapsed().as_secs() < 20 || unpark.woken.load(Ordering::Relaxed) > before);
            inbox.wake_up();
        }
    }
    ringers.into_iter().for_each(|r| r.join().unwrap());
}
