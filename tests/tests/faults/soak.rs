//! A slice of the long run: `cargo run --release -p net-tests --bin soak`.

use std::time::Duration;

use net_tests::lab::child::Child;
use net_tests::lab::soak::{Plan, run, slope};

/// By counts: a busy machine takes longer, and does the same work.
const PLAN: Plan = Plan { laps: 24, time: Duration::ZERO, rounds: 25, pause_ms: 0, rekey_s: 2 };
/// Bytes a lap, of 200 streams at each node: one that leaves 64 bytes behind costs 12,800.
const MOST: f64 = 8192.0;

#[test]
fn memory_does_not_grow_lap_by_lap() {
    let program = env!("CARGO_BIN_EXE_lab-node");
    let samples = run(PLAN, |line| Child::start(program, &[], line), |_| {});
    for node in [0, 1] {
        let rise = slope(&samples, |s| s.lap as f64, |s| s.live[node] as f64);
        println!("node {}: {rise:+.0} bytes a lap", node + 1);
        assert!(rise < MOST, "node {}: {rise:+.0} bytes a lap: {samples:#?}", node + 1);
    }
}
