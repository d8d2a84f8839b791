//! L0: two bare nodes directly joined.

use std::ops::{Deref, DerefMut};

use net_proto::node::{Command, Event, Node};
use net_proto::session::Peer;
use net_proto::stream::{Mode, StreamId};

use crate::net::{Fate, LinkConfig};
use crate::peers::Peers;
use crate::world::{Failure, WorldConfig};

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

/// Two nodes and the links between them: [`Peers`] by sides.
pub struct Pair(Peers);

impl Deref for Pair {
    type Target = Peers;

    fn deref(&self) -> &Peers {
        &self.0
    }
}

impl DerefMut for Pair {
    fn deref_mut(&mut self) -> &mut Peers {
        &mut self.0
    }
}

impl Pair {
    /// Two nodes that do not know each other yet, 10 ms apart.
    pub fn new(seed: u64) -> Self {
        Self::with(WorldConfig::new(seed))
    }

    /// Two nodes in a world of this configuration.
    pub fn with(config: WorldConfig) -> Self {
        Self(Peers::with(config, 2))
    }

    /// Two connected nodes, and each one's handle for the other.
    pub fn connected(config: WorldConfig) -> Result<(Self, Peer, Peer), Failure> {
        let mut pair = Self::with(config);
        let (a, b) = pair.0.connect(0, 1)?;
        Ok((pair, a, b))
    }

    /// A node.
    ///
    /// # Panics
    ///
    /// If it was stopped.
    pub fn node(&self, side: Side) -> &Node {
        self.0.node(side.place())
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
        self.0.command(side.place(), command);
    }

    /// Lets `side` dial the other. Returns the number of the dial.
    pub fn dial(&mut self, side: Side) -> u64 {
        self.0.dial(side.place(), side.other().place())
    }

    /// All events of a side so far.
    pub fn events(&mut self, side: Side) -> &[Event] {
        self.0.events(side.place())
    }

    /// The handle of the last association that came up.
    pub fn peer(&mut self, side: Side) -> Result<Peer, Failure> {
        self.0.peer(side.place(), side.other().place())
    }

    /// Opens a stream and waits until both sides know it.
    pub fn open(&mut self, side: Side, peer: Peer, label: &str, mode: Mode) -> Result<StreamId, Failure> {
        self.0.open(side.place(), peer, label, mode)
    }

    /// Queues messages on a stream.
    pub fn send(&mut self, side: Side, peer: Peer, stream: StreamId, messages: &[&[u8]]) {
        self.0.send(side.place(), peer, stream, messages);
    }

    /// Takes everything that waits on a stream, returns its credit, and gives the messages back.
    pub fn read(&mut self, side: Side, peer: Peer, stream: StreamId) -> Vec<(u64, Vec<u8>)> {
        self.0.read(side.place(), peer, stream)
    }
}
