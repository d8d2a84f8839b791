//! L0: two bare nodes directly joined, for tests that give every command and look at every event.

use net_proto::node::{Command, Event, Node};
use net_proto::session::Peer;
use net_proto::stream::{Messages, Mode, StreamId, Taken, charge, frame_message};
use net_proto::time::Duration;

use crate::net::{Fate, LinkConfig};
use crate::world::{Failure, World, WorldConfig};

/// Who of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first.
    A,
    /// The second.
    B,
}

impl Side {
    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Its number in the world.
    pub const fn place(self) -> u32 {
        self as u32
    }
}

/// How long anything in a pair may take before the test fails.
const LIMIT: Duration = Duration::from_secs(120);

/// Two nodes and the links between them.
pub struct Pair {
    /// The world that they live in.
    pub world: World,
    seen: [Vec<Event>; 2],
    next_id: u64,
}

impl Pair {
    /// Two nodes that do not know each other yet, 10 ms apart.
    pub fn new(seed: u64) -> Self {
        Self::with(WorldConfig::new(seed))
    }

    /// Two nodes in a world of this configuration.
    pub fn with(config: WorldConfig) -> Self {
        let mut world = World::new(config);
        world.spawn_bare();
        world.spawn_bare();
        Self { world, seen: [Vec::new(), Vec::new()], next_id: 0 }
    }

    /// Two connected nodes, and each one's handle for the other.
    pub fn connected(config: WorldConfig) -> Result<(Self, Peer, Peer), Failure> {
        let mut pair = Self::with(config);
        pair.dial(Side::A);
        pair.drive()?;
        let a = pair.peer(Side::A)?;
        let b = pair.peer(Side::B)?;
        Ok((pair, a, b))
    }

    /// A node.
    ///
    /// # Panics
    ///
    /// If it was stopped.
    pub fn node(&self, side: Side) -> &Node {
        self.world.node(side.place()).expect("the node runs")
    }

    /// Sets both directions.
    pub fn links(&mut self, config: &LinkConfig) {
        self.world.set_links(0, 1, config);
    }

    /// Decides about every datagram that `from` sends: its number, its bytes (which may be changed).
    pub fn hook(&mut self, from: Side, hook: impl FnMut(u64, &mut Vec<u8>) -> Fate + 'static) {
        self.world.link(from.place(), from.other().place()).hook = Some(Box::new(hook));
    }

    /// Gives a command.
    pub fn command(&mut self, side: Side, command: Command) {
        self.world.command(side.place(), command);
    }

    /// Lets `side` dial the other. Returns the number of the dial.
    pub fn dial(&mut self, side: Side) -> u64 {
        self.next_id += 1;
        let to = side.other().place();
        let (entity, paths) = (self.world.entity(to), vec![self.world.path_to(to)]);
        self.command(side, Command::Dial { id: self.next_id, entity, paths });
        self.next_id
    }

    /// Runs until nothing is on its way and only slow timers are left.
    pub fn drive(&mut self) -> Result<(), Failure> {
        self.world.drive(LIMIT)
    }

    /// Runs for a time.
    pub fn drive_for(&mut self, time: Duration) -> Result<(), Failure> {
        self.world.run_for(time)
    }

    /// All events of a side so far.
    pub fn events(&mut self, side: Side) -> &[Event] {
        let new = self.world.take_events(side.place());
        let seen = &mut self.seen[side as usize];
        seen.extend(new);
        seen
    }

    /// The handle of the last association that came up.
    pub fn peer(&mut self, side: Side) -> Result<Peer, Failure> {
        let found = self.events(side).iter().rev().find_map(|e| match e {
            Event::Connected { peer, .. } => Some(*peer),
            _ => None,
        });
        found.ok_or_else(|| self.failure(side, "is not connected"))
    }

    /// Opens a stream and waits until both sides know it.
    pub fn open(&mut self, side: Side, peer: Peer, label: &str, mode: Mode) -> Result<StreamId, Failure> {
        self.next_id += 1;
        let wanted = self.next_id;
        self.command(side, Command::Open { id: wanted, peer, label: label.into(), mode, priority: 16 });
        self.drive()?;
        let found = self.events(side).iter().find_map(|e| match e {
            Event::StreamReady { id, stream, .. } if *id == wanted => Some(*stream),
            _ => None,
        });
        found.ok_or_else(|| self.failure(side, "got no stream"))
    }

    /// Queues messages on a stream.
    pub fn send(&mut self, side: Side, peer: Peer, stream: StreamId, messages: &[&[u8]]) {
        let mut chunk = Vec::new();
        messages.iter().for_each(|m| frame_message(&mut chunk, m));
        self.command(side, Command::Send { peer, stream, chunk });
    }

    /// Takes everything that waits on a stream, returns its credit, and gives the messages back.
    pub fn read(&mut self, side: Side, peer: Peer, stream: StreamId) -> Vec<(u64, Vec<u8>)> {
        let mut all = Vec::new();
        while let Some(taken) = self.world.take(side.place(), peer, stream, &mut Vec::new()) {
            let Taken { chunk, first, mode, .. } = taken;
            let got: Vec<_> = Messages::received(&chunk, mode, first).map(|(n, m)| (n, m.to_vec())).collect();
            let charge = got.iter().map(|(_, m)| charge(m.len())).sum();
            self.command(side, Command::Consumed { peer, stream, charge });
            all.extend(got);
        }
        all
    }

    fn failure(&self, side: Side, what: &str) -> Failure {
        Failure { at: self.world.now(), node: Some(side.place()), what: what.into() }
    }
}
