//! One node with a small application, as a function of what happened to it.
//!
//! A node depends on nothing but its inputs and their times. Times are the node's own here: a datagram
//! takes a millisecond, a timer fires when it is due, and how the two clocks stand to one another is
//! left open. So the list of inputs names the state, whatever the other node did meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use net_proto::identity::{EntityId, Identity, Incarnation, Mesh, MeshId, MeshKey};
use net_proto::node::{Command, Config, Event, Input as Given, JobDone, Node};
use net_proto::path::{Ecn, Path, Remote};
use net_proto::session::Peer;
use net_proto::storage::Ticket;
use net_proto::stream::{Messages, Mode, StreamId, Taken, charge, frame_message};
use net_proto::time::{Duration, Instant, Reason};

use super::Scenario;
use crate::guard::Guard;
use crate::keyed::{Domain, bytes32};
use crate::memo;
use crate::null::Null;
use crate::world::default_addr;

/// What a node's clock shows in the beginning of its first life.
const CLOCK_START: Duration = Duration::from_secs(10_000);
/// Between two lives of one node.
const LIFE: Duration = Duration::from_secs(10_000);
/// A datagram's time on the way.
const DELAY: Duration = Duration::from_millis(1);
/// A node that asks to be called at once more often than this spins.
const MAX_TURNS: u32 = 1_000;

/// One thing that happens to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Input {
    /// A datagram arrives, by its number.
    Arrives(u32),
    /// The timer fires that the node asked for.
    Timer,
    /// The oldest job is done.
    Job,
}

/// What a step brought out.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// Datagrams, in order.
    pub sent: Vec<Vec<u8>>,
    /// Messages that were delivered.
    pub heard: Vec<u64>,
    /// Messages that a flush called delivered.
    pub flushed: Vec<u64>,
    /// An association came up that this side dialled,
    pub up_dialled: bool,
    /// or that it did not dial.
    pub up_accepted: bool,
    /// Jobs that are to be done.
    pub jobs: usize,
    /// The timer.
    pub timer: Option<Reason>,
    /// A broken promise.
    pub broken: Option<String>,
}

/// Dials, dials again, opens a stream over each association that it dialled for, says one thing.
#[derive(Debug)]
struct Talker {
    dials: bool,
    place: u32,
    life: u32,
    dialling: bool,
    next: u64,
    /// Associations that are up, and the stream on which it talks.
    peers: BTreeMap<Peer, Option<StreamId>>,
    /// Streams that are being opened.
    opening: BTreeMap<u64, Peer>,
    /// What each flush is about.
    flushes: BTreeMap<u64, (Peer, u64)>,
    heard: BTreeSet<(Peer, u64)>,
    said: u64,
}

/// A node and its application.
pub(super) struct Local {
    node: Node,
    app: Talker,
    guard: Guard,
    pub now: Instant,
    path: Path,
    addr: SocketAddr,
    other: EntityId,
    pending: VecDeque<(Ticket, JobDone)>,
    out: Outcome,
    buf: Vec<u8>,
}

/// Who takes part, and in what.
pub(super) struct Cast {
    pub scenario: Scenario,
    mesh: Mesh,
    identities: [Identity; 2],
}

impl Cast {
    pub fn of(scenario: Scenario) -> Self {
        let mesh =
            Mesh { id: MeshId(bytes32(1, Domain::Mesh, 0, 0)), key: MeshKey(bytes32(1, Domain::Mesh, 0, 1)) };
        let identities = [0, 1].map(|place| Identity::from_seed(&bytes32(1, Domain::Identity, place, 0)));
        Self { scenario, mesh, identities }
    }
}

impl Local {
    /// A node in the beginning of a life, and what it does first.
    pub fn start(cast: &Cast, place: u32, life: u32) -> (Self, Outcome) {
        let Cast { scenario, mesh, identities } = cast;
        let other = identities[1 - place as usize].id();
        let incarnation =
            Incarnation { epoch: u64::from(life), random: u64::from(place) << 32 | u64::from(life) };
        let mut config = Config::new(identities[place as usize].clone(), mesh.clone(), incarnation);
        config.ciphers = Arc::new(Null);
        config.session.paths.probing = false;
        config.session.paths.ecn = false;
        (scenario.tune)(&mut config);
        let now = Instant::ZERO + CLOCK_START + LIFE * life;
        let seed = bytes32(1, Domain::NodeSeed, u64::from(place), u64::from(life));
        let node = Node::new(config, seed, now).expect("a configuration that holds");
        let addr = default_addr(1 - place);
        let mut local = Self {
            node,
            app: Talker {
                dials: scenario.dials[place as usize],
                place,
                life,
                dialling: false,
                next: 0,
                peers: BTreeMap::new(),
                opening: BTreeMap::new(),
                flushes: BTreeMap::new(),
                heard: BTreeSet::new(),
                said: 0,
            },
            guard: Guard::default(),
            now,
            path: Path { socket: 0, local: Some(default_addr(place).ip()), remote: Remote::Udp(addr) },
            addr,
            other,
            pending: VecDeque::new(),
            out: Outcome::default(),
            buf: vec![0; 65_536],
        };
        local.redial();
        let out = local.settle();
        (local, out)
    }

    /// One step. Time goes on by as much as the input needs.
    pub fn step(&mut self, input: Input, data: &[u8]) -> Outcome {
        let due = self.node.poll_timeout().map(|(at, _)| at);
        match input {
            Input::Arrives(_) => {
                let at = self.now + DELAY;
                self.arrives(due.map_or(at, |due| due.max(self.now).min(at)), data)
            }
            Input::Timer => self.fires(due.map_or(self.now, |due| due.max(self.now))),
            Input::Job => self.job(),
        }
    }

    /// A datagram arrives at a time.
    pub fn arrives(&mut self, at: Instant, data: &[u8]) -> Outcome {
        self.now = self.now.max(at);
        self.guard.got(self.addr, data.len(), Some(1 - self.app.place));
        let mut data = data.to_vec();
        self.node.handle(self.now, Given::Datagram { path: self.path, ecn: Ecn::NotEct, data: &mut data });
        self.settle()
    }

    /// The timer fires at a time.
    pub fn fires(&mut self, at: Instant) -> Outcome {
        self.now = self.now.max(at);
        self.node.handle(self.now, Given::Timeout);
        self.settle()
    }

    fn job(&mut self) -> Outcome {
        if let Some((ticket, done)) = self.pending.pop_front() {
            self.node.handle(self.now, Given::Job(ticket, done));
        }
        self.settle()
    }

    /// When the node wants to be called.
    pub fn due(&self) -> Option<Instant> {
        if !self.pending.is_empty() {
            return Some(self.now);
        }
        self.node.poll_timeout().map(|(at, _)| at)
    }

    /// Does what is due at a time.
    pub fn call(&mut self, at: Instant) -> Outcome {
        self.now = self.now.max(at);
        if self.pending.is_empty() { self.fires(self.now) } else { self.job() }
    }

    /// Whether exactly one association stands, with the other one.
    pub fn is_joined(&self) -> bool {
        let mut peers = self.node.peers();
        peers.next().is_some_and(|(peer, entity)| entity == self.other && self.app.peers.contains_key(&peer))
            && peers.next().is_none()
            && self.app.peers.len() == 1
    }

    /// Streams of the association that stands.
    pub fn streams(&self) -> Option<u64> {
        let (peer, _) = self.node.peers().next()?;
        self.node.peer_stats(peer).map(|stats| stats.streams)
    }

    /// Says one thing more, if it can. Returns what.
    pub fn say(&mut self) -> Option<(u64, Outcome)> {
        let (peer, stream) = self.app.peers.iter().find_map(|(p, s)| Some((*p, (*s)?)))?;
        let message = self.speak(peer, stream);
        Some((message, self.settle()))
    }

    /// Whether everything that was said over living associations is known to be delivered.
    pub fn all_flushed(&self) -> bool {
        self.app.flushes.values().all(|(peer, _)| !self.app.peers.contains_key(peer))
            && self.app.opening.is_empty()
    }

    /// Whether this side talks.
    pub const fn talks(&self) -> bool {
        self.app.dials
    }

    fn command(&mut self, command: Command) {
        self.node.handle(self.now, Given::Command(command));
    }

    fn break_rule(&mut self, what: impl Into<String>) {
        self.out.broken.get_or_insert_with(|| what.into());
    }

    fn redial(&mut self) {
        if self.app.dials && !self.app.dialling && self.app.peers.is_empty() {
            self.app.dialling = true;
            self.app.next += 1;
            self.guard.trust(self.addr);
            let paths = vec![Path::udp(self.addr)];
            self.command(Command::Dial { id: self.app.next, entity: self.other, paths });
        }
    }

    /// Says the next thing, which names who says it, in which life, and the how manieth it is.
    fn speak(&mut self, peer: Peer, stream: StreamId) -> u64 {
        let app = &mut self.app;
        app.said += 1;
        let message = u64::from(app.place) << 48 | u64::from(app.life) << 32 | app.said;
        app.next += 1;
        app.flushes.insert(app.next, (peer, message));
        let id = app.next;
        let mut chunk = Vec::new();
        frame_message(&mut chunk, &message.to_le_bytes());
        self.command(Command::Send { peer, stream, chunk });
        self.command(Command::Flush { id, peer, stream });
        message
    }

    fn settle(&mut self) -> Outcome {
        for turn in 0.. {
            while let Some((ticket, job)) = self.node.poll_job() {
                self.pending.push_back((ticket, memo::run(job)));
            }
            while let Some(event) = self.node.poll_event() {
                self.event(event);
            }
            let mut buf = std::mem::take(&mut self.buf);
            while let Some(transmit) = self.node.poll_transmit(self.now, &mut buf) {
                let segment = transmit.segment.unwrap_or(transmit.len).max(1);
                for data in buf[..transmit.len].chunks(segment) {
                    if transmit.path.udp_addr() != Some(self.addr) {
                        self.break_rule(format!("sends to {:?}", transmit.path));
                    }
                    if let Err(what) = self.guard.sent(self.addr, data) {
                        self.break_rule(what);
                    }
                    self.out.sent.push(data.to_vec());
                }
            }
            self.buf = buf;
            match self.node.poll_timeout() {
                // Output is no event of its own.
                Some((at, reason)) if at <= self.now || matches!(reason, Reason::Output | Reason::Pacing) => {
                    self.now = self.now.max(at);
                    self.node.handle(self.now, Given::Timeout);
                    if turn > MAX_TURNS {
                        self.break_rule(format!("spins: asks for {reason:?} again and again"));
                        break;
                    }
                }
                timer => {
                    self.out.timer = timer.map(|(_, reason)| reason);
                    break;
                }
            }
        }
        self.node.invariants();
        let ledger = self.node.ledger();
        if !ledger.balances() {
            self.break_rule(format!("the ledger does not balance: {ledger:?}"));
        }
        self.out.jobs = self.pending.len();
        std::mem::take(&mut self.out)
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Connected { peer, entity, dial, path, .. } => {
                if entity != self.other {
                    self.break_rule(format!("wrong identity: connected with {entity:?}"));
                }
                if let Some(addr) = path.udp_addr() {
                    self.guard.trust(addr);
                }
                if dial.is_some() {
                    (self.app.dialling, self.out.up_dialled) = (false, true);
                } else {
                    self.out.up_accepted = true;
                }
                if self.app.peers.insert(peer, None).is_none() && self.app.dials {
                    self.app.next += 1;
                    let id = self.app.next;
                    self.app.opening.insert(id, peer);
                    let (label, mode) = ("talk".into(), Mode::Reliable);
                    self.command(Command::Open { id, peer, label, mode, priority: 16 });
                }
                if self.app.peers.len() > 1 {
                    self.break_rule("two associations with one peer");
                }
            }
            Event::DialFailed { .. } => {
                self.app.dialling = false;
                self.redial();
            }
            Event::Disconnected { peer, .. } => {
                if self.app.peers.remove(&peer).is_none() {
                    self.break_rule("disconnected from somebody who never connected");
                }
                self.app.opening.retain(|_, p| *p != peer);
                self.redial();
            }
            Event::StreamReady { id, peer, stream, .. } => {
                self.known(peer, "a stream is ready");
                self.app.opening.remove(&id);
                self.app.peers.insert(peer, Some(stream));
                self.speak(peer, stream);
            }
            Event::StreamOpened { peer, .. } => self.known(peer, "a stream was opened"),
            Event::Readable { peer, stream } => {
                self.known(peer, "messages wait");
                self.read(peer, stream);
            }
            Event::Flushed { id } => {
                if let Some((_, message)) = self.app.flushes.remove(&id) {
                    self.out.flushed.push(message);
                }
            }
            Event::StreamRefused { id, .. } => {
                self.app.flushes.remove(&id);
                self.app.opening.remove(&id);
            }
            _ => {}
        }
    }

    fn known(&mut self, peer: Peer, what: &str) {
        if !self.app.peers.contains_key(&peer) {
            self.break_rule(format!("event before confirmation: {what}, and nobody is connected"));
        }
    }

    fn read(&mut self, peer: Peer, stream: StreamId) {
        while let Some(Taken { chunk, first, mode, .. }) = self.node.take(peer, stream, &mut Vec::new()) {
            let mut worth = 0;
            for (_, message) in Messages::received(&chunk, mode, first) {
                worth += charge(message.len());
                let number = message.try_into().map_or(0, u64::from_le_bytes);
                if number >> 48 != u64::from(1 - self.app.place) {
                    self.break_rule(format!("a message that nobody sent: {message:?}"));
                }
                if !self.app.heard.insert((peer, number)) {
                    self.break_rule(format!("message {number:x} came twice over one association"));
                }
                self.out.heard.push(number);
            }
            self.command(Command::Consumed { peer, stream, charge: worth });
        }
    }
}
