//! The exhaustive search finds planted bugs: `cargo test -p net-sim --features planted --test exhaust_planted`.
#![cfg(feature = "planted")]

use net_proto::planted::{Bug, choose};
use net_sim::exhaust::{Limits, named, search};

/// Which bug is planted is a setting of the process, so one test tries all.
#[test]
fn planted_bugs_are_found() {
    let limits = Limits { losses: 1, duplicates: 0, crashes: 0, timers: 1, ..Limits::default() };
    let scenario = named("handshake").expect("a scenario");
    let sound = || search(scenario, limits).unwrap_or_else(|found| panic!("without a bug: {found}"));
    let before = sound();
    for (bug, words, longest) in [
        (Bug::DataForgotten, "once faults ended", 7),
        (Bug::EarlyFlush, "counts as delivered", 6),
        (Bug::AckTimerStays, "spins", 2),
    ] {
        choose(bug);
        let found = search(scenario, limits).expect_err(&format!("{bug:?} is not found"));
        choose(Bug::None);
        println!("{bug:?} after {} states: {found}", found.report.states);
        assert!(found.what.contains(words), "{bug:?}: {found}");
        // Breadth first: the way is a shortest one, and ends with what broke.
        assert!(found.way.len() <= longest, "{bug:?}: {found}");
    }
    assert_eq!(sound(), before);
}
