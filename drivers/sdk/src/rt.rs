//! Time, tasks and randomness without naming a runtime: code that takes them from here runs on
//! every runtime and in the simulator.
//!
//! Inside tasks that [`spawn`] started, and on threads where a runtime that the SDK knows is
//! entered, the functions find the runtime themselves. Elsewhere use [`crate::Mesh::rt`] and
//! [`enter`].

use std::future::Future;
use std::sync::Arc;

use net_proto::time::{Duration, Instant};
use net_shell::runtime::Runtime;

/// The limit of a [`timeout`] passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the time limit passed")]
pub struct Elapsed;

/// A task started by [`spawn`]; a future of its result. Dropping it does not stop the task.
pub struct Task<T>(std::marker::PhantomData<T>);

/// Starts a task.
pub fn spawn<T: Send + 'static>(_f: impl Future<Output = T> + Send + 'static) -> Task<T> {
    todo!()
}
/// Waits.
pub async fn sleep(_d: Duration) {
    todo!()
}
/// Runs a future for at most `d`.
pub async fn timeout<T>(_d: Duration, _f: impl Future<Output = T>) -> Result<T, Elapsed> {
    todo!()
}
/// The runtime's clock.
pub fn now() -> Instant {
    todo!()
}
/// 32 fresh random bytes.
pub fn rng() -> [u8; 32] {
    todo!()
}
/// Runs a future with `runtime` as the ambient one.
pub async fn enter<T>(_runtime: Arc<dyn Runtime>, _f: impl Future<Output = T>) -> T {
    todo!()
}
