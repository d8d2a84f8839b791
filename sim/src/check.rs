//! Running a test over many seeds, and saying how to repeat the one that failed.
//!
//! `NET_SIM_SEED` runs one seed; `NET_SIM_RUNS` says how many otherwise.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::world::{Failure, World, WorldConfig};

/// One run of a test.
#[derive(Clone, Copy, Debug)]
pub struct Sim {
    seed: u64,
}

impl Sim {
    /// A run of a given seed, outside [`check`].
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The seed of this run.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// The usual configuration of a world of this seed.
    pub fn config(&self) -> WorldConfig {
        WorldConfig::new(self.seed)
    }

    /// An empty world of this seed.
    pub fn world(&self) -> World {
        World::new(self.config())
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    match parsed {
        Ok(n) => Some(n),
        Err(error) => panic!("{name}={text} is not a number: {error}"),
    }
}

/// How many seeds a test runs: `NET_SIM_RUNS`, or `default`.
pub fn runs(default: u64) -> u64 {
    variable("NET_SIM_RUNS").unwrap_or(default)
}

/// Runs `test` once per seed, `default_runs` seeds unless the environment says otherwise. A failure
/// or a panic prints one line that repeats it, and fails the test.
///
/// # Panics
///
/// If a run fails.
pub fn check(name: &str, default_runs: u64, test: impl Fn(Sim) -> Result<(), Failure>) {
    let seeds = match variable("NET_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..runs(default_runs),
    };
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| test(Sim::new(seed)))) {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => {
                eprintln!("{}", replay_line(name, seed));
                panic!("{name}, seed {seed}: {failure}");
            }
            Err(panic) => {
                eprintln!("{}", replay_line(name, seed));
                resume_unwind(panic);
            }
        }
    }
}

/// The command that repeats a run.
fn replay_line(name: &str, seed: u64) -> String {
    let package = std::env::var("CARGO_PKG_NAME").unwrap_or_else(|_| "net-sim".into());
    let release = if cfg!(debug_assertions) { "" } else { " --release" };
    format!("repeat with: NET_SIM_SEED={seed} cargo test{release} -p {package} {name}")
}

/// Turns a broken expectation of a test into a failure of the run.
pub fn ensure(world: &World, holds: bool, what: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure { at: world.now(), node: None, what: what() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_seed_is_named() {
        let result = catch_unwind(|| {
            check("planted", 5, |s| ensure(&s.world(), s.seed() != 3, || "three is bad".into()));
        });
        let text = *result.unwrap_err().downcast::<String>().unwrap();
        assert!(text.contains("seed 3") && text.contains("three is bad"), "{text}");
        assert!(replay_line("planted", 3).contains("NET_SIM_SEED=3"));
    }
}
