//! How application threads tell the driver that there is work, without waking it needlessly.

use std::collections::VecDeque;
use std::task::Waker;

use crate::sync::{AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering, PoisonError};

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
    /// Charge that applications queued since the driver last ran, over all streams.
    ahead: AtomicU64,
}

/// Charge that applications may queue before they let the driver run.
const AHEAD: u64 = 1 << 20;

impl<C> Inbox<C> {
    /// An empty inbox; `worth` is the unreported charge that wakes the driver.
    pub fn new(worth: u64) -> Self {
        Self {
            bell: Bell::default(),
            ports: Mutex::default(),
            control: Mutex::new(Some(VecDeque::new())),
            unreported: AtomicU64::new(0),
            worth,
            ahead: AtomicU64::new(0),
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

    /// `charge` more was queued.
    pub(crate) fn queued(&self, charge: u64) {
        self.ahead.fetch_add(charge, Ordering::Relaxed);
    }

    /// True if applications ran so far ahead of the driver that the caller should let others run, once.
    ///
    /// An executor may keep the task that was woken last for the thread that woke it (tokio does). A
    /// caller that never waits would then keep the driver from running for as long as there is credit,
    /// while other threads idle.
    pub(crate) fn runs_ahead(&self) -> bool {
        let far = self.ahead.load(Ordering::Relaxed) >= AHEAD;
        if far {
            self.ahead.store(0, Ordering::Relaxed);
        }
        far
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
        self.ahead.store(0, Ordering::Relaxed);
        self.bell.wake_up();
    }
}
