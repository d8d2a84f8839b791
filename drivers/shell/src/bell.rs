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
    /// Charge in ports that the driver did not look at yet, over all streams; and how much that may be.
    ahead: AtomicU64,
    furthest: u64,
    /// What `ahead` was when the driver last ran, or a caller last let it.
    mark: AtomicU64,
    /// Who waits until that is less.
    held: Mutex<Vec<Waker>>,
    /// Whether somebody does.
    holds: AtomicBool,
}

/// Charge that applications may queue before they let the driver run.
const TURN: u64 = 1 << 20;
/// Charge that applications may queue, over all streams, before the driver looked at it. Each stream has a
/// bound of its own; this one keeps a thousand busy streams from filling a gigabyte. Where many streams are
/// busy, less of it means smaller batches: with a quarter, 1,000 sessions are a fifth slower.
const AHEAD: u64 = 64 << 20;

impl<C> Inbox<C> {
    /// An empty inbox; `worth` is the unreported charge that wakes the driver.
    pub fn new(worth: u64) -> Self {
        Self::with_furthest(worth, AHEAD)
    }

    /// As [`Inbox::new`], with another bound than [`AHEAD`].
    pub(crate) fn with_furthest(worth: u64, furthest: u64) -> Self {
        Self {
            bell: Bell::default(),
            ports: Mutex::default(),
            control: Mutex::new(Some(VecDeque::new())),
            unreported: AtomicU64::new(0),
            worth,
            ahead: AtomicU64::new(0),
            furthest,
            mark: AtomicU64::new(0),
            held: Mutex::default(),
            holds: AtomicBool::new(false),
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
        self.release();
    }

    /// `charge` more was drained. True if that is worth waking the driver.
    pub(crate) fn drained(&self, charge: u64) -> bool {
        self.unreported.fetch_add(charge, Ordering::Relaxed) + charge >= self.worth
    }

    pub(crate) fn reported(&self, charge: u64) {
        self.unreported.fetch_sub(charge, Ordering::Relaxed);
    }

    /// `charge` more is in ports that the driver has to look at.
    pub(crate) fn queued(&self, charge: u64) {
        self.ahead.fetch_add(charge, Ordering::SeqCst);
    }

    /// Driver: `charge` of it was collected, or is known to have to wait.
    pub(crate) fn seen(&self, charge: u64) {
        let before = self.ahead.fetch_sub(charge, Ordering::SeqCst);
        if before.saturating_sub(charge) <= self.furthest / 2 && self.holds.load(Ordering::SeqCst) {
            self.release();
        }
    }

    fn release(&self) {
        self.holds.store(false, Ordering::SeqCst);
        let wakers = std::mem::take(&mut *lock(&self.held));
        wakers.into_iter().for_each(Waker::wake);
    }

    /// True if so much was queued since the driver ran that the caller should let others run, once.
    ///
    /// An executor may keep the task that was woken last for the thread that woke it (tokio does). A
    /// caller that never waits would then keep the driver from running for as long as there is credit,
    /// while other threads idle.
    pub(crate) fn turn_is_over(&self) -> bool {
        let ahead = self.ahead.load(Ordering::Relaxed);
        let over = ahead.saturating_sub(self.mark.load(Ordering::Relaxed)) >= TURN;
        if over {
            self.mark.store(ahead, Ordering::Relaxed);
        }
        over
    }

    /// False if applications ran so far ahead of the driver that the caller has to wait; `waker` is then
    /// woken when the driver caught up. Many streams, each within its own bound, would otherwise fill far
    /// more memory than is near the processor.
    pub(crate) fn may_queue(&self, waker: &Waker) -> bool {
        if self.ahead.load(Ordering::Relaxed) < self.furthest {
            return true;
        }
        {
            let mut held = lock(&self.held);
            if !held.iter().any(|known| known.will_wake(waker)) {
                held.push(waker.clone());
            }
        }
        self.holds.store(true, Ordering::SeqCst);
        // The driver may have caught up, or gone, before it could see that somebody waits.
        self.ahead.load(Ordering::SeqCst) < self.furthest || lock(&self.control).is_none()
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
        self.mark.store(self.ahead.load(Ordering::Relaxed), Ordering::Relaxed);
        self.bell.wake_up();
    }
}
