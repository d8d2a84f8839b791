//! The lock of a shard, by threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use crate::short_lock::ShortLock;

#[test]
fn who_looks_while_somebody_has_it_is_told_and_takes_nothing_from_him() {
    let lock = ShortLock::new(1);
    let held = lock.lock();
    assert!(lock.try_lock().is_none());
    assert!(lock.try_lock().is_none(), "the first look let nobody in");
    assert_eq!(format!("{lock:?}"), "ShortLock(held)");
    drop(held);
    assert_eq!(format!("{lock:?}"), "ShortLock(1)");
    assert_eq!(lock.try_lock().map(|held| *held), Some(1));
}

#[test]
fn a_holder_that_panics_lets_go() {
    let lock = ShortLock::new(1);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        *lock.lock() = 2;
        let _held = lock.lock();
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert_eq!(*lock.lock(), 2);
}

/// A holder that sleeps is waited for past pauses and yields, by real threads on real caches.
#[test]
fn nothing_is_lost_between_threads() {
    const EACH: u64 = 20_000;
    let lock = ShortLock::new((0u64, 0u64));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..EACH {
                    let mut held = lock.lock();
                    assert_eq!(held.0, held.1);
                    held.0 += 1;
                    if n % 5_000 == 0 {
                        thread::sleep(Duration::from_millis(1));
                    }
                    held.1 += 1;
                }
            });
        }
    });
    assert_eq!(*lock.lock(), (4 * EACH, 4 * EACH));
}
