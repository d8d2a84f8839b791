//! A relay that loses, holds back, delays and doubles datagrams.

use std::sync::atomic::Ordering::SeqCst;

use net_tests::lab::pair::Pair;
use net_tests::lab::relay::{Relay, Treatment};

use crate::node;

fn treated(treatment: Treatment, more: u64, runtime: &str) {
    let (a, b) = (node(1, runtime), node(2, runtime));
    let relay = Relay::start(b.addr, treatment);
    let mut pair = Pair::pour(a, b, relay.addr);
    pair.progress(more);
    pair.end();
    let done = &relay.done;
    for (asked, happened) in [
        (treatment.loss + treatment.burst, &done.lost),
        (treatment.duplicate, &done.doubled),
        (treatment.reorder, &done.held),
    ] {
        assert!(asked == 0 || happened.load(SeqCst) > 0, "the fault did not happen: {treatment:?}");
    }
}

#[test]
fn loss() {
    treated(Treatment { loss: 50, ..Treatment::default() }, 2000, "");
}

#[test]
fn loss_on_smol() {
    treated(Treatment { loss: 50, ..Treatment::default() }, 2000, "runtime=smol");
}

#[test]
fn bursts() {
    treated(Treatment { burst: 5, burst_len: 20, ..Treatment::default() }, 2000, "");
}

#[test]
fn reordering_and_duplication() {
    let treatment = Treatment { reorder: 100, hold: 20, duplicate: 100, ..Treatment::default() };
    treated(treatment, 3000, "");
}

#[test]
fn a_delay_of_200_ms() {
    treated(Treatment { delay: 200, ..Treatment::default() }, 1000, "");
}
