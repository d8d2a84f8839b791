//! Two node processes in the middle of a transfer.

use std::net::SocketAddr;

use super::child::{Child, are_calm};

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
        Self::pour_back(a, b)
    }

    /// Starts to pour from `a` to whoever it is connected to: `b`.
    pub fn pour_back(mut a: Child, b: Child) -> Self {
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
        are_calm([&mut self.a, &mut self.b]);
        for node in [&mut self.a, &mut self.b] {
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

/// A second transfer after an association ended: it works, and all messages of both are accounted for.
pub fn again(mut a: Child, mut b: Child) {
    a.connect(b.addr, b.me).expect("connected again");
    let before = b.report();
    let pouring = a.ask("pour size=1000");
    b.reaches("received", before.get("received") + 500);
    a.call("stop").expect("told to stop");
    let admitted = a.wait(pouring).expect("acknowledged").get("admitted");
    b.reaches("finished", before.get("finished") + 1);
    let got = b.report();
    assert_eq!((got.get("received") - before.get("received"), got.get("wrong")), (admitted, 0), "{got}");
    are_calm([&mut a, &mut b]);
    for node in [&mut a, &mut b] {
        node.is_within_its_ceiling();
    }
    a.balances();
    b.balances();
}
