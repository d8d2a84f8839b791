//! Two node processes in the middle of a transfer.

use std::net::SocketAddr;

use super::child::Child;

/// `a` pours messages to `b` until the end.
pub struct Pair {
    /// The sender.
    pub a: Child,
    /// The receiver.
    pub b: Child,
    pouring: u64,
}

impl Pair {
    /// Connects `a` to `b` at `to`, and starts to pour.
    pub fn pour(mut a: Child, b: Child, to: SocketAddr) -> Self {
        a.connect(to, b.me).expect("connected");
        let pouring = a.ask("pour size=1000");
        Self { a, b, pouring }
    }

    /// Waits until so many more messages have arrived.
    pub fn progress(&mut self, more: u64) {
        let now = self.b.report().get("received");
        self.b.reaches("received", now + more);
    }

    /// Stops pouring: everything arrived once and in order, and both nodes are calm, small and balanced.
    pub fn end(mut self) {
        self.a.call("stop").expect("told to stop");
        let admitted = self.a.wait(self.pouring).expect("everything is acknowledged").get("admitted");
        self.b.reaches("finished", 1);
        let got = self.b.report();
        assert_eq!((got.get("received"), got.get("wrong")), (admitted, 0), "{got}");
        for node in [&mut self.a, &mut self.b] {
            node.is_calm();
            node.is_within_its_ceiling();
        }
        let drained = self.a.balances();
        assert_eq!(drained.get("lost"), 0, "{drained}");
        self.b.balances();
    }

    /// What became of the pouring, and both nodes, after the association broke.
    pub fn broken(mut self) -> (Child, Child, String) {
        _ = self.a.call("stop");
        let error = self.a.wait(self.pouring).expect_err("the association ended");
        (self.a, self.b, error)
    }
}
