//! Time, tasks and randomness without naming a runtime: code that takes them from here runs on
//! every runtime and in the simulator.
//!
//! Inside tasks that [`spawn`] started or under [`enter`], the functions use that runtime; else a
//! running tokio, if the feature is on; else smol, if that feature is on. Elsewhere get the runtime
//! from [`crate::Mesh::rt`].

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use net_proto::time::{Duration, Instant};
use net_shell::runtime::Runtime;

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn Runtime>>> = const { RefCell::new(None) };
}

/// The runtime that this code runs under, if one is known.
pub fn current() -> Option<Arc<dyn Runtime>> {
    CURRENT.with_borrow(Clone::clone).or_else(detect)
}

fn detect() -> Option<Arc<dyn Runtime>> {
    #[cfg(feature = "tokio")]
    if let Ok(tokio) = net_tokio::Tokio::current() {
        return Some(Arc::new(tokio));
    }
    // Smol needs no entering: its executor is global.
    #[cfg(feature = "smol")]
    return Some(Arc::new(net_smol::Smol::new()));
    #[cfg(not(feature = "smol"))]
    None
}

fn need() -> Arc<dyn Runtime> {
    match current() {
        Some(runtime) => runtime,
        None => panic!(
            "no runtime: call net_sdk::rt inside a runtime, in a task from net_sdk::rt::spawn, or under \
             net_sdk::rt::enter"
        ),
    }
}

/// The limit of a [`timeout`] passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the time limit passed")]
pub struct Elapsed;

/// The task or the work panicked, or its runtime is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task panicked, or its runtime is gone")]
pub struct Gone;

/// A task started by [`spawn`], or work by [`blocking`]; a future of its result. Dropping it does not stop the task.
#[derive(Debug)]
pub struct Task<T> {
    shared: Arc<Mutex<Slot<T>>>,
}

#[derive(Debug)]
struct Slot<T> {
    result: Option<Result<T, Gone>>,
    waker: Option<Waker>,
}

/// Fills the slot, at the latest when the task is dropped.
struct Finish<T>(Arc<Mutex<Slot<T>>>);

impl<T> Finish<T> {
    fn set(&self, result: Result<T, Gone>) {
        let waker = {
            let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            slot.result.get_or_insert(result);
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Drop for Finish<T> {
    fn drop(&mut self) {
        self.set(Err(Gone));
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, Gone>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Starts a task.
///
/// # Panics
/// If no runtime is known here.
pub fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> Task<T> {
    spawn_on(need(), task)
}

/// Starts a task on `runtime`.
pub fn spawn_on<T: Send + 'static>(
    runtime: Arc<dyn Runtime>,
    task: impl Future<Output = T> + Send + 'static,
) -> Task<T> {
    let shared = Arc::new(Mutex::new(Slot { result: None, waker: None }));
    let finish = Finish(shared.clone());
    let task = enter(runtime.clone(), async move { finish.set(Ok(task.await)) });
    runtime.spawn("net task", Box::pin(task));
    Task { shared }
}

/// Runs work that blocks its thread (files, names, long sums) where that holds nobody up. Dropping the task
/// does not stop the work.
///
/// ```
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let text = net_sdk::rt::blocking(|| std::fs::read_to_string("notes.txt")).await??;
/// # drop(text); Ok(()) }
/// ```
///
/// The result is [`Gone`] if the work panicked, or the runtime ended before it began. In the simulator the
/// work runs between two tasks.
///
/// # Panics
/// If no runtime is known here.
pub fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Task<T> {
    let shared = Arc::new(Mutex::new(Slot { result: None, waker: None }));
    let finish = Finish(shared.clone());
    need().blocking(Box::new(move || finish.set(Ok(work()))));
    Task { shared }
}

/// Waits. Dropping the future has no effect.
///
/// # Panics
/// If no runtime is known here.
pub async fn sleep(duration: Duration) {
    let runtime = need();
    sleep_until(&*runtime, runtime.now() + duration).await;
}

pub(crate) async fn sleep_until(runtime: &dyn Runtime, at: Instant) {
    let mut timer = runtime.timer();
    poll_fn(|cx| timer.poll(cx, Some(at))).await;
}

/// Runs a future for at most `limit`, then drops it.
///
/// # Panics
/// If no runtime is known here.
pub async fn timeout<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    let runtime = need();
    let mut future = pin!(future);
    let mut timer = runtime.timer();
    let at = runtime.now() + limit;
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Ok(value)),
        Poll::Pending => timer.poll(cx, Some(at)).map(|()| Err(Elapsed)),
    })
    .await
}

/// The runtime's monotonic clock.
///
/// # Panics
/// If no runtime is known here.
pub fn now() -> Instant {
    need().now()
}

/// 32 fresh random bytes: a seed for whatever generator is needed.
///
/// # Panics
/// If no runtime is known here.
pub fn rng() -> [u8; 32] {
    need().entropy()
}

/// Runs a future with `runtime` as the one that the functions here use.
pub async fn enter<T>(runtime: Arc<dyn Runtime>, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    poll_fn(move |cx| {
        // Set for the time of one poll: tasks take turns on a thread.
        let _restore = Restore(CURRENT.replace(Some(runtime.clone())));
        future.as_mut().poll(cx)
    })
    .await
}

struct Restore(Option<Arc<dyn Runtime>>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}
