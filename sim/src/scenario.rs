//! Ready-made runs that need only a plan: what the program `world` searches and shrinks, and what
//! committed plans replay.

use std::collections::{BTreeMap, BTreeSet};

use net_proto::node::{Command, Config, Event};
use net_proto::session::Peer;
use net_proto::stream::{Messages, Mode, StreamId, Taken, charge, frame_message};
use net_proto::time::Duration;

use crate::app::{App, Ctx};
use crate::checkers::{
    BoundedMemory, Broken, Checker, CreditReturned, Delivery, Honest, LedgerBalances, Seen, Wants,
};
use crate::plan::{Core, Fault, Kind, LinkFault, Plan, Swarm, What};
use crate::traffic::{MARKER, message};
use crate::world::{Failure, World, WorldConfig};
use crate::{LinkConfig, bus, sometimes};

/// Longest time that a healed mesh may take to be whole again.
const CONVERGE: Duration = Duration::from_secs(90);
/// Most bytes in flight where nobody says anything.
const AT_REST: u64 = 6_000;
/// How long dials last in some runs.
const IMPATIENT: Duration = Duration::from_secs(1);
/// Window and buffer of each stream in some runs: a message of the largest size fits.
const NARROW: u64 = 16 << 10;
/// Longest message in some runs: more than the half of a session's window that is always kept free.
const LARGE: usize = 48_000;
/// A chatter speaks so often.
const SPEAKS: Duration = Duration::from_millis(250);

/// Talks with its neighbours for ever: dials, dials again, opens a stream in each mode over every
/// association, sends, reads, now and then resets a stream.
#[derive(Debug)]
pub struct Chatter {
    neighbours: Vec<u32>,
    dialling: Vec<u32>,
    streams: BTreeMap<(Peer, StreamId), Talk>,
    /// By peer: which neighbour it is, if this side dialled.
    peers: BTreeMap<Peer, Option<u32>>,
    turn: u64,
    /// Messages taken.
    pub heard: u64,
    /// The same by stream.
    heard_on: BTreeMap<(Peer, StreamId), u64>,
    size: usize,
    /// Says nothing new.
    quiet: bool,
    /// Wants no associations any more.
    leaving: bool,
    flushes: u64,
    /// Reads only at every eighth turn.
    late: bool,
    /// Reads reliable streams only.
    picks: bool,
    /// What waits to be read.
    unread: BTreeSet<(Peer, StreamId)>,
    /// Streams of others that are not reliable.
    loose: BTreeSet<(Peer, StreamId)>,
}

#[derive(Debug)]
struct Talk {
    mode: Mode,
    said: u64,
    limit: u64,
    charged: u64,
}

impl Chatter {
    /// Talks with these nodes, in messages of up to `size` bytes.
    pub const fn new(neighbours: Vec<u32>, size: usize) -> Self {
        Self {
            neighbours,
            dialling: Vec::new(),
            streams: BTreeMap::new(),
            peers: BTreeMap::new(),
            turn: 0,
            heard: 0,
            heard_on: BTreeMap::new(),
            size,
            quiet: false,
            leaving: false,
            flushes: 0,
            late: false,
            picks: false,
            unread: BTreeSet::new(),
            loose: BTreeSet::new(),
        }
    }

    /// Sets whether it reads late, so that windows fill up and senders wait for credit.
    #[must_use]
    pub const fn late(mut self, late: bool) -> Self {
        self.late = late;
        self
    }

    /// Sets whether it leaves unread what is not reliable.
    #[must_use]
    pub const fn picking(mut self, picks: bool) -> Self {
        self.picks = picks;
        self
    }

    /// Whether an association with every neighbour stands.
    pub fn whole(&self) -> bool {
        self.neighbours.iter().all(|n| self.peers.values().any(|p| *p == Some(*n)))
    }

    /// Says goodbye to everybody, for good.
    fn leave(&mut self, cx: &mut Ctx<'_>) {
        (self.quiet, self.leaving) = (true, true);
        self.neighbours.clear();
        for peer in self.peers.keys() {
            cx.command(Command::Disconnect { peer: *peer, code: 0 });
        }
    }

    fn dial(&mut self, cx: &mut Ctx<'_>) {
        for to in self.neighbours.clone() {
            if !self.dialling.contains(&to) && !self.peers.values().any(|p| *p == Some(to)) {
                self.dialling.push(to);
                let paths = vec![cx.path_to(to)];
                cx.command(Command::Dial { id: u64::from(to), entity: cx.entity(to), paths });
            }
        }
    }

    /// Takes what waits on a stream and gives its credit back.
    fn read(&mut self, cx: &mut Ctx<'_>, peer: Peer, stream: StreamId) {
        let mut spare = Vec::new();
        while let Some(taken) = cx.take(peer, stream, &mut spare) {
            let Taken { chunk, first, mode, .. } = taken;
            let sizes = Messages::received(&chunk, mode, first).map(|(_, m)| charge(m.len()));
            let (count, worth) = sizes.fold((0, 0), |(n, sum), size| (n + 1, sum + size));
            self.heard += count;
            *self.heard_on.entry((peer, stream)).or_default() += count;
            cx.command(Command::Consumed { peer, stream, charge: worth });
            spare = chunk;
        }
    }

    fn speak(&mut self, cx: &mut Ctx<'_>) {
        if self.quiet {
            return;
        }
        let mut rng = cx.rng(self.turn);
        for ((peer, stream), talk) in &mut self.streams {
            let size = 16 + rng.below(self.size as u64) as usize;
            if talk.charged + charge(size) > talk.limit {
                sometimes!("a stream waits for credit");
                continue;
            }
            talk.charged += charge(size);
            let mut chunk = cx.spent().unwrap_or_default();
            chunk.clear();
            frame_message(&mut chunk, &message(stream.0 << 32 | u64::from(cx.me()), talk.said, size));
            talk.said += 1;
            cx.command(Command::Send { peer: *peer, stream: *stream, chunk });
            if talk.mode != Mode::FireAndForget && rng.chance(100_000) {
                self.flushes += 1;
                cx.command(Command::Flush { id: self.flushes, peer: *peer, stream: *stream });
            }
        }
        // Now and then a stream ends early, and another one takes its place.
        if rng.chance(50_000)
            && let Some((peer, stream)) = self.streams.keys().next().copied()
        {
            self.streams.remove(&(peer, stream));
            cx.command(Command::Reset { peer, stream, code: 7 });
            open(cx, peer, self.turn as usize);
        }
    }
}

const MODES: [Mode; 3] = [Mode::Reliable, Mode::Unordered, Mode::FireAndForget];

fn open(cx: &mut Ctx<'_>, peer: Peer, n: usize) {
    let (label, mode) = ("talk".into(), MODES[n % 3]);
    cx.command(Command::Open { id: n as u64, peer, label, mode, priority: 16 });
}

impl App for Chatter {
    fn on_start(&mut self, cx: &mut Ctx<'_>) {
        self.dial(cx);
        cx.wake_in(SPEAKS);
    }

    fn on_timer(&mut self, cx: &mut Ctx<'_>) {
        self.turn += 1;
        if self.turn.is_multiple_of(8) && !self.picks {
            for (peer, stream) in std::mem::take(&mut self.unread) {
                self.read(cx, peer, stream);
            }
        }
        self.speak(cx);
        if self.turn.is_multiple_of(4) {
            self.dial(cx);
        }
        cx.wake_in(SPEAKS);
    }

    fn on_event(&mut self, cx: &mut Ctx<'_>, event: Event) {
        match event {
            Event::Connected { peer, dial, .. } => {
                let neighbour = dial.map(|d| d as u32);
                self.dialling.retain(|d| Some(*d) != neighbour);
                let known = self.peers.insert(peer, neighbour).is_some();
                sometimes!("two dials met", known);
                if self.leaving {
                    return cx.command(Command::Disconnect { peer, code: 0 });
                }
                if neighbour.is_some() && !known {
                    (0..3).for_each(|n| open(cx, peer, n));
                }
            }
            Event::DialFailed { dial, .. } => {
                sometimes!("a dial failed");
                self.dialling.retain(|d| u64::from(*d) != dial);
            }
            Event::Disconnected { peer, .. } => {
                sometimes!("an association ended");
                self.peers.remove(&peer);
                self.heard_on.retain(|(p, _), _| *p != peer);
                self.unread.retain(|(p, _)| *p != peer);
                self.loose.retain(|(p, _)| *p != peer);
                self.streams.retain(|(p, _), _| *p != peer);
            }
            Event::StreamReady { id, peer, stream, limit, .. } => {
                let mode = MODES[id as usize % 3];
                self.streams.insert((peer, stream), Talk { mode, said: 0, limit, charged: 0 });
            }
            Event::Writable { peer, stream, limit } => {
                if let Some(talk) = self.streams.get_mut(&(peer, stream)) {
                    talk.limit = limit;
                }
            }
            Event::StreamOpened { peer, stream, mode, .. } if mode != Mode::Reliable => {
                self.loose.insert((peer, stream));
            }
            Event::Readable { peer, stream } => {
                if self.late || self.picks && self.loose.contains(&(peer, stream)) {
                    self.unread.insert((peer, stream));
                } else {
                    self.read(cx, peer, stream);
                }
            }
            Event::ResetByPeer { peer, stream, .. } | Event::Finished { peer, stream } => {
                sometimes!("a stream was reset by the peer");
                cx.command(Command::Finish { peer, stream });
            }
            Event::StreamClosed { peer, stream, .. } => {
                self.loose.remove(&(peer, stream));
                self.streams.remove(&(peer, stream));
            }
            Event::PathChanged { .. } => sometimes!("a path changed"),
            _ => {}
        }
    }
}

/// A scenario: what a plan happens to.
pub type Scenario = fn(&Plan) -> Result<World, Failure>;

/// All scenarios by name.
pub const ALL: &[(&str, Scenario)] =
    &[("mesh", mesh), ("pair", pair), ("ciphers", ciphers), ("bus", bus::live), ("two-faults", two_faults)];

/// Marks that a campaign over all scenarios must reach.
pub const REQUIRED: &[&str] = &[
    "a dial failed",
    "a path changed",
    "a stream waits for credit",
    "a stream was reset by the peer",
    "an association ended",
    "two dials met",
];

/// Those that the scenario `bus` must reach.
pub const REQUIRED_OF_BUS: &[&str] = bus::REQUIRED;

/// The scenario of a plan.
pub fn named(name: &str) -> Option<Scenario> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, f)| *f)
}

/// The faults that fit a scenario, for [`Plan::random`].
pub fn swarm(name: &str, nodes: u32, time: Duration) -> Swarm {
    if name == "bus" {
        // Everybody speaks with the engine only.
        let pairs = (1..nodes).map(|n| (bus::ENGINE, n));
        let kinds = [Kind::CRASH, Kind::DISK, &[Kind::Jump]].concat();
        return Swarm::new(name, nodes, time).allow(&kinds).between(pairs);
    }
    let nodes = if matches!(name, "pair" | "ciphers") { 2 } else { nodes };
    let graph = graph(0, nodes);
    let pairs = graph.iter().enumerate().flat_map(|(a, to)| to.iter().map(move |b| (a as u32, *b)));
    let kinds = [Kind::CRASH, Kind::CLOCK, Kind::MOVE].concat();
    Swarm::new(name, nodes, time).allow(&kinds).between(pairs.filter(|(a, b)| a < b).collect::<Vec<_>>())
}

fn graph(seed: u64, nodes: u32) -> Vec<Vec<u32>> {
    // Everybody joined with the next and the one after that; the same for every seed.
    let _ = seed;
    let step = |i: u32, d: u32| (i + d) % nodes.max(1);
    (0..nodes)
        .map(|i| {
            let mut to: Vec<u32> = [1, 2].map(|d| step(i, d)).to_vec();
            to.extend([nodes - 1, nodes.saturating_sub(2)].map(|d| step(i, d)));
            to.retain(|n| *n != i);
            to.sort_unstable();
            to.dedup();
            to
        })
        .collect()
}

/// The settings of each node in a run.
fn tuned(plan: &Plan) -> impl Fn(u32, &mut Config) + use<> {
    let (impatient, narrow) = (is_impatient(plan), is_narrow(plan));
    move |_, node| {
        node.session.keep_alive = Duration::from_millis(500);
        if impatient {
            node.dial_timeout = IMPATIENT;
        }
        if narrow {
            let streams = &mut node.session.streams;
            (streams.local.stream_window, streams.max_stream_window) = (NARROW, NARROW);
            streams.send_buffer = NARROW;
        }
    }
}

/// Every third run has small windows and readers that come late: what is said has to wait.
const fn is_narrow(plan: &Plan) -> bool {
    plan.seed.is_multiple_of(3)
}

/// Every sixth run has readers that leave unread what is not reliable, until all else was heard.
const fn is_picky(plan: &Plan) -> bool {
    plan.seed % 6 == 4
}

/// Every fourth run has dials that end before most faults do.
const fn is_impatient(plan: &Plan) -> bool {
    plan.seed % 4 == 1
}

fn config(plan: &Plan) -> WorldConfig {
    let link = LinkConfig {
        delay: Duration::from_millis(15),
        jitter: Duration::from_millis(3),
        ..LinkConfig::default()
    };
    let mut config = WorldConfig::new(plan.seed).link(link).tune(tuned(plan));
    config.invariants_every = if plan.nodes > 8 { 32 } else { 4 };
    config
}

type Outcome = Result<World, Failure>;

/// Lives a plan in a world of chatters, heals a core and demands that it is whole again.
fn live(plan: &Plan, config: WorldConfig, size: usize, extra: impl FnOnce(&mut World)) -> Outcome {
    let mut world = World::new(config);
    // Who reads late has not taken everything when a flush is answered.
    let delivery = Delivery::default();
    let prompt = !is_narrow(plan) && !is_picky(plan);
    world.check(if prompt { delivery.prompt() } else { delivery });
    world.check(LedgerBalances::default());
    world.check(CreditReturned);
    world.check(Honest);
    world.check(BoundedMemory::new(256 << 20));
    extra(&mut world);
    let (graph, narrow, picky) = (graph(plan.seed, plan.nodes), is_narrow(plan), is_picky(plan));
    world.spawn_each(plan.nodes, move |i| {
        let neighbours = graph.get(i as usize).cloned().unwrap_or_default();
        Chatter::new(neighbours, size).late(narrow).picking(picky)
    });
    let outcome = (|world: &mut World| {
        world.run_plan(plan)?;
        let core = world.heal_core(if plan.seed.is_multiple_of(2) { &Core::All } else { &Core::Majority });
        let linked = |world: &World, a: u32, b: u32| {
            let entity = world.entity(b);
            world.node(a).is_some_and(|n| n.peers().any(|(_, e)| e == entity))
        };
        let near = |a: u32, b: u32, n: u32| a != b && matches!((a + n - b) % n, 1 | 2);
        let nodes = plan.nodes;
        world.eventually(CONVERGE, "the core whole again", |w| {
            core.iter().all(|a| {
                core.iter().filter(|b| near(*a, **b, nodes)).all(|b| linked(w, *a, *b) && linked(w, *b, *a))
            })
        })?;
        // Who says nothing new has everything delivered soon, and both ends know the same streams.
        for node in &core {
            world.with_app(*node, |chatter: &mut Chatter, _| chatter.quiet = true);
        }
        let pairs = core.iter().flat_map(|a| core.iter().map(move |b| (*a, *b)));
        let pairs: Vec<_> = pairs.filter(|(a, b)| near(*a, *b, nodes) || near(*b, *a, nodes)).collect();
        if picky {
            // What nobody reads keeps nothing else waiting.
            world.eventually(CONVERGE, "everything heard that is read", |w| {
                pairs.iter().all(|(a, b)| heard(w, *a, *b, |mode| mode == Mode::Reliable))
            })?;
            for node in 0..world.len() as u32 {
                world.with_app(node, |chatter: &mut Chatter, _| chatter.picks = false);
            }
        }
        world.eventually(CONVERGE, "everything that was said heard", |w| {
            pairs.iter().all(|(a, b)| agree(w, *a, *b))
        })?;
        for node in 0..world.len() as u32 {
            world.with_app(node, Chatter::leave);
        }
        world.eventually(CONVERGE, "everybody gone", |w| {
            core.iter().all(|n| w.node(*n).is_none_or(|n| n.stats().peers == 0))
        })?;
        world.at_end()
    })(&mut world);
    outcome.map(|()| world)
}

/// What one node calls another one.
fn peer(world: &World, at: u32, of: u32) -> Option<Peer> {
    let entity = world.entity(of);
    world.node(at)?.peers().find(|(_, e)| *e == entity).map(|(peer, _)| peer)
}

/// Whether b heard all that a said, on streams of these modes, over the association that stands.
fn heard(world: &World, a: u32, b: u32, modes: fn(Mode) -> bool) -> bool {
    let (Some(to), Some(from)) = (peer(world, a, b), peer(world, b, a)) else { return false };
    let (Some(said), Some(heard)) = (world.app::<Chatter>(a), world.app::<Chatter>(b)) else { return false };
    let all = said.streams.iter().filter(|((p, _), talk)| *p == to && modes(talk.mode));
    let mut all = all.map(|((_, stream), talk)| (stream, talk.said));
    all.all(|(stream, said)| heard.heard_on.get(&(from, *stream)).copied().unwrap_or(0) == said)
}

/// Whether b heard everything that a said reliably over the association that stands, and both count
/// the same streams.
fn agree(world: &World, a: u32, b: u32) -> bool {
    let (Some(to), Some(from)) = (peer(world, a, b), peer(world, b, a)) else { return false };
    let streams = |at: u32, p: Peer| world.node(at).and_then(|n| n.peer_stats(p)).map(|s| s.streams);
    // What is in flight then is a keep-alive or a probe of a size.
    let at_rest = world.node(a).and_then(|n| n.peer_stats(to)).is_some_and(|s| s.in_flight <= AT_REST);
    at_rest && streams(a, to) == streams(b, from) && heard(world, a, b, |mode| mode != Mode::FireAndForget)
}

/// A mesh in which everybody talks with four others.
fn mesh(plan: &Plan) -> Outcome {
    live(plan, config(plan), 300, |_| {})
}

/// Two nodes with larger messages and quick rekeying.
fn pair(plan: &Plan) -> Outcome {
    live(plan, quick(plan), if is_picky(plan) { LARGE } else { 12_000 }, |_| {})
}

/// The same with real ciphers, and an eye on the wire.
fn ciphers(plan: &Plan) -> Outcome {
    let mut config = quick(plan);
    config.real_ciphers = true;
    config.marker = Some(MARKER.to_vec());
    live(plan, config, 4_000, |_| {})
}

fn quick(plan: &Plan) -> WorldConfig {
    let tuned = tuned(plan);
    config(plan).tune(move |place, node| {
        tuned(place, node);
        node.session.keys.rekey_after = Duration::from_secs(2);
    })
}

/// A plan of the scenario `two-faults` with so many faults, of which two make it fail.
pub fn two_faults_among(faults: usize, nodes: u32) -> Plan {
    let secs = Duration::from_secs;
    let mut plan = Plan::quiet("two-faults", 1, nodes, secs(20));
    let swarm = swarm("two-faults", nodes, plan.time).at_most(faults as u32);
    let harmless = |f: &Fault| !matches!(&f.what, What::Crash(_) | What::Link { does: LinkFault::Cut, .. });
    let drawn = (0..).flat_map(|seed| Plan::random(seed, &swarm).faults);
    plan.faults = drawn.filter(harmless).take(faults.saturating_sub(2)).collect();
    plan.faults.push(Fault::new(secs(12), secs(4), What::link(3, 4, LinkFault::Cut)));
    plan.faults.push(Fault::new(secs(13), secs(1), What::Crash(7)));
    plan.faults.sort_by_key(|fault| fault.at);
    plan
}

/// A mesh with a planted failure of two faults: node 7 starts again while 3 cannot reach 4.
fn two_faults(plan: &Plan) -> Outcome {
    live(plan, config(plan), 300, |w| w.check(TwoFaults::default()))
}

/// Fails when a node begins another life while a cut of one link lasts.
#[derive(Debug, Default)]
struct TwoFaults {
    cut: bool,
}

impl Checker for TwoFaults {
    fn name(&self) -> &'static str {
        "two faults"
    }

    fn wants(&self) -> Wants {
        Wants::LIVES | Wants::FAULTS
    }

    fn see(&mut self, _at: Duration, seen: &Seen<'_>) -> Result<(), Broken> {
        match seen {
            Seen::Fault { text, begins, .. } if text.starts_with("cut ") => self.cut = *begins,
            Seen::Started { node, life, .. } if *life > 1 && self.cut => {
                return Err(Broken::at(*node, "began again while a link was cut"));
            }
            _ => {}
        }
        Ok(())
    }
}
