//! Faults on real sockets; `docs/FAULTS.md` lists the cases.

mod namespaces;
mod processes;
mod relay;
mod soak;

use net_tests::lab::child::Child;
use net_tests::lab::line::Line;

/// A node on this machine's loopback.
fn node(me: u64, more: &str) -> Child {
    node_in(&[], me, &format!("bind=127.0.0.1:0 {more}"))
}

/// A node behind a program that runs it somewhere else.
fn node_in(enter: &[&str], me: u64, words: &str) -> Child {
    Child::start(env!("CARGO_BIN_EXE_lab-node"), enter, &Line::parse(words).with("me", me))
}
