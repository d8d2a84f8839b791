//! What can be told from the machines themselves.

use std::collections::{BTreeMap, BTreeSet};

use net_proto::node::{Command, DownReason, Event};
use net_proto::stream::Messages;
use net_proto::time::Duration;

use super::{Broken, Checker, Seen, Wants};
use crate::world::World;

/// A node's timer lies in the future after its work, and a node does not spin.
#[derive(Clone, Copy, Debug)]
pub struct TimersAhead {
    /// Silent turns in a row at one instant after which a timer counts as stuck.
    pub silent: u32,
    /// Turns at one instant after which a node counts as spinning.
    pub turns: u32,
}

impl Default for TimersAhead {
    fn default() -> Self {
        Self { silent: 16, turns: 100_000 }
    }
}

impl Checker for TimersAhead {
    fn name(&self) -> &'static str {
        "timers never in the past"
    }

    fn wants(&self) -> Wants {
        Wants::AGAIN
    }

    fn see(&mut self, _at: Duration, seen: &Seen<'_>) -> Result<(), Broken> {
        let Seen::Again { node, turn, silent, wants: (at, reason), now } = seen else { return Ok(()) };
        if *silent > self.silent {
            return Err(Broken::at(*node, format!("timer {reason:?} stands at {at:?}, now is {now:?}")));
        }
        if *turn > self.turns {
            return Err(Broken::at(*node, format!("never waits; last asked for {reason:?}")));
        }
        Ok(())
    }
}

/// Everything that an application handed to a node is delivered, queued or reported lost: the node's
/// ledger balances, and counts as many messages as the application sent.
#[derive(Debug)]
pub struct LedgerBalances {
    /// Looks after one piece of work in so many.
    pub every: u32,
    sent: BTreeMap<u32, u64>,
    turn: u32,
}

impl Default for LedgerBalances {
    fn default() -> Self {
        Self { every: 16, sent: BTreeMap::new(), turn: 0 }
    }
}

impl Checker for LedgerBalances {
    fn name(&self) -> &'static str {
        "ledger balances"
    }

    fn wants(&self) -> Wants {
        Wants::LIVES | Wants::API | Wants::WORKED
    }

    fn see(&mut self, _at: Duration, seen: &Seen<'_>) -> Result<(), Broken> {
        match seen {
            Seen::Started { node, .. } => {
                self.sent.insert(*node, 0);
            }
            Seen::Command { node, command: Command::Send { chunk, .. } } => {
                *self.sent.entry(*node).or_default() += Messages::queued(chunk).count() as u64;
            }
            Seen::Worked { node, machine } => {
                self.turn += 1;
                if !self.turn.is_multiple_of(self.every.max(1)) {
                    return Ok(());
                }
                let ledger = machine.ledger();
                if !ledger.balances() {
                    return Err(Broken::at(*node, format!("{ledger:?}")));
                }
                let sent = self.sent.get(node).copied().unwrap_or(0);
                if sent != ledger.accepted.messages {
                    let accepted = ledger.accepted.messages;
                    let what = format!("{sent} messages were handed over, the ledger has {accepted}");
                    return Err(Broken::at(*node, what));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// What a node may come to hold stays under a limit, and what it leases under what it says.
#[derive(Clone, Copy, Debug)]
pub struct BoundedMemory {
    /// Most bytes.
    pub limit: u64,
    /// Looks after one piece of work in so many.
    pub every: u32,
    turn: u32,
}

impl BoundedMemory {
    /// At most so many bytes in each node, looked at now and then.
    pub const fn new(limit: u64) -> Self {
        Self { limit, every: 64, turn: 0 }
    }
}

impl Checker for BoundedMemory {
    fn name(&self) -> &'static str {
        "bounded memory"
    }

    fn wants(&self) -> Wants {
        Wants::WORKED
    }

    fn see(&mut self, _at: Duration, seen: &Seen<'_>) -> Result<(), Broken> {
        let Seen::Worked { node, machine } = seen else { return Ok(()) };
        self.turn = self.turn.wrapping_add(1);
        if !self.turn.is_multiple_of(self.every.max(1)) {
            return Ok(());
        }
        let (ceiling, leased) = (machine.ceiling(), machine.leased());
        if ceiling > self.limit {
            return Err(Broken::at(*node, format!("may hold {ceiling} bytes, {} are allowed", self.limit)));
        }
        if leased > ceiling {
            return Err(Broken::at(*node, format!("leases {leased} bytes, its ceiling is {ceiling}")));
        }
        Ok(())
    }
}

/// A node without associations leases nothing, at any time and at the end.
#[derive(Clone, Copy, Debug, Default)]
pub struct CreditReturned;

impl CreditReturned {
    fn judge(node: u32, leased: u64, peers: u64) -> Result<(), Broken> {
        if leased > 0 && peers == 0 {
            return Err(Broken::at(node, format!("has no association and still leases {leased} bytes")));
        }
        Ok(())
    }
}

impl Checker for CreditReturned {
    fn name(&self) -> &'static str {
        "credit returned"
    }

    fn wants(&self) -> Wants {
        Wants::WORKED
    }

    fn see(&mut self, _at: Duration, seen: &Seen<'_>) -> Result<(), Broken> {
        match seen {
            Seen::Worked { node, machine } => Self::judge(*node, machine.leased(), machine.stats().peers),
            _ => Ok(()),
        }
    }

    fn at_end(&mut self, world: &World) -> Result<(), Broken> {
        for place in 0..world.len() as u32 {
            if let Some(machine) = world.node(place) {
                self.see(world.now(), &Seen::Worked { node: place, machine })?;
            }
        }
        Ok(())
    }
}

/// Nobody is accused of breaking the protocol. For worlds without hostile nodes: what links do to
/// datagrams is caught by the ciphers and is no breach.
#[derive(Clone, Copy, Debug, Default)]
pub struct Honest;

impl Checker for Honest {
    fn name(&self) -> &'static str {
        "honest nodes break no rule"
    }

    fn wants(&self) -> Wants {
        Wants::API
    }

    fn see(&mut self, _at: Duration, seen: &Seen<'_>) -> Result<(), Broken> {
        match seen {
            Seen::Event { node, event: Event::Disconnected { reason: DownReason::Violation(v), .. } } => {
                Err(Broken::at(*node, format!("closed an association: {v:?}")))
            }
            _ => Ok(()),
        }
    }
}

/// What is passed on from node to node passes none twice and comes to an end. Applications tell it by
/// [`Ctx::note`](crate::Ctx::note) with `hop` and an id that is one thing's on its whole way.
#[derive(Debug)]
pub struct NoRoutingLoop {
    /// Most nodes on a way.
    pub hops: usize,
    seen: BTreeMap<u64, BTreeSet<u32>>,
}

impl NoRoutingLoop {
    /// At most so many nodes on a way.
    pub const fn new(hops: usize) -> Self {
        Self { hops, seen: BTreeMap::new() }
    }
}

impl Checker for NoRoutingLoop {
    fn name(&self) -> &'static str {
        "no routing loop"
    }

    fn wants(&self) -> Wants {
        Wants::NOTES
    }

    fn see(&mut self, _at: Duration, seen: &Seen<'_>) -> Result<(), Broken> {
        let Seen::Note { node, what: "hop", value } = seen else { return Ok(()) };
        let way = self.seen.entry(*value).or_default();
        if !way.insert(*node) {
            return Err(Broken::at(*node, format!("{value} comes by a second time")));
        }
        if way.len() > self.hops {
            return Err(Broken::at(*node, format!("{value} passed {} nodes", way.len())));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use net_proto::session::Violation;
    use net_proto::time::{Instant, Reason};

    #[test]
    fn a_loop_is_noticed() {
        let mut checker = NoRoutingLoop::new(3);
        let mut hop = |node, value| checker.see(Duration::ZERO, &Seen::Note { node, what: "hop", value });
        assert_eq!((hop(1, 7), hop(2, 7), hop(1, 8), hop(3, 7)), (Ok(()), Ok(()), Ok(()), Ok(())));
        assert!(hop(1, 8).is_err(), "the same node twice");
        assert!(hop(4, 7).is_err(), "a fourth node");
    }

    #[test]
    fn a_message_that_never_reached_the_ledger_is_noticed() {
        let mut world = crate::Sim::new(1).world();
        let node = world.spawn_bare();
        let mut checker = LedgerBalances { every: 1, ..LedgerBalances::default() };
        let worked = Seen::Worked { node, machine: world.node(node).unwrap() };
        assert_eq!(checker.see(Duration::ZERO, &worked), Ok(()));
        let mut chunk = Vec::new();
        net_proto::stream::frame_message(&mut chunk, b"lost on the way to the node");
        let (peer, stream) = (net_proto::lane::forge::peer(0, 1), net_proto::stream::StreamId(0));
        let command = Command::Send { peer, stream, chunk };
        checker.see(Duration::ZERO, &Seen::Command { node, command: &command }).unwrap();
        let broken = checker.see(Duration::ZERO, &worked).unwrap_err();
        assert!(broken.what.contains("1 messages were handed over"), "{broken:?}");
    }

    #[test]
    fn a_node_that_may_grow_too_much_is_noticed() {
        let mut world = crate::Sim::new(1).world();
        let node = world.spawn_bare();
        let worked = Seen::Worked { node, machine: world.node(node).unwrap() };
        let judge =
            |limit| BoundedMemory { every: 1, ..BoundedMemory::new(limit) }.see(Duration::ZERO, &worked);
        let ceiling = world.node(node).unwrap().ceiling();
        assert_eq!(judge(ceiling), Ok(()));
        assert!(judge(ceiling - 1).is_err());
    }

    #[test]
    fn a_lease_without_an_association_is_noticed() {
        assert_eq!(CreditReturned::judge(3, 0, 0), Ok(()));
        assert_eq!(CreditReturned::judge(3, 9, 1), Ok(()));
        assert_eq!(CreditReturned::judge(3, 9, 0).unwrap_err().node, Some(3));
    }

    #[test]
    fn an_accusation_is_noticed() {
        let peer = net_proto::lane::forge::peer(0, 1);
        let ends = |reason| {
            let entity = net_proto::identity::Identity::from_seed(&[1; 32]).id();
            let lost = net_proto::node::Lost::default();
            let event = Event::Disconnected { peer, entity, reason, lost };
            Honest.see(Duration::ZERO, &Seen::Event { node: 2, event: &event })
        };
        assert_eq!(ends(DownReason::Shutdown), Ok(()));
        assert_eq!(ends(DownReason::Violation(Violation::Frame)).unwrap_err().node, Some(2));
    }

    #[test]
    fn a_stuck_timer_is_noticed() {
        let mut checker = TimersAhead::default();
        let mut again = |turn, silent| {
            let now = Instant::from_nanos(5);
            let seen = Seen::Again { node: 0, turn, silent, wants: (now, Reason::Ack), now };
            checker.see(Duration::ZERO, &seen)
        };
        assert_eq!(again(1_000, 16), Ok(()));
        assert!(again(17, 17).is_err());
        assert!(again(100_001, 0).is_err());
    }
}
