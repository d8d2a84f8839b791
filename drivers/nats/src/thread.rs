//! A thread with a tokio runtime, and calls into it from anywhere.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use net_shell::bus::adapter::AdapterError;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The thread. It ends when this is dropped, and drops what runs on it.
#[derive(Debug)]
pub struct Worker {
    handle: Handle,
    _alive: oneshot::Sender<()>,
}

impl Worker {
    /// Starts the thread.
    pub fn start() -> Result<Self, AdapterError> {
        let failed =
            |error: std::io::Error| AdapterError::Config(format!("no thread for the client: {error}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel();
        let body = move || {
            runtime.block_on(async { _ = ended.await });
            runtime.shutdown_background();
        };
        std::thread::Builder::new().name("net-nats".into()).spawn(body).map_err(failed)?;
        Ok(Self { handle, _alive: alive })
    }

    /// Where tasks are started.
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }
}

/// Runs a future on the thread. Dropping the call drops the future.
pub struct Call<T>(JoinHandle<T>);

impl<T: Send + 'static> Call<T> {
    /// Starts it.
    pub fn new(on: &Handle, future: impl Future<Output = T> + Send + 'static) -> Self {
        Self(on.spawn(future))
    }
}

impl<T> Future for Call<T> {
    type Output = Result<T, AdapterError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // The thread is gone, or took the panic of the future with it.
        Pin::new(&mut self.0).poll(cx).map_err(|_| AdapterError::Shutdown)
    }
}

impl<T> Drop for Call<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
