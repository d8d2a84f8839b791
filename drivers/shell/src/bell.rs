//! How application threads tell the driver that there is work, without waking it needlessly.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// Locks, and takes the value of a lock whose holder panicked: every critical section here leaves
/// its value whole at each step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes a sleeper, and only a sleeper.
///
/// The sleeper says [`Bell::doze`], looks once more for work, and only then sleeps. A ringer makes
/// its work visible *under a lock that the sleeper's last look takes too*, then rings. So either the
/// last look sees the work, or the ringer sees the sleeper.
#[derive(Debug, Default)]
pub struct Bell {
    asleep: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Bell {
    /// Wakes the sleeper if there is one. Costs one load otherwise.
    pub fn ring(&self) {
        if self.asleep.load(Ordering::Acquire) && self.asleep.swap(false, Ordering::AcqRel) {
            let waker = lock(&self.waker).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// From now on a ring wakes `waker`. The caller looks for work once more before it sleeps.
    pub fn doze(&self, waker: &Waker) {
        {
            let mut held = lock(&self.waker);
            match &mut *held {
                Some(old) => old.clone_from(waker),
                None => *held = Some(waker.clone()),
            }
        }
        self.asleep.store(true, Ordering::Release);
    }

    /// The sleeper is up: rings cost nothing again.
    pub fn wake_up(&self) {
        self.asleep.store(false, Ordering::Release);
    }
}

/// What waits for the driver: ports with something to collect, and control calls of type `C`.
#[derive(Debug)]
pub struct Inbox<C> {
    bell: Bell,
    ports: Mutex<Vec<u32>>,
    /// `None` once the driver is gone.
    control: Mutex<Option<VecDeque<C>>>,
    /// Charge that applications drained and the node was not told of yet, over all streams.
    unreported: AtomicU64,
    /// The sum of unreported charges that is worth waking the driver for.
    worth: u64,
}

impl<C> Inbox<C> {
    /// An empty inbox; `worth` is the unreported charge that wakes the driver.
    pub fn new(worth: u64) -> Self {
        Self {
            bell: Bell::default(),
            ports: Mutex::default(),
            control: Mutex::new(Some(VecDeque::new())),
            unreported: AtomicU64::new(0),
            worth,
        }
    }

    /// Port `key` has something to collect.
    pub fn port(&self, key: u32) {
        lock(&self.ports).push(key);
        self.bell.ring();
    }

    /// Port `key` has something that can wait for the next turn.
    pub fn port_later(&self, key: u32) {
        lock(&self.ports).push(key);
    }

    /// What was left for the next turn should come soon.
    pub fn nudge(&self) {
        self.bell.ring();
    }

    /// A control call. One per waiting caller or dropped handle, so it is bounded by them.
    /// Once the driver is gone it is dropped, and with it the caller's way to an answer.
    pub fn control(&self, call: C) {
        if let Some(calls) = &mut *lock(&self.control) {
            calls.push_back(call);
        }
        self.bell.ring();
    }

    /// The driver is gone: drops what waits and whatever comes.
    pub fn close(&self) {
        let dropped = lock(&self.control).take();
        drop(dropped);
        lock(&self.ports).clear();
    }

    /// `charge` more was drained. True if that is worth waking the driver.
    pub(crate) fn drained(&self, charge: u64) -> bool {
        self.unreported.fetch_add(charge, Ordering::Relaxed) + charge >= self.worth
    }

    pub(crate) fn reported(&self, charge: u64) {
        self.unreported.fetch_sub(charge, Ordering::Relaxed);
    }

    /// Moves the keys of ports to `into`, which is empty; the memory is swapped, not copied.
    pub fn take_ports(&self, into: &mut Vec<u32>) {
        std::mem::swap(&mut *lock(&self.ports), into);
    }

    /// The next control call.
    pub fn take_control(&self) -> Option<C> {
        lock(&self.control).as_mut()?.pop_front()
    }

    /// Goes to sleep unless something waits. True: asleep, the next ring wakes `waker`.
    pub fn sleep(&self, waker: &Waker) -> bool {
        self.bell.doze(waker);
        if lock(&self.ports).is_empty() && lock(&self.control).as_ref().is_none_or(VecDeque::is_empty) {
            return true;
        }
        self.bell.wake_up();
        false
    }

    /// The driver runs again.
    pub fn wake_up(&self) {
        self.bell.wake_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;
    use std::thread;

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
}
