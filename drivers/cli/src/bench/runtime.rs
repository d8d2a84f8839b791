//! The runtime that a benchmark runs on.

use std::future::Future;
use std::sync::{Arc, mpsc};

use net_sdk::{Runtime, rt};

use crate::args::RuntimeName;
use crate::failure::{Failure, Result};

/// Starts the runtime, runs a task on it, and waits for its end. The waiting thread is no worker.
pub fn run<T: Send + 'static, F>(
    name: RuntimeName,
    task: impl FnOnce(Arc<dyn Runtime>) -> F + Send + 'static,
) -> Result<T>
where
    F: Future<Output = Result<T>> + Send + 'static,
{
    let bug = || Failure::failed("this is a bug: the benchmark's task panicked");
    let (tell, told) = mpsc::channel();
    let start = move |runtime: Arc<dyn Runtime>| {
        rt::spawn_on(runtime.clone(), async move { _ = tell.send(task(runtime).await) });
    };
    match name {
        RuntimeName::Tokio => {
            let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            start(Arc::new(net_sdk::Tokio::new(tokio.handle().clone())));
            let ended = told.recv().map_err(|_| bug())?;
            tokio.shutdown_background();
            ended
        }
        #[cfg(feature = "smol")]
        RuntimeName::Smol => {
            start(Arc::new(net_sdk::Smol::new()));
            told.recv().map_err(|_| bug())?
        }
    }
}

/// Threads that run tasks.
pub fn threads(name: RuntimeName) -> usize {
    match name {
        RuntimeName::Tokio => super::system::cores(),
        #[cfg(feature = "smol")]
        RuntimeName::Smol => {
            std::env::var("SMOL_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(1).max(1)
        }
    }
}
