//! A lock for critical sections of some ten nanoseconds that are entered millions of times a second.
//!
//! Unlocking a [`std::sync::Mutex`] is an atomic exchange, since somebody may sleep on it. A processor does that
//! only once its earlier stores have reached the cache; when a reader on another core holds a line among them,
//! this wait is longer than the rest of the section. Unlocking this lock is a plain store, and the wait passes
//! beside whatever comes next. In return nobody can sleep on it: who meets somebody there looks again. So it is
//! for sections that never block.

use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use crate::sync::{AtomicBool, Ordering, sleep, spin_loop, yield_now};

/// Looks before the first one that is not in a row: then this core is left to others, of which one may be
/// the holder.
const IN_A_ROW: u32 = 64;
/// Looks before the first sleep: a yield leaves the core to nobody of a lower priority.
const AWAKE: u32 = 128;
const SLEEP: Duration = Duration::from_micros(50);

/// A value that one thread at a time may use. A holder that panics lets go of it.
pub struct ShortLock<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: a shared reference reaches the value only through a `Held`, of which there is at most one, as
// `held` says. So the value goes from thread to thread, which `T: Send` allows, and is never used by two. Who takes
// the lock sees what the last holder did: the exchange acquires what the store of its drop released.
#[allow(unsafe_code)]
unsafe impl<T: Send> Sync for ShortLock<T> {}

/// The right to use the value, until this is dropped.
#[must_use]
pub struct Held<'a, T> {
    lock: &'a ShortLock<T>,
    /// Neither `Sync`, since a shared `Held` would share a value that may not be shared, nor `Send`, so that no task
    /// that moves between threads holds it over an `await`.
    stays: PhantomData<*mut T>,
}

impl<T> ShortLock<T> {
    /// Nobody holds it.
    pub fn new(value: T) -> Self {
        Self { held: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// The value, unless somebody has it just now.
    #[inline]
    pub fn try_lock(&self) -> Option<Held<'_, T>> {
        // The load keeps the line where it is while somebody has the value.
        if self.held.load(Ordering::Relaxed) || self.held.swap(true, Ordering::Acquire) {
            return None;
        }
        Some(Held { lock: self, stays: PhantomData })
    }

    /// The value, as soon as nobody else has it.
    #[inline]
    pub fn lock(&self) -> Held<'_, T> {
        match self.try_lock() {
            Some(held) => held,
            None => self.wait(),
        }
    }

    #[cold]
    fn wait(&self) -> Held<'_, T> {
        let mut looks = 0;
        loop {
            match looks {
                0..IN_A_ROW => spin_loop(),
                IN_A_ROW..AWAKE => yield_now(),
                _ => sleep(SLEEP),
            }
            if let Some(held) = self.try_lock() {
                return held;
            }
            looks = (looks + 1).min(AWAKE);
        }
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    #[inline]
    #[allow(unsafe_code)]
    fn deref(&self) -> &T {
        // SAFETY: this is the one `Held`, and borrowed for as long as the reference lives.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Held<'_, T> {
    #[inline]
    #[allow(unsafe_code)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this is the one `Held`, and borrowed by nobody else for as long as the reference lives.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Held<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.held.store(false, Ordering::Release);
    }
}

impl<T: fmt::Debug> fmt::Debug for ShortLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Some(held) => f.debug_tuple("ShortLock").field(&*held).finish(),
            None => f.write_str("ShortLock(held)"),
        }
    }
}
