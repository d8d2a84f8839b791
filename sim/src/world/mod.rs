//! The world: one queue of events in virtual time, nodes, links between them, and the checks that
//! hold in every run.
//!
//! Time jumps from event to event: arrivals, the instants that `poll_timeout` names, completions of
//! jobs, timers of applications and the script of the test. Nothing else calls a node, so a
//! deadline that a machine forgets to report shows as a stall.

mod build;
mod faulty;
mod queue;
mod wire;

use std::any::Any;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use net_proto::identity::{EntityId, Identity, Incarnation, Mesh, MeshId, MeshKey};
use net_proto::node::{Command, Config, DEPTHS, Event, Input, JobDone, Node, Transmit};
use net_proto::path::{Ecn, Path, Remote};
use net_proto::session::aead::Portable;
use net_proto::storage::Ticket;
use net_proto::time::{Duration, Instant, Reason, nanos};
use net_shell::runtime::Runtime;

use crate::app::{App, Ctx};
use crate::checkers::{Plaintext, Seen, TimersAhead, Wants, Watch, Wire};
use crate::clock::Clock;
use crate::exec::{Exec, HostRuntime, Outgoing, Ran};
use crate::keyed::{Domain, below, bytes32, chance, draw};
use crate::nat::Nat;
use crate::net::{Link, LinkConfig, LinkStats, Shared};
use crate::null::Null;
use crate::plan::Faults;
use crate::stage::{self, Stage};
use crate::trace::{self, Chain};

use queue::{Entry, Kind, Queue, Slab};

/// Nothing on a node's first clock reading is special, so clocks start here by default.
const CLOCK_START: u64 = 1_000_000_000;
/// GSO batches that a node may send at one instant; more is no protocol.
const MAX_BATCHES: u32 = 20_000;
/// Nodes whose memory is fetched together, before the first of them works.
const WARMED: usize = 8;
/// Address of the first node; the others follow.
const FIRST_ADDR: u32 = 0x0a00_0001;
/// More places than this would have addresses of others, and need more bits in the order of packets.
const MOST_PLACES: u32 = 1 << 22;
/// Port of every node.
const PORT: u16 = 7_000;

/// Changes the settings of a node before it starts.
pub type Tune = Rc<dyn Fn(u32, &mut Config)>;

/// What a world is made of.
#[derive(Clone)]
pub struct WorldConfig {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// The link between two nodes that were given none of their own.
    pub link: LinkConfig,
    /// Real ciphers. Without them tags are checksums, nothing is encrypted, and a run is faster.
    pub real_ciphers: bool,
    /// Fails a run that takes more events than this in one simulated second.
    pub max_events_per_second: u64,
    /// `invariants()` of a node is called after one step in so many; 1 is after each.
    pub invariants_every: u32,
    /// Calls node after node, each for as long as none can learn what another did meanwhile: the
    /// shortest delay of any link. Large worlds are faster by far, as a node's memory is read once for
    /// all that it has to do. Traces are the same; checkers see what two nodes do within that time node
    /// by node. Where it cannot be (address translations, moved nodes, shared links, records) it
    /// is not done. Machines with tasks must meet over the network only: a task that another machine's
    /// wakes fails the run.
    pub by_node: bool,
    /// A job takes a time drawn from this range.
    pub job_time: (Duration, Duration),
    /// No datagram may contain these bytes. Checked with real ciphers only.
    pub marker: Option<Vec<u8>>,
    /// Changes the settings of each node.
    pub tune: Tune,
}

impl WorldConfig {
    /// The usual world of `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            link: LinkConfig::default(),
            real_ciphers: false,
            max_events_per_second: 20_000_000,
            invariants_every: 1,
            by_node: false,
            job_time: (Duration::from_micros(20), Duration::from_micros(300)),
            marker: None,
            tune: Rc::new(|_, _| {}),
        }
    }

    /// Sets the default link.
    pub fn link(mut self, link: LinkConfig) -> Self {
        self.link = link;
        self
    }

    /// Sets what changes the nodes' settings.
    pub fn tune(mut self, tune: impl Fn(u32, &mut Config) + 'static) -> Self {
        self.tune = Rc::new(tune);
        self
    }
}

/// A broken promise: when, where, what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Virtual time since the start of the world.
    pub at: Duration,
    /// The node that it happened at, if at one.
    pub node: Option<u32>,
    /// What.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:?}", self.at)?;
        if let Some(node) = self.node {
            write!(f, ", node {node}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for Failure {}

/// What happened in a world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Events taken from the queue.
    pub events: u64,
    /// Datagrams that nodes sent.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// GSO batches that they were sent in.
    pub batches: u64,
    /// Datagrams that reached a node.
    pub arrived: u64,
    /// Datagrams to an address that nobody has, or to a node that is down.
    pub nowhere: u64,
    /// Jobs done.
    pub jobs: u64,
    /// Calls of nodes for a timer.
    pub timeouts: u64,
}

/// Who an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Node(u32),
    Host(u32),
    Copier(usize),
    Outsider(usize),
}

/// Copies every datagram between two nodes and sends it again from its own address, earlier.
struct Copier {
    between: (u32, u32),
    addr: SocketAddr,
    lead: u64,
    relay: bool,
    /// It leaves data packets alone.
    handshakes_only: bool,
    got: (u64, u64),
}

/// In this order, since every packet needs the first half, and of a thousand places none is in a cache.
#[repr(C)]
struct Place {
    /// What happened here.
    chain: Chain,
    clock: Clock,
    armed: Option<(u64, Reason)>,
    /// Events that it caused for itself, and packets that it sent: they order what is due at one instant.
    causes: u64,
    packets: u64,
    steps: u64,
    app: Option<Box<dyn App>>,
    /// Further addresses of its own.
    also: Vec<SocketAddr>,
    addr: SocketAddr,
    /// What the others see, if there is a NAT in between.
    public: Option<SocketAddr>,
    nat: Option<usize>,
    /// Whether others reach it at its first address, and nothing lies between.
    plain: bool,
    /// Whether it is a machine with tasks, and no bare node.
    machine: bool,
    /// Whether a machine's tasks run.
    powered: bool,
    /// Whether events go to `events` because there is no application.
    bare: bool,
    life: u32,
    /// Dials without an answer.
    dials: u32,
    node: Option<Node>,
    jobs: u64,
    app_timer: Option<u64>,
    events: Vec<Event>,
    identity: Identity,
}

struct Packet {
    /// Names it; zero if no node sent it.
    id: u64,
    /// The node that sent it, if one did.
    from: Option<u32>,
    data: Vec<u8>,
    src: SocketAddr,
    dst: SocketAddr,
    ecn: Ecn,
    to: u32,
    way: Way,
    hop: u32,
}

/// The links between two nodes: one, or a list of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Link(u32),
    Long(u32),
    /// Packets of attackers: no link at all.
    None,
}

type Script = Box<dyn FnOnce(&mut World)>;
type Respawn = Rc<dyn Fn(&mut World, u32)>;

/// A deterministic world of nodes.
pub struct World {
    config: WorldConfig,
    now: u64,
    queue: Queue,
    /// What the test does, by time and order of asking.
    plot: BinaryHeap<Reverse<(u64, u64, u32)>>,
    plots: u64,
    /// Events in the queue that are not wake-ups of nodes.
    pending: usize,
    places: Vec<Place>,
    links: Vec<Link>,
    /// What a link does that was given nothing else.
    usual: Shared,
    /// By node: the ways to others, sorted by their number. A test may make them before the nodes.
    ways: Vec<Vec<(u32, Way)>>,
    /// Ways of several links, or of none.
    long: Vec<Vec<usize>>,
    /// No link is faster than this, in nanoseconds; `None` if links may have changed.
    fastest: Option<u64>,
    /// Whether nodes may be called out of turn.
    by_node: bool,
    /// Looked up only: the order of a hash map is nobody's business.
    owners: HashMap<SocketAddr, Owner>,
    copiers: Vec<Copier>,
    outsiders: Vec<(SocketAddr, Vec<Vec<u8>>)>,
    packets: Slab<Packet>,
    /// With the life of the node that started them.
    jobs: Slab<(u32, Ticket, JobDone)>,
    scripts: Slab<Script>,
    buffers: Vec<Vec<u8>>,
    out: Vec<u8>,
    scratch: Vec<u8>,
    /// What happened at no place in particular.
    chain: Chain,
    stats: Stats,
    second: (u64, u64),
    exec: Arc<Exec>,
    /// Whether any machine has tasks.
    tasks: bool,
    /// Memory for what tasks did.
    ran: Ran,
    failure: Option<Failure>,
    nats: Vec<Nat>,
    nat_of: BTreeMap<IpAddr, usize>,
    /// Machines that are seen at another address than their own.
    machine_seen_at: BTreeMap<IpAddr, u32>,
    pub(crate) faults: Faults<usize>,
    /// How nodes start again after a crash by a plan.
    pub(crate) respawn: BTreeMap<u32, Respawn>,
    pub(crate) watch: Watch,
}

impl World {
    /// An empty world.
    pub fn new(config: WorldConfig) -> Self {
        let mut watch = Watch::new(crate::check::record());
        watch.add(Wire::default());
        watch.add(TimersAhead::default());
        if let (true, Some(marker)) = (config.real_ciphers, &config.marker) {
            watch.add(Plaintext::new(marker));
        }
        Self {
            watch,
            nats: Vec::new(),
            nat_of: BTreeMap::new(),
            machine_seen_at: BTreeMap::new(),
            faults: Faults::default(),
            respawn: BTreeMap::new(),
            exec: Exec::new(config.seed),
            ran: Ran::default(),
            tasks: false,
            by_node: config.by_node,
            usual: config.link.clone().into(),
            config,
            now: 0,
            queue: Queue::new(),
            plot: BinaryHeap::new(),
            plots: 0,
            pending: 0,
            places: Vec::new(),
            links: Vec::new(),
            ways: Vec::new(),
            long: Vec::new(),
            fastest: None,
            owners: HashMap::new(),
            copiers: Vec::new(),
            outsiders: Vec::new(),
            packets: Slab::new(),
            jobs: Slab::new(),
            scripts: Slab::new(),
            buffers: Vec::new(),
            out: vec![0; 65_536],
            scratch: Vec::new(),
            chain: Chain::new(u64::MAX),
            stats: Stats::default(),
            second: (0, 0),
            failure: None,
        }
    }

    // --- looking

    /// The seed of everything.
    pub const fn seed(&self) -> u64 {
        self.config.seed
    }

    /// Time since the start.
    pub const fn now(&self) -> Duration {
        Duration::from_nanos(self.now)
    }

    /// The hash over everything that went into nodes and came out, in order at each node.
    pub fn trace(&self) -> u64 {
        trace::all(self.places.iter().map(|place| place.chain).chain([self.chain]))
    }

    /// What happened.
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// How many nodes there are, running or not.
    pub const fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is no node.
    pub const fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Figures of all links together.
    pub fn link_stats(&self) -> LinkStats {
        let mut sum = LinkStats::default();
        self.links.iter().for_each(|link| sum.add(&link.stats));
        sum
    }

    /// Figures of the link from one node to another (the first, if there are several).
    pub fn stats_between(&self, from: u32, to: u32) -> LinkStats {
        let way = self.known_way(from, to).and_then(|way| self.link_of(way, 0));
        way.map_or_else(LinkStats::default, |link| self.links[link].stats)
    }

    /// A node, if it runs.
    pub fn node(&self, place: u32) -> Option<&Node> {
        self.places[place as usize].node.as_ref()
    }

    pub(crate) fn node_mut(&mut self, place: u32) -> Option<&mut Node> {
        self.places[place as usize].node.as_mut()
    }

    /// The application of a node, if it is of type `T`.
    pub fn app<T: App>(&self, place: u32) -> Option<&T> {
        let app: &dyn Any = self.places[place as usize].app.as_deref()?;
        app.downcast_ref()
    }

    /// Calls the application of a node from the test.
    pub fn with_app<T: App, R>(
        &mut self,
        place: u32,
        f: impl FnOnce(&mut T, &mut Ctx<'_>) -> R,
    ) -> Option<R> {
        let mut app = self.places[place as usize].app.take()?;
        let any: &mut dyn Any = app.as_mut();
        let out = any.downcast_mut::<T>().map(|app| f(app, &mut Ctx { world: self, me: place }));
        self.places[place as usize].app = Some(app);
        self.settle(place);
        out
    }

    /// Events of a node without an application, oldest first; they are handed out once.
    pub fn take_events(&mut self, place: u32) -> Vec<Event> {
        std::mem::take(&mut self.places[place as usize].events)
    }

    /// The identity of a node.
    pub fn entity(&self, place: u32) -> EntityId {
        self.places[place as usize].identity.id()
    }

    /// Where others reach a node.
    pub fn addr(&self, place: u32) -> SocketAddr {
        let place = &self.places[place as usize];
        place.public.unwrap_or(place.addr)
    }

    /// A path to a node, to dial.
    pub fn path_to(&self, place: u32) -> Path {
        Path::udp(self.addr(place))
    }

    /// What a node's clock says.
    pub fn local_now(&self, place: u32) -> Instant {
        Instant::from_nanos(self.places[place as usize].local(self.now))
    }

    pub(crate) const fn real_ciphers(&self) -> bool {
        self.config.real_ciphers
    }

    /// Whether a node or a machine runs.
    pub fn is_up(&self, place: u32) -> bool {
        let p = &self.places[place as usize];
        p.node.is_some() || p.powered
    }

    // --- running

    /// Notes a broken promise; the first one ends the run.
    pub fn fail(&mut self, node: Option<u32>, what: impl Into<String>) {
        let at = self.now();
        self.failure.get_or_insert_with(|| Failure { at, node, what: what.into() });
    }

    /// The first broken promise, if there is one.
    fn outcome(&mut self) -> Result<(), Failure> {
        if self.tasks
            && let Some((node, what)) = self.exec.failure()
        {
            self.fail(node, what);
        }
        if let Some(broken) = self.watch.broken.take() {
            self.fail(broken.node, broken.what);
        }
        match &self.failure {
            None => Ok(()),
            Some(failure) => Err(failure.clone()),
        }
    }

    /// Gives a command to a node and lets it work.
    pub fn command(&mut self, place: u32, command: Command) {
        self.input(place, Input::Command(command));
        self.settle(place);
    }

    /// Runs for a time. Stops at the first failure.
    pub fn run_for(&mut self, time: Duration) -> Result<(), Failure> {
        let end = self.now + nanos(time);
        while self.peek().is_some_and(|at| at <= end) {
            match self.window(end + 1) {
                Some(until) => self.run_window(until)?,
                None => self.step()?,
            }
        }
        self.now = end;
        self.outcome()
    }

    /// Runs until `done` says so, looking once a simulated millisecond; fails after `limit`.
    pub fn eventually(
        &mut self,
        limit: Duration,
        what: &str,
        mut done: impl FnMut(&World) -> bool,
    ) -> Result<(), Failure> {
        let end = self.now + nanos(limit);
        let mut look = 0;
        loop {
            if self.now >= look {
                if done(self) {
                    return self.outcome();
                }
                look = self.now + 1_000_000;
            }
            if self.peek().is_none_or(|at| at > end) {
                if done(self) {
                    return self.outcome();
                }
                self.now = self.now.max(end);
                self.fail(None, format!("{what} did not come true in {limit:?}"));
            } else {
                self.step()?;
            }
            if let Some(failure) = &self.failure {
                return Err(failure.clone());
            }
        }
    }

    /// Runs until nothing is on its way and nodes wait for nothing but their slow clocks (keep-alive,
    /// rekey, expiry); fails after `limit`.
    pub fn drive(&mut self, limit: Duration) -> Result<(), Failure> {
        let end = self.now + nanos(limit);
        while !self.is_idle() {
            if self.peek().is_none_or(|at| at > end) {
                self.fail(None, format!("not idle after {limit:?}"));
                break;
            }
            self.step()?;
        }
        self.outcome()
    }

    fn is_idle(&self) -> bool {
        let slow = |reason| {
            use Reason::*;
            matches!(reason, Expiry | KeepAlive | Dead | Rekey | SizeProbe | Redial | Closing)
        };
        self.pending == 0 && self.places.iter().all(|p| p.armed.is_none_or(|(_, reason)| slow(reason)))
    }

    /// When something happens next.
    fn peek(&mut self) -> Option<u64> {
        let plot = self.plot.peek().map(|Reverse((at, ..))| *at);
        let entry = self.queue.peek().map(|entry| entry.at);
        [plot, entry].into_iter().flatten().min()
    }

    /// Something of its own happens to a place.
    fn push(&mut self, at: u64, place: u32, kind: Kind) {
        self.pending += usize::from(kind != Kind::Wake);
        let tie = match self.places.get_mut(place as usize) {
            Some(p) => {
                p.causes += 1;
                p.causes
            }
            None => 0,
        };
        self.enter(Entry { at, place, tie, kind });
    }

    /// A packet comes to a place, or to a link on the way there.
    fn push_packet(&mut self, at: u64, packet: Packet) {
        self.pending += 1;
        // After what the place itself does, in the order of the senders' numbers.
        let tie = match packet.from {
            Some(from) => {
                let p = &mut self.places[from as usize];
                p.packets += 1;
                1 << 63 | u64::from(from) << 40 | p.packets
            }
            None => {
                self.plots += 1;
                u64::MAX << 40 | self.plots
            }
        };
        let place = packet.to;
        let kind = Kind::Packet(self.packets.put(packet));
        self.enter(Entry { at, place, tie, kind });
    }

    fn enter(&mut self, entry: Entry) {
        if !self.queue.push(entry) {
            self.fail(Some(entry.place), "internal: called ahead of what another node did");
        }
    }

    /// Until when nodes may be called one after the other, if for a while.
    fn window(&mut self, end: u64) -> Option<u64> {
        // What the test woke between two steps runs after the next one, whosever turn that is.
        if !self.by_node || self.watch.records() || self.tasks && self.exec.has_work() {
            return None;
        }
        let first = self.queue.peek()?.at;
        let plot = self.plot.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
        let fastest = match self.fastest {
            Some(fastest) => fastest,
            None => {
                let delays = self.links.iter().map(|link| &link.config).chain([&self.usual]);
                let least = delays.map(|config| nanos(config.delay)).min().unwrap_or(0);
                *self.fastest.insert(least)
            }
        };
        // Rates are limited by the second.
        let second = (first / 1_000_000_000 + 1) * 1_000_000_000;
        let until = end.min(plot).min(second).min(first.saturating_add(fastest));
        (until > first + 1_000_000).then_some(until)
    }

    /// Has the memory fetched that the next nodes will need: of all of them at once, as `Node::warm` says.
    /// Returns the last of these nodes.
    fn warm(&self, until: u64) -> Option<u32> {
        let mut sum = 0u64;
        for depth in 0..DEPTHS {
            let mut last = None;
            for entry in self.queue.coming(WARMED) {
                let Some(p) = self.places.get(entry.place as usize) else { continue };
                let Some(node) = &p.node else { continue };
                if last.replace(entry.place) != Some(entry.place) {
                    sum = sum.wrapping_add(node.warm_due(depth, Instant::from_nanos(p.local(until))));
                }
                if let Kind::Packet(slot) = entry.kind
                    && let Some(packet) = self.packets.get(slot)
                {
                    sum = sum.wrapping_add(node.warm(depth, &packet.data));
                    // An answer goes back the way that the packet came.
                    if depth + 1 == DEPTHS
                        && let Some(way) = packet.from.and_then(|from| self.known_way(entry.place, from))
                        && let Some(link) = self.link_of(way, 0)
                    {
                        sum = sum.wrapping_add(self.links[link].stats.offered);
                    }
                }
            }
        }
        std::hint::black_box(sum);
        self.queue.coming(WARMED).last().map(|entry| entry.place)
    }

    /// Does everything before `until`, node by node.
    fn run_window(&mut self, until: u64) -> Result<(), Failure> {
        self.queue.open(until);
        let mut warm = None;
        loop {
            if self.queue.coming(1).next().is_some_and(|entry| Some(entry.place) > warm) {
                warm = self.warm(until);
            }
            let Some(entry) = self.queue.pop() else { break };
            self.happen(entry);
            if self.tasks && self.exec.has_work() {
                self.run_tasks(Some(entry.place));
            }
            if self.failure.is_some() || self.watch.broken.is_some() {
                self.queue.close();
                break;
            }
        }
        self.outcome()
    }

    /// Takes one event.
    pub fn step(&mut self) -> Result<(), Failure> {
        let due = self.queue.peek().map_or(u64::MAX, |entry| entry.at);
        match self.plot.peek() {
            // What the test does at an instant comes first.
            Some(Reverse((at, _, slot))) if *at <= due => {
                let (at, slot) = (*at, *slot);
                self.plot.pop();
                self.pending -= 1;
                self.now = at;
                self.stats.events += 1;
                self.watch_rate();
                let script = self.scripts.take(slot);
                script(self);
            }
            _ => {
                let Some(entry) = self.queue.pop() else { return Ok(()) };
                self.happen(entry);
            }
        }
        if self.tasks && self.exec.has_work() {
            self.run_tasks(None);
        }
        if self.watch.records() {
            self.watch.point(self.now, self.trace());
        }
        self.outcome()
    }

    fn happen(&mut self, Entry { at, place, kind, .. }: Entry) {
        self.pending -= usize::from(kind != Kind::Wake);
        self.now = at;
        self.stats.events += 1;
        self.watch_rate();
        match kind {
            Kind::Packet(slot) => self.travel(slot),
            Kind::Wake => {
                if self.places[place as usize].armed.is_some_and(|(armed, _)| armed == at) {
                    self.places[place as usize].armed = None;
                    self.wake(place);
                }
            }
            Kind::Job(slot) => {
                let (life, ticket, done) = self.jobs.take(slot);
                if self.places[place as usize].life == life {
                    self.stats.jobs += 1;
                    self.input(place, Input::Job(ticket, done));
                    self.settle(place);
                }
            }
            Kind::Start(life) => {
                if self.places[place as usize].life == life {
                    self.call_app(place, |app, cx| app.on_start(cx));
                    self.settle(place);
                }
            }
            Kind::AppTimer => {
                if self.places[place as usize].app_timer == Some(at) {
                    self.places[place as usize].app_timer = None;
                    self.call_app(place, |app, cx| app.on_timer(cx));
                    self.settle(place);
                }
            }
            // They run at the end of the step.
            Kind::Tasks => self.exec.call(at, place),
        }
    }

    /// The node is called only if its deadline has come; one that moved is armed again.
    fn wake(&mut self, place: u32) {
        let local = self.local_now(place);
        match self.node(place).and_then(Node::poll_timeout) {
            Some((at, reason)) if at > local => self.arm(place, at, reason),
            Some(_) => {
                self.stats.timeouts += 1;
                self.input(place, Input::Timeout);
                self.settle(place);
            }
            None => {}
        }
    }

    fn watch_rate(&mut self) {
        let second = self.now / 1_000_000_000;
        if self.second.0 != second {
            self.second = (second, 0);
        }
        self.second.1 += 1;
        if self.second.1 > self.config.max_events_per_second {
            let limit = self.config.max_events_per_second;
            self.fail(None, format!("no livelock: more than {limit} events in one simulated second"));
        }
    }

    fn call_app(&mut self, place: u32, f: impl FnOnce(&mut dyn App, &mut Ctx<'_>)) {
        if let Some(mut app) = self.places[place as usize].app.take() {
            f(app.as_mut(), &mut Ctx { world: self, me: place });
            self.places[place as usize].app = Some(app);
        }
    }

    pub(crate) fn app_timer(&mut self, place: u32, after: Duration) {
        let at = self.now + nanos(after);
        self.places[place as usize].app_timer = Some(at);
        self.push(at, place, Kind::AppTimer);
    }

    /// Every input of every node passes here.
    pub(crate) fn input(&mut self, place: u32, input: Input<'_>) {
        let p = &mut self.places[place as usize];
        let now = Instant::from_nanos(p.local(self.now));
        let Some(node) = &mut p.node else { return };
        match &input {
            Input::Datagram { path, ecn, data } => {
                p.chain.numbers(&[self.now, 1 | (*ecn as u64) << 8, path_number(path)]);
                p.chain.bytes(data);
            }
            Input::Timeout => p.chain.numbers(&[self.now, 2]),
            Input::Job(ticket, _) => p.chain.numbers(&[self.now, 3, ticket.0]),
            Input::Command(command) => {
                p.chain.numbers(&[self.now, 4]);
                self.scratch.clear();
                let bytes = postcard::to_extend(command, std::mem::take(&mut self.scratch));
                self.scratch = bytes.expect("a command serialises");
                p.chain.bytes(&self.scratch);
                p.dials += u32::from(matches!(command, Command::Dial { .. }));
                self.watch.see(Duration::from_nanos(self.now), &Seen::Command { node: place, command });
            }
            _ => p.chain.numbers(&[self.now, 5]),
        }
        node.handle(now, input);
    }

    /// Lets a node work until it waits: events to the application, jobs out, datagrams out, timers.
    pub(crate) fn settle(&mut self, place: u32) {
        let index = place as usize;
        let (mut silent, mut batches) = (0, 0);
        for turn in 0.. {
            let local = self.local_now(place);
            let mut moved = false;
            while let Some((ticket, job)) = self.node_mut(place).and_then(Node::poll_job) {
                moved = true;
                self.start_job(place, ticket, crate::memo::run(job));
            }
            while let Some(event) = self.node_mut(place).and_then(Node::poll_event) {
                moved = true;
                self.event(place, event);
            }
            let mut out = std::mem::take(&mut self.out);
            while let Some(transmit) = self.node_mut(place).and_then(|n| n.poll_transmit(local, &mut out)) {
                moved = true;
                batches += 1;
                self.send(place, &transmit, &out);
                if batches > MAX_BATCHES {
                    self.fail(
                        Some(place),
                        format!("no livelock: more than {MAX_BATCHES} batches at one instant"),
                    );
                }
                if self.failure.is_some() || self.watch.broken.is_some() {
                    break;
                }
            }
            self.out = out;
            let Some(node) = &mut self.places[index].node else { return };
            let Some((at, reason)) = node.poll_timeout() else { break };
            if at > local {
                self.arm(place, at, reason);
                break;
            }
            silent = if moved { 0 } else { silent + 1 };
            let again = Seen::Again { node: place, turn, silent, wants: (at, reason), now: local };
            self.watch.see(Duration::from_nanos(self.now), &again);
            let _ = self.outcome();
            if self.failure.is_some() {
                return;
            }
            self.stats.timeouts += 1;
            self.input(place, Input::Timeout);
        }
        let p = &mut self.places[index];
        p.steps += 1;
        let every = u64::from(self.config.invariants_every.max(1));
        let sampled = every == 1
            || below(draw(self.config.seed, Domain::Sample, u64::from(place), p.steps), every) == 0;
        if let (true, Some(node)) = (sampled, &p.node) {
            node.invariants();
        }
        if let (true, Some(machine)) = (self.watch.wants(Wants::WORKED), &p.node) {
            let at = Duration::from_nanos(self.now);
            self.watch.see(at, &Seen::Worked { node: place, machine });
        }
    }

    fn arm(&mut self, place: u32, at: Instant, reason: Reason) {
        if at == Instant::FAR {
            return;
        }
        let p = &mut self.places[place as usize];
        let wake = p.world_time(at).max(self.now + 1);
        if p.armed.is_none_or(|(armed, _)| wake < armed) {
            p.armed = Some((wake, reason));
            self.push(wake, place, Kind::Wake);
        } else if let Some((_, of)) = &mut p.armed {
            // The wake-up that stands may be early; what it is for must be right for `drive`.
            *of = reason;
        }
    }

    fn start_job(&mut self, place: u32, ticket: Ticket, done: JobDone) {
        let p = &mut self.places[place as usize];
        p.jobs += 1;
        let (low, high) = self.config.job_time;
        let spread = nanos(high).saturating_sub(nanos(low)) + 1;
        let took = nanos(low) + below(draw(self.config.seed, Domain::Job, u64::from(place), p.jobs), spread);
        let slot = self.jobs.put((p.life, ticket, done));
        self.push(self.now + took, place, Kind::Job(slot));
    }

    fn event(&mut self, place: u32, event: Event) {
        let p = &mut self.places[place as usize];
        p.chain.numbers(&[self.now, 6]);
        self.scratch.clear();
        let bytes = postcard::to_extend(&event, std::mem::take(&mut self.scratch));
        self.scratch = bytes.expect("an event serialises");
        p.chain.bytes(&self.scratch);
        if let Event::Connected { dial: Some(_), .. } | Event::DialFailed { .. } = &event {
            p.dials = p.dials.saturating_sub(1);
        }
        self.watch.see(self.now(), &Seen::Event { node: place, event: &event });
        if let Event::Connected { path, .. } | Event::PathChanged { path, .. } = &event
            && let Some(addr) = path.udp_addr()
        {
            self.refuse_attackers(place, addr);
        }
        if self.places[place as usize].bare {
            self.places[place as usize].events.push(event);
        } else {
            self.call_app(place, |app, cx| app.on_event(cx, event));
        }
    }

    /// An address became a path of a node.
    fn refuse_attackers(&mut self, node: u32, addr: SocketAddr) {
        if !matches!(self.owner_of(&addr), None | Some(Owner::Node(_) | Owner::Host(_))) {
            self.fail(Some(node), format!("an attacker's address became the path: {addr}"));
        }
    }

    /// Whether a keyed chance of `ppm` comes true for `n`; for scripts of tests.
    pub fn chance(&self, key: u64, n: u64, ppm: u32) -> bool {
        chance(draw(self.seed(), Domain::Plan, key, n), ppm)
    }
}

impl Drop for World {
    /// Tells the run what happened, so that it can be lived again and compared.
    fn drop(&mut self) {
        let chains = self.places.iter().map(|place| place.chain.hash());
        crate::check::lived(self.tasks, || chains.chain([self.chain.hash()]).collect());
    }
}

impl Place {
    /// World time to the node's clock.
    fn local(&self, now: u64) -> u64 {
        self.clock.read(now)
    }

    /// The first world time at which the node's clock reads at least `at`.
    fn world_time(&self, at: Instant) -> u64 {
        self.clock.world_time(at.as_nanos())
    }
}

fn path_number(path: &Path) -> u64 {
    let Some(addr) = path.udp_addr() else { return u64::MAX };
    match addr.ip() {
        IpAddr::V4(ip) => u64::from(u32::from(ip)) << 16 | u64::from(addr.port()),
        IpAddr::V6(ip) => {
            let bits = u128::from(ip);
            crate::keyed::mix((bits >> 64) as u64 ^ crate::keyed::mix(bits as u64)) ^ u64::from(addr.port())
        }
    }
}

/// The address that a node has at first.
pub fn default_addr(place: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(FIRST_ADDR + place)), PORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls itself again and again, a microsecond later.
    struct Busy;

    impl App for Busy {
        fn on_start(&mut self, cx: &mut Ctx<'_>) {
            cx.wake_in(Duration::from_micros(1));
        }

        fn on_event(&mut self, _: &mut Ctx<'_>, _: Event) {}

        fn on_timer(&mut self, cx: &mut Ctx<'_>) {
            self.on_start(cx);
        }
    }

    #[test]
    fn more_events_than_allowed_fail_the_run() {
        let run = |limit| {
            let mut world = World::new(WorldConfig { max_events_per_second: limit, ..WorldConfig::new(1) });
            world.spawn(Busy);
            world.run_for(Duration::from_millis(10))
        };
        assert_eq!(run(20_000), Ok(()));
        assert!(run(5_000).unwrap_err().what.contains("livelock"));
    }
}
