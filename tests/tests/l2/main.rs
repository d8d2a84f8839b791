//! L2: the real tokio driver and whole applications on simulated machines, in turmoil
//! (`docs/SIMULATION.md`). `scenarios.rs` is where a new protocol adds what must hold end to end.

mod determinism;
mod scenarios;
mod user_app;

use std::time::Duration;

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
