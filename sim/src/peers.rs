//! L0: any number of bare nodes directly joined, for tests that give every command and look at every
//! event. [`pair::Pair`](crate::pair::Pair) is two of them.

use net_proto::node::{Command, Event, Node};
use net_proto::session::Peer;
use net_proto::stream::{Messages, Mode, StreamId, Taken, charge, frame_message};
use net_proto::time::Duration;

use crate::world::{Failure, World, WorldConfig};

/// How long anything may take before the test fails.
const LIMIT: Duration = Duration::from_secs(120);

/// Nodes by number, and the links between them.
pub struct Peers {
    /// The world that they live in.
    pub world: World,
    seen: Vec<Vec<Event>>,
    next_id: u64,
}

impl Peers {
    /// So many nodes that do not know each other yet, 10 ms apart.
    pub fn new(seed: u64, count: u32) -> Self {
        Self::with(WorldConfig::new(seed), count)
    }

    /// So many nodes in a world of this configuration.
    pub fn with(config: WorldConfig, count: u32) -> Self {
        let mut world = World::new(config);
        for _ in 0..count {
            world.spawn_bare();
        }
        Self { world, seen: vec![Vec::new(); count as usize], next_id: 0 }
    }

    /// A node.
    ///
    /// # Panics
    ///
    /// If there is none of this number, or it was stopped.
    pub fn node(&self, node: u32) -> &Node {
        self.world.node(node).expect("the node runs")
    }

    /// Gives a command.
    pub fn command(&mut self, node: u32, command: Command) {
        self.world.command(node, command);
    }

    /// Lets one node dial another. Returns the number of the dial.
    pub fn dial(&mut self, from: u32, to: u32) -> u64 {
        self.next_id += 1;
        let (entity, paths) = (self.world.entity(to), vec![self.world.path_to(to)]);
        self.command(from, Command::Dial { id: self.next_id, entity, paths });
        self.next_id
    }

    /// Lets one node dial another and waits: each one's handle for the other.
    pub fn connect(&mut self, from: u32, to: u32) -> Result<(Peer, Peer), Failure> {
        self.dial(from, to);
        self.drive()?;
        Ok((self.peer(from, to)?, self.peer(to, from)?))
    }

    /// Runs until nothing is on its way and only slow timers are left.
    pub fn drive(&mut self) -> Result<(), Failure> {
        self.world.drive(LIMIT)
    }

    /// Runs for a time.
    pub fn drive_for(&mut self, time: Duration) -> Result<(), Failure> {
        self.world.run_for(time)
    }

    /// All events of a node so far.
    pub fn events(&mut self, node: u32) -> &[Event] {
        let new = self.world.take_events(node);
        let seen = &mut self.seen[node as usize];
        seen.extend(new);
        seen
    }

    /// A node's handle of the last association with another one that came up.
    pub fn peer(&mut self, node: u32, of: u32) -> Result<Peer, Failure> {
        let wanted = self.world.entity(of);
        let found = self.events(node).iter().rev().find_map(|e| match e {
            Event::Connected { peer, entity, .. } if *entity == wanted => Some(*peer),
            _ => None,
        });
        found.ok_or_else(|| self.failure(node, "is not connected"))
    }

    /// Opens a stream and waits until both ends know it.
    pub fn open(&mut self, node: u32, peer: Peer, label: &str, mode: Mode) -> Result<StreamId, Failure> {
        self.next_id += 1;
        let wanted = self.next_id;
        self.command(node, Command::Open { id: wanted, peer, label: label.into(), mode, priority: 16 });
        self.drive()?;
        let found = self.events(node).iter().find_map(|e| match e {
            Event::StreamReady { id, stream, .. } if *id == wanted => Some(*stream),
            _ => None,
        });
        found.ok_or_else(|| self.failure(node, "got no stream"))
    }

    /// Queues messages on a stream.
    pub fn send(&mut self, node: u32, peer: Peer, stream: StreamId, messages: &[&[u8]]) {
        let mut chunk = Vec::new();
        messages.iter().for_each(|m| frame_message(&mut chunk, m));
        self.command(node, Command::Send { peer, stream, chunk });
    }

    /// Takes everything that waits on a stream, returns its credit, and gives the messages back.
    pub fn read(&mut self, node: u32, peer: Peer, stream: StreamId) -> Vec<(u64, Vec<u8>)> {
        let mut all = Vec::new();
        while let Some(taken) = self.world.take(node, peer, stream, &mut Vec::new()) {
            let Taken { chunk, first, mode, .. } = taken;
            let got: Vec<_> = Messages::received(&chunk, mode, first).map(|(n, m)| (n, m.to_vec())).collect();
            let charge = got.iter().map(|(_, m)| charge(m.len())).sum();
            self.command(node, Command::Consumed { peer, stream, charge });
            all.extend(got);
        }
        all
    }

    fn failure(&self, node: u32, what: &str) -> Failure {
        Failure { at: self.world.now(), node: Some(node), what: what.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_peers_all_talk_with_each_other() {
        let mut peers = Peers::new(1, 4);
        let pairs = (0..4).flat_map(|a| (a + 1..4).map(move |b| (a, b)));
        for (a, b) in pairs {
            let (to, from) = peers.connect(a, b).unwrap();
            let stream = peers.open(a, to, "talk", Mode::Reliable).unwrap();
            peers.send(a, to, stream, &[b"one", b"two"]);
            peers.drive().unwrap();
            assert_eq!(peers.read(b, from, stream), [(0, b"one".to_vec()), (1, b"two".to_vec())]);
        }
        assert!((0..4).all(|n| peers.node(n).peers().count() == 3));
    }
}
