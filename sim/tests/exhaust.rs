//! Every order of events for two nodes, within small limits. `world exhaust` has larger ones.

use net_sim::exhaust::{ALL, Limits, named, search};

/// One scenario; the counts are told, so that a change of them is seen.
fn every_state_holds(name: &str, limits: Limits) {
    let report = search(named(name).expect("a scenario"), limits).unwrap_or_else(|found| panic!("{found}"));
    println!("{name}: {report:?}");
    assert!(report.complete, "cut off: {report:?}");
    // A search that sees nothing shows nothing.
    assert!(report.states > 100 && report.ends > 20, "{report:?}");
}

const LOSS: Limits =
    Limits { losses: 1, duplicates: 0, reorders: 0, crashes: 0, timers: 1, states: 1_000_000 };

#[test]
fn handshake() {
    every_state_holds("handshake", Limits { losses: 2, duplicates: 1, ..LOSS });
}

#[test]
fn handshake_out_of_order() {
    every_state_holds("handshake", Limits { reorders: 1, ..LOSS });
}

/// One end renews its keys early and goes on doing so: this once had no end.
#[test]
fn rekey() {
    every_state_holds("rekey", LOSS);
}

#[test]
fn handshake_with_a_crash() {
    every_state_holds("handshake", Limits { crashes: 1, timers: 0, ..LOSS });
}

#[test]
fn crossing() {
    every_state_holds("crossing", Limits { timers: 0, ..LOSS });
}

#[test]
fn renewal_with_two_losses_a_copy_and_a_crash() {
    every_state_holds("renewal", Limits { losses: 2, duplicates: 1, crashes: 1, timers: 0, ..LOSS });
}

#[test]
fn resume() {
    every_state_holds("resume", LOSS);
}

#[test]
fn two_searches_see_the_same() {
    let limits = Limits { timers: 0, ..LOSS };
    for scenario in ALL {
        assert_eq!(
            search(*scenario, limits).unwrap(),
            search(*scenario, limits).unwrap(),
            "{}",
            scenario.name
        );
    }
}
