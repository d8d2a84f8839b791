//! The world: one queue of events in virtual time, nodes, links between them, and the checks that
//! hold in every run.
//!
//! Time jumps from event to event: arrivals, the instants that `poll_timeout` names, completions of
//! jobs, timers of applications and the script of the test. Nothing else calls a node, so a
//! deadline that a machine forgets to report shows as a stall.

mod build;
mod queue;
mod wire;

use std::any::Any;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use net_proto::identity::{EntityId, Identity, Incarnation, Mesh, MeshId, MeshKey};
use net_proto::node::{Command, Config, Event, Input, JobDone, Node, Transmit};
use net_proto::path::{Ecn, Path, Remote};
use net_proto::session::aead::Portable;
use net_proto::storage::Ticket;
use net_proto::time::{Duration, Instant, Reason, nanos};
use net_shell::runtime::Runtime;

use crate::app::{App, Ctx};
use crate::exec::{Exec, HostRuntime, Ran};
use crate::guard::Guard;
use crate::keyed::{Domain, below, bytes32, chance, draw};
use crate::net::{Link, LinkConfig, LinkStats};
use crate::null::Null;
use crate::trace::Trace;

use queue::{Entry, Slab};

/// Nothing on a node's first clock reading is special, so clocks start here by default.
const CLOCK_START: u64 = 1_000_000_000;
/// Silent turns in a row at one instant after which a timer counts as stuck.
const SILENT_TURNS: u32 = 16;
/// Turns at one instant after which a node counts as spinning.
const MAX_TURNS: u32 = 100_000;
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

struct Place {
    node: Option<Node>,
    app: Option<Box<dyn App>>,
    /// Whether events go to `events` because there is no application.
    bare: bool,
    events: Vec<Event>,
    identity: Identity,
    life: u32,
    addr: SocketAddr,
    /// What the others see, if there is a NAT in between.
    public: Option<SocketAddr>,
    clock_offset: u64,
    clock_ppm: i32,
    armed: Option<(u64, Reason)>,
    app_timer: Option<u64>,
    steps: u64,
    jobs: u64,
    guard: Guard,
}

struct Packet {
    data: Vec<u8>,
    src: SocketAddr,
    dst: SocketAddr,
    ecn: Ecn,
    to: u32,
    route: usize,
    hop: usize,
}

enum Kind {
    Packet(usize),
    Wake(u32),
    Job { place: u32, life: u32, slot: usize },
    Start { place: u32, life: u32 },
    AppTimer(u32),
    Tasks,
    Script(usize),
}

type Script = Box<dyn FnOnce(&mut World)>;

/// A deterministic world of nodes.
pub struct World {
    config: WorldConfig,
    now: u64,
    seq: u64,
    queue: BinaryHeap<Reverse<Entry>>,
    /// Events in the queue that are not wake-ups of nodes.
    pending: usize,
    places: Vec<Place>,
    links: Vec<Link>,
    routes: Vec<Vec<usize>>,
    route_of: BTreeMap<(u32, u32), usize>,
    owners: BTreeMap<SocketAddr, Owner>,
    copiers: Vec<Copier>,
    outsiders: Vec<(SocketAddr, Vec<Vec<u8>>)>,
    packets: Slab<Packet>,
    jobs: Slab<(Ticket, JobDone)>,
    scripts: Slab<Script>,
    buffers: Vec<Vec<u8>>,
    out: Vec<u8>,
    scratch: Vec<u8>,
    trace: Trace,
    stats: Stats,
    second: (u64, u64),
    exec: Arc<Exec>,
    /// When tasks are to run next.
    exec_at: Option<u64>,
    failure: Option<Failure>,
}

impl World {
    /// An empty world.
    pub fn new(config: WorldConfig) -> Self {
        Self {
            exec: Exec::new(config.seed),
            exec_at: None,
            config,
            now: 0,
            seq: 0,
            queue: BinaryHeap::new(),
            pending: 0,
            places: Vec::new(),
            links: Vec::new(),
            routes: Vec::new(),
            route_of: BTreeMap::new(),
            owners: BTreeMap::new(),
            copiers: Vec::new(),
            outsiders: Vec::new(),
            packets: Slab::new(),
            jobs: Slab::new(),
            scripts: Slab::new(),
            buffers: Vec::new(),
            out: vec![0; 65_536],
            scratch: Vec::new(),
            trace: Trace::default(),
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

    /// The hash over everything that went into nodes and came out, in order.
    pub const fn trace(&self) -> u64 {
        self.trace.hash()
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
        let route = self.route_of.get(&(from, to));
        route.map_or_else(LinkStats::default, |route| self.links[self.routes[*route][0]].stats)
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

    // --- running

    /// Notes a broken promise; the first one ends the run.
    pub fn fail(&mut self, node: Option<u32>, what: impl Into<String>) {
        let at = self.now();
        self.failure.get_or_insert_with(|| Failure { at, node, what: what.into() });
    }

    /// The first broken promise, if there is one.
    fn outcome(&mut self) -> Result<(), Failure> {
        if let Some((node, what)) = self.exec.failure() {
            self.fail(node, what);
        }
        self.failure.clone().map_or(Ok(()), Err)
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
            self.step()?;
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

    fn peek(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse(entry)| entry.at)
    }

    fn push(&mut self, at: u64, kind: Kind) {
        self.pending += usize::from(!matches!(kind, Kind::Wake(_)));
        self.seq += 1;
        self.queue.push(Reverse(Entry { at, seq: self.seq, kind }));
    }

    /// Takes one event.
    pub fn step(&mut self) -> Result<(), Failure> {
        let Some(Reverse(Entry { at, kind, .. })) = self.queue.pop() else { return Ok(()) };
        self.pending -= usize::from(!matches!(kind, Kind::Wake(_)));
        self.now = at;
        self.stats.events += 1;
        self.watch_rate();
        match kind {
            Kind::Packet(slot) => self.travel(slot),
            Kind::Wake(place) => {
                if self.places[place as usize].armed.is_some_and(|(armed, _)| armed == at) {
                    self.places[place as usize].armed = None;
                    self.wake(place);
                }
            }
            Kind::Job { place, life, slot } => {
                let (ticket, done) = self.jobs.take(slot);
                if self.places[place as usize].life == life {
                    self.stats.jobs += 1;
                    self.input(place, Input::Job(ticket, done));
                    self.settle(place);
                }
            }
            Kind::Start { place, life } => {
                if self.places[place as usize].life == life {
                    self.call_app(place, |app, cx| app.on_start(cx));
                    self.settle(place);
                }
            }
            Kind::AppTimer(place) => {
                if self.places[place as usize].app_timer == Some(at) {
                    self.places[place as usize].app_timer = None;
                    self.call_app(place, |app, cx| app.on_timer(cx));
                    self.settle(place);
                }
            }
            Kind::Tasks => self.run_tasks(),
            Kind::Script(slot) => {
                let script = self.scripts.take(slot);
                script(self);
            }
        }
        if self.exec.has_work() {
            self.run_tasks();
        }
        self.outcome()
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
            self.fail(None, format!("livelock: more than {limit} events in one simulated second"));
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
        self.push(at, Kind::AppTimer(place));
    }

    /// Every input of every node passes here.
    pub(crate) fn input(&mut self, place: u32, input: Input<'_>) {
        let p = &mut self.places[place as usize];
        let Some(node) = &mut p.node else { return };
        let now = Instant::from_nanos(p.clock_offset + drifted(self.now, p.clock_ppm));
        let head = |kind| [self.now, u64::from(place), kind];
        match &input {
            Input::Datagram { path, ecn, data } => {
                self.trace.numbers(&head(1));
                self.trace.numbers(&[u64::from(*ecn as u8), path_number(path)]);
                self.trace.bytes(data);
            }
            Input::Timeout => self.trace.numbers(&head(2)),
            Input::Job(ticket, _) => self.trace.numbers(&[self.now, u64::from(place), 3, ticket.0]),
            Input::Command(command) => {
                self.trace.numbers(&head(4));
                self.scratch.clear();
                let bytes = postcard::to_extend(command, std::mem::take(&mut self.scratch));
                self.scratch = bytes.expect("a command serialises");
                self.trace.bytes(&self.scratch);
                if let Command::Dial { paths, .. } = command {
                    paths.iter().filter_map(Path::udp_addr).for_each(|addr| p.guard.trust(addr));
                }
            }
            _ => self.trace.numbers(&head(5)),
        }
        node.handle(now, input);
    }

    /// Lets a node work until it waits: events to the application, jobs out, datagrams out, timers.
    pub(crate) fn settle(&mut self, place: u32) {
        let index = place as usize;
        let mut silent = 0;
        for turn in 0.. {
            let local = self.local_now(place);
            let mut moved = false;
            while let Some((ticket, job)) = self.node_mut(place).and_then(Node::poll_job) {
                moved = true;
                self.start_job(place, ticket, job.run());
            }
            while let Some(event) = self.node_mut(place).and_then(Node::poll_event) {
                moved = true;
                self.event(place, event);
            }
            let mut out = std::mem::take(&mut self.out);
            while let Some(transmit) = self.node_mut(place).and_then(|n| n.poll_transmit(local, &mut out)) {
                moved = true;
                self.send(place, &transmit, &out);
                if self.failure.is_some() {
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
            if silent > SILENT_TURNS {
                self.fail(Some(place), format!("timer {reason:?} stands at {at:?}, now is {local:?}"));
            } else if turn > MAX_TURNS {
                self.fail(Some(place), format!("never waits; last asked for {reason:?}"));
            }
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
    }

    fn arm(&mut self, place: u32, at: Instant, reason: Reason) {
        if at == Instant::FAR {
            return;
        }
        let p = &mut self.places[place as usize];
        let wake = p.world_time(at).max(self.now + 1);
        if p.armed.is_none_or(|(armed, _)| wake < armed) {
            p.armed = Some((wake, reason));
            self.push(wake, Kind::Wake(place));
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
        let life = p.life;
        let slot = self.jobs.put((ticket, done));
        self.push(self.now + took, Kind::Job { place, life, slot });
    }

    fn event(&mut self, place: u32, event: Event) {
        self.trace.numbers(&[self.now, u64::from(place), 6]);
        self.scratch.clear();
        let bytes = postcard::to_extend(&event, std::mem::take(&mut self.scratch));
        self.scratch = bytes.expect("an event serialises");
        self.trace.bytes(&self.scratch);
        if let Event::Connected { path, .. } | Event::PathChanged { path, .. } = &event
            && let Some(addr) = path.udp_addr()
        {
            self.places[place as usize].guard.trust(addr);
            if !matches!(self.owners.get(&addr), None | Some(Owner::Node(_) | Owner::Host(_))) {
                self.fail(Some(place), format!("an attacker's address became the path: {event:?}"));
            }
        }
        if self.places[place as usize].bare {
            self.places[place as usize].events.push(event);
        } else {
            self.call_app(place, |app, cx| app.on_event(cx, event));
        }
    }

    /// Whether a keyed chance of `ppm` comes true for `n`; for scripts of tests.
    pub fn chance(&self, key: u64, n: u64, ppm: u32) -> bool {
        chance(draw(self.seed(), Domain::Plan, key, n), ppm)
    }
}

impl Place {
    /// World time to the node's clock.
    fn local(&self, now: u64) -> u64 {
        self.clock_offset + drifted(now, self.clock_ppm)
    }

    /// The first world time at which the node's clock reads at least `at`.
    fn world_time(&self, at: Instant) -> u64 {
        let target = at.as_nanos().saturating_sub(self.clock_offset);
        if self.clock_ppm == 0 {
            return target;
        }
        let scaled = u128::from(target) * 1_000_000 / (1_000_000 + i128::from(self.clock_ppm)) as u128;
        let mut world = u64::try_from(scaled).unwrap_or(u64::MAX).saturating_sub(2);
        while drifted(world, self.clock_ppm) < target {
            world += 1;
        }
        world
    }
}

fn drifted(now: u64, ppm: i32) -> u64 {
    if ppm == 0 { now } else { (i128::from(now) + i128::from(now) * i128::from(ppm) / 1_000_000) as u64 }
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
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0x0a00_0001 + place)), PORT)
}

fn contains(data: &[u8], marker: &[u8]) -> bool {
    let Some(first) = marker.first() else { return false };
    let mut rest = data;
    while let Some(at) = rest.iter().position(|b| b == first) {
        if rest[at..].starts_with(marker) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}
