//! Faults on real sockets; `docs/FAULTS.md` lists the cases.

mod processes;
mod relay;

use net_tests::lab::child::Child;
use net_tests::lab::line::Line;

/// A node on this machine's loopback.
fn node(me: u64, more: &str) -> Child {
    let words = Line::parse(&format!("bind=127.0.0.1:0 {more}")).with("me", me);
    Child::start(env!("CARGO_BIN_EXE_lab-node"), &[], &words)
}
