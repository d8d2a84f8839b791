//! The process at the far end: it counts, and gives echoes back.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Far, Result, Stack};

/// Silence after which nothing more is expected of datagrams.
const QUIET: Duration = Duration::from_millis(500);
/// How often it is looked whether a stream ended.
const LOOK: Duration = Duration::from_millis(5);
/// Messages between two looks at the clock: one look costs about as much as a small message.
pub const CLOCK_EVERY: u64 = 32;

/// What arrived.
pub struct Count {
    since: Instant,
    messages: AtomicU64,
    /// Nanoseconds from `since` on.
    first: AtomicU64,
    last: AtomicU64,
    over: AtomicBool,
}

impl Count {
    pub fn add(&self, messages: u64) {
        let now = self.since.elapsed().as_nanos() as u64;
        self.messages.fetch_add(messages, Relaxed);
        self.first.fetch_min(now, Relaxed);
        self.last.fetch_max(now, Relaxed);
    }

    /// Nothing more comes.
    pub fn end(&self) {
        self.over.store(true, Relaxed);
    }

    fn told(&self) -> Value {
        let seconds = self.last.load(Relaxed).saturating_sub(self.first.load(Relaxed)) as f64 / 1e9;
        json!({"messages": self.messages.load(Relaxed), "seconds": seconds})
    }
}

/// Serves until the standard input ends; for each line there it says what it counted.
pub fn run(args: &Far) -> Result<()> {
    let count = Arc::new(Count {
        since: Instant::now(),
        messages: AtomicU64::new(0),
        first: AtomicU64::new(u64::MAX),
        last: AtomicU64::new(0),
        over: AtomicBool::new(false),
    });
    // One worker per core; the thread that waits here is none of them.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (stack, bind, counting) = (args.stack, args.bind, count.clone());
    let hello = runtime.block_on(async move {
        tokio::spawn(async move {
            match stack {
                Stack::Bare => crate::bare::serve(bind),
                #[cfg(feature = "quinn")]
                Stack::Quinn => crate::quic::serve(bind, counting).await,
                #[cfg(feature = "tonic")]
                Stack::Tonic => crate::grpc::serve(bind, counting).await,
                #[cfg(feature = "zenoh")]
                Stack::Zenoh => crate::zenoh::serve(bind, counting).await,
            }
        })
        .await
    })??;
    say(&hello)?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let mut quiet = Duration::ZERO;
        let mut before = count.messages.load(Relaxed);
        while !count.over.load(Relaxed) && quiet < QUIET {
            std::thread::sleep(LOOK);
            let now = count.messages.load(Relaxed);
            quiet = if now == before { quiet + LOOK } else { Duration::ZERO };
            before = now;
        }
        say(&count.told())?;
    }
    runtime.shutdown_background();
    Ok(())
}

fn say(value: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()?;
    Ok(())
}
