//! Nodes that tasks run on a machine, and whose sockets are whose; the same in the world and in turmoil.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A node further than the first on one machine has this much more as its number, each.
const NEXT_NODE: u32 = 10_000;

/// The node that a socket belongs to, if one claimed it.
#[derive(Clone, Debug)]
pub(crate) struct Owner(Arc<AtomicU32>);

impl Owner {
    const NOBODY: u32 = u32::MAX;

    pub fn get(&self) -> Option<u32> {
        let node = self.0.load(Ordering::Relaxed);
        (node != Self::NOBODY).then_some(node)
    }
}

/// The nodes of one machine.
#[derive(Debug, Default)]
pub(crate) struct Residents {
    /// Sockets that no node claimed yet.
    unclaimed: Vec<(SocketAddr, Owner)>,
    /// Whether each number runs, and how often it began.
    nodes: BTreeMap<u32, (bool, u32)>,
}

impl Residents {
    /// A socket was bound.
    pub fn bound(&mut self, addr: SocketAddr) -> Owner {
        // Others than nodes have sockets too, and give them back.
        self.unclaimed.retain(|(_, owner)| Arc::strong_count(&owner.0) > 1);
        let owner = Owner(Arc::new(AtomicU32::new(Owner::NOBODY)));
        self.unclaimed.push((addr, owner.clone()));
        owner
    }

    /// A node begins on the machine `host` with these sockets: its number.
    pub fn begins(&mut self, host: u32, sockets: &[SocketAddr]) -> u32 {
        let free = |n: &u32| self.nodes.get(n).is_none_or(|(runs, _)| !runs);
        let number = (0..).map(|n| host + n * NEXT_NODE).find(free).unwrap_or(host);
        self.nodes.entry(number).or_default().0 = true;
        self.unclaimed.retain(|(addr, owner)| {
            let its = sockets.contains(addr);
            if its {
                owner.0.store(number, Ordering::Relaxed);
            }
            !its
        });
        number
    }

    /// It exists: the how manieth life this is.
    pub fn started(&mut self, number: u32) -> u32 {
        let (_, lives) = self.nodes.entry(number).or_default();
        *lives += 1;
        *lives
    }

    /// It is gone, and a successor may have its number.
    pub fn ended(&mut self, number: u32) {
        self.nodes.entry(number).or_default().0 = false;
    }

    /// The machine lost its power: the nodes that ran.
    pub fn crash(&mut self) -> Vec<u32> {
        self.unclaimed.clear();
        let ran = self.nodes.iter_mut().filter(|(_, (runs, _))| *runs);
        ran.map(|(number, (runs, _))| {
            *runs = false;
            *number
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_claims_its_own_sockets_and_a_successor_has_its_number() {
        let addr = |port| SocketAddr::from(([10, 0, 0, 4], port));
        let mut machine = Residents::default();
        let owners = [1, 2, 3].map(|port| machine.bound(addr(port)));
        let number = machine.begins(3, &[addr(1)]);
        assert_eq!((number, machine.started(number)), (3, 1));
        assert_eq!(machine.begins(3, &[addr(3)]), 3 + NEXT_NODE);
        assert_eq!(owners.each_ref().map(Owner::get), [Some(3), None, Some(3 + NEXT_NODE)]);
        machine.ended(3);
        assert_eq!(machine.begins(3, &[]), 3);
        assert_eq!(machine.started(3), 2);
        assert_eq!(machine.crash(), [3, 3 + NEXT_NODE]);
        assert!(machine.crash().is_empty());
    }
}
