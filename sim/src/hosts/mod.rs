//! L2: up to some twenty machines in turmoil, each with a tokio runtime of its own, for applications
//! that use tokio directly, and for the real tokio driver (feature `turmoil`).
//!
//! A machine's sockets pass the same keyed links as in a [`World`], the same plans happen to it, and the
//! same checkers look on: through the sockets they see datagrams, through the driver every node's
//! commands, events and messages. Time is virtual and moves in milliseconds.
//!
//! ```ignore
//! check("everybody_is_greeted", 10, |s| {
//!     let plan = s.plan(&Swarm::new("greet", 3, s.time(secs(10))).allow(Kind::CRASH));
//!     let mut hosts = s.hosts();
//!     hosts.check(Delivery::default());
//!     hosts.spawn_each(plan.nodes, |machine| my_app(machine.mesh_builder()));   // uses tokio as it likes
//!     hosts.run_plan(&plan)?;
//!     hosts.heal();
//!     hosts.eventually(secs(30), "greetings", |_| all_greeted())?;
//!     hosts.at_end()
//! });
//! ```
//!
//! What would make a run depend on the machine that it runs on: `tokio::select!` without `biased;`
//! ([`unbiased_selects`] finds it), the order of a hash map, `std::time`, threads (`spawn_blocking`
//! among them), real sockets and files. Two processes with one seed have one [`Hosts::trace`], or
//! something of this happened.

mod faults;
mod net;
mod panics;
mod runtime;
mod selects;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use net_proto::identity::{EntityId, Identity, Mesh, MeshId, MeshKey, Ticket};
use net_proto::time::{Duration, nanos};
use net_sdk::MeshBuilder;
use net_shell::runtime::Runtime;

use crate::Sim;
use crate::checkers::{Broken, Checker, Seen, Watch, Wire};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::keyed::{Domain, Rng, below, bytes32, draw};
use crate::net::{LinkConfig, LinkStats};
use crate::residents::Residents;
use crate::trace::Chain;
use crate::world::{Failure, World, WorldConfig};

use net::{Machine as Place, Net, enter, with};
use runtime::HostRuntime;

pub use selects::unbiased_selects;

/// Nothing on a machine's first clock reading is special.
const CLOCK_START: u64 = 1_000_000_000;
/// Datagrams that a socket holds; the links decide what is lost, so turmoil should not.
const CAPACITY: usize = 1 << 16;
/// The port of a machine's mesh.
const PORT: u16 = 7_000;
/// Step of virtual time. Tokio's timers are no finer.
const TICK: Duration = Duration::from_millis(1);

/// How an application ends. An error fails the run.
pub type Outcome = Result<(), Box<dyn Error>>;

type Script = Box<dyn FnOnce(&mut Hosts)>;

impl Sim {
    /// Machines of this seed, none yet.
    pub fn hosts(&self) -> Hosts {
        Hosts::new(self.seed())
    }
}

/// Machines in turmoil.
pub struct Hosts {
    /// Gone only while `self` is dropped.
    sim: Option<turmoil::Sim<'static>>,
    net: Rc<RefCell<Net>>,
    scripts: BTreeMap<(u64, u64), Script>,
    next_script: u64,
}

impl Hosts {
    /// No machines yet. `seed` decides everything that is left to chance.
    pub fn new(seed: u64) -> Self {
        let mut watch = Watch::new(crate::check::record());
        watch.add(Wire::default());
        let net = Net {
            seed,
            now: 0,
            link: LinkConfig::default(),
            links: BTreeMap::new(),
            machines: Vec::new(),
            disks: BTreeMap::new(),
            disk_faults: BTreeMap::new(),
            watch,
            trace: Chain::new(0),
            failure: None,
            faults: Default::default(),
            datagrams: 0,
            steps: 0,
        };
        // Links are ours; what turmoil adds to them is as little as it can.
        let sim = turmoil::Builder::new()
            .rng_seed(seed)
            .epoch(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_767_225_600))
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(1 << 32))
            .min_message_latency(Duration::ZERO)
            .max_message_latency(Duration::ZERO)
            .fail_rate(0.0)
            .udp_capacity(CAPACITY)
            .build();
        panics::take();
        Self { sim: Some(sim), net: Rc::new(RefCell::new(net)), scripts: BTreeMap::new(), next_script: 0 }
    }

    /// Sets the link between machines that were given none of their own. Before the machines.
    #[must_use]
    pub fn link(self, config: LinkConfig) -> Self {
        self.net.borrow_mut().link = config;
        self
    }

    /// Adds a machine and starts an application on it, from its beginning after every crash. When it
    /// returns, what it spawned goes on.
    pub fn spawn<F, Fut>(&mut self, app: F) -> u32
    where
        F: Fn(Machine) -> Fut + 'static,
        Fut: Future<Output = Outcome> + 'static,
    {
        let host = self.len() as u32;
        let name = name(host);
        let app = Rc::new(app);
        let ip = self.place(host, &name);
        let software = move || {
            let app = app.clone();
            async move {
                let machine = Machine { runtime: HostRuntime::here(host), ip };
                let outcome = app(machine).await;
                with(|net| {
                    net.machine(host).done = outcome.is_ok();
                    if let Err(error) = outcome {
                        net.fail(Some(host), format!("the application ended with an error: {error}"));
                    }
                });
                // Turmoil stops a machine whose application returned, with everything that it spawned.
                std::future::pending().await
            }
        };
        let net = self.net.clone();
        let sim = self.sim();
        enter(&net, || sim.host(name, software));
        host
    }

    /// Adds `count` machines with the same application.
    pub fn spawn_each<F, Fut>(&mut self, count: u32, app: F)
    where
        F: Fn(Machine) -> Fut + 'static,
        Fut: Future<Output = Outcome> + 'static,
    {
        let app = Rc::new(app);
        for _ in 0..count {
            let app = app.clone();
            self.spawn(move |machine| app(machine));
        }
    }

    fn place(&mut self, host: u32, name: &str) -> IpAddr {
        let ip = self.sim().lookup(name);
        let IpAddr::V4(v4) = ip else {
            unreachable!("turmoil hands out IPv4 addresses unless told otherwise")
        };
        let mut net = self.net.borrow_mut();
        let seed = net.seed;
        let offset = CLOCK_START + below(draw(seed, Domain::Clock, u64::from(host), 0), 1 << 40);
        net.machines.push(Place {
            ip: v4,
            seen_as: v4,
            shift: 0,
            life: 1,
            running: true,
            done: false,
            clock: Clock::new(offset),
            entropy: 0,
            identity: Identity::from_seed(&bytes32(seed, Domain::Identity, u64::from(host), 0)),
            residents: Residents::default(),
            wakers: BTreeMap::new(),
            next_timer: 0,
        });
        ip
    }

    fn sim(&mut self) -> &mut turmoil::Sim<'static> {
        self.sim.as_mut().expect("it is there until it is dropped")
    }

    /// Turmoil itself, for what an application does over turmoil's own sockets: `partition`, `hold`,
    /// latencies. Machine `n` is called as [`name`] says. Faults of plans do not reach those sockets.
    pub fn turmoil(&mut self) -> &mut turmoil::Sim<'static> {
        self.sim()
    }

    /// Adds a checker. It sees what happens from now on, so add it before the machines. At the end it
    /// is shown an empty world: nodes belong to their drivers here.
    pub fn check(&mut self, checker: impl Checker + 'static) {
        self.net.borrow_mut().watch.add(checker);
    }

    // --- looking

    /// The seed of everything.
    pub fn seed(&self) -> u64 {
        self.net.borrow().seed
    }

    /// Time since the start.
    pub fn now(&self) -> Duration {
        self.net.borrow().at()
    }

    /// How many machines there are, running or not.
    pub fn len(&self) -> usize {
        self.net.borrow().machines.len()
    }

    /// Whether there is no machine.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The hash over every datagram that left or came, every command, event and message of every node,
    /// in order.
    pub fn trace(&self) -> u64 {
        self.net.borrow().trace.hash()
    }

    /// Whether a machine has power.
    pub fn is_running(&self, host: u32) -> bool {
        self.net.borrow().machines[host as usize].running
    }

    /// Whether the application of a machine has returned in its present life.
    pub fn is_done(&self, host: u32) -> bool {
        self.net.borrow().machines[host as usize].done
    }

    /// What the link from one machine to another did.
    pub fn stats_between(&self, from: u32, to: u32) -> LinkStats {
        self.net.borrow_mut().link(from, to).stats
    }

    /// A disk of a machine: what its meshes store in `dir`.
    pub fn disk(&self, host: u32, dir: impl AsRef<std::path::Path>) -> Disk {
        self.net.borrow_mut().disk(host, dir.as_ref())
    }

    // --- changing

    /// Sets both directions between two machines.
    pub fn set_links(&mut self, a: u32, b: u32, config: &LinkConfig) {
        let mut net = self.net.borrow_mut();
        net.link(a, b).config = config.clone().into();
        net.link(b, a).config = config.clone().into();
    }

    /// Stops a machine as a power cut does: its tasks, sockets and unsynced writes are gone.
    pub fn crash(&mut self, host: u32) {
        if !self.is_running(host) {
            return;
        }
        let net = self.net.clone();
        net.borrow_mut().stopped(host);
        let sim = self.sim();
        enter(&net, || panics::listen(|| sim.crash(name(host))));
    }

    /// Starts the application of a machine again, from its beginning.
    pub fn restart(&mut self, host: u32) {
        self.crash(host);
        let net = self.net.clone();
        {
            let mut net = net.borrow_mut();
            let machine = net.machine(host);
            (machine.running, machine.done) = (true, false);
        }
        let sim = self.sim();
        enter(&net, || sim.bounce(name(host)));
    }

    /// Does something at a time since the start.
    pub fn at(&mut self, at: Duration, script: impl FnOnce(&mut Self) + 'static) {
        self.next_script += 1;
        self.scripts.insert((nanos(at), self.next_script), Box::new(script));
    }

    // --- running

    /// Notes a broken promise; the first one ends the run.
    pub fn fail(&mut self, node: Option<u32>, what: impl Into<String>) {
        self.net.borrow_mut().fail(node, what);
    }

    fn outcome(&mut self) -> Result<(), Failure> {
        let mut net = self.net.borrow_mut();
        // First: what broke because of it is a consequence.
        if let Some(panic) = panics::take() {
            net.fail(None, panic);
        }
        if let Some(Broken { node, what }) = net.watch.broken.take() {
            net.fail(node, what);
        }
        net.failure.clone().map_or(Ok(()), Err)
    }

    /// One millisecond.
    pub fn step(&mut self) -> Result<(), Failure> {
        while let Some(entry) = self.scripts.first_entry() {
            if entry.key().0 > self.net.borrow().now {
                break;
            }
            entry.remove()(self);
        }
        let net = self.net.clone();
        let sim = self.sim();
        let stepped = enter(&net, || panics::listen(|| sim.step()));
        {
            let now = nanos(sim.elapsed());
            let mut net = net.borrow_mut();
            (net.now, net.steps) = (now, net.steps + 1);
            net.watch.point(now, net.trace.hash());
        }
        let outcome = self.outcome();
        if let (Ok(()), Err(error)) = (&outcome, stepped) {
            self.fail(None, error.to_string());
            return self.outcome();
        }
        outcome
    }

    /// Runs for a time. Stops at the first failure.
    pub fn run_for(&mut self, time: Duration) -> Result<(), Failure> {
        let end = self.now() + time;
        while self.now() < end {
            self.step()?;
        }
        self.outcome()
    }

    /// Runs until `done` says so, looking after every millisecond; fails after `limit`.
    pub fn eventually(
        &mut self,
        limit: Duration,
        what: &str,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<(), Failure> {
        let end = self.now() + limit;
        while !done(self) {
            if self.now() >= end {
                self.fail(None, format!("{what} did not come true in {limit:?}"));
                return self.outcome();
            }
            self.step()?;
        }
        self.outcome()
    }

    /// The run is over: asks every checker for its last word.
    pub fn at_end(&mut self) -> Result<(), Failure> {
        let (mut checkers, seed) = {
            let mut net = self.net.borrow_mut();
            (net.watch.take_checkers(), net.seed)
        };
        let nobody = World::new(WorldConfig::new(seed));
        for (_, checker) in &mut checkers {
            if let Err(Broken { node, what }) = checker.at_end(&nobody) {
                self.fail(node, format!("{}: {what}", checker.name()));
            }
        }
        self.net.borrow_mut().watch.put_checkers(checkers);
        self.outcome()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let sim = self.sim.take();
        // Tasks give back timers and sockets.
        enter(&self.net.clone(), || drop(sim));
    }
}

/// What a machine is called in turmoil.
pub fn name(host: u32) -> String {
    format!("machine-{host}")
}

/// A machine, as its application sees it.
#[derive(Clone)]
pub struct Machine {
    runtime: HostRuntime,
    ip: IpAddr,
}

impl Machine {
    /// Its number.
    pub const fn index(&self) -> u32 {
        self.runtime.host
    }

    /// Its own address.
    pub const fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Which life it is in, from 1.
    pub fn life(&self) -> u32 {
        with(|net| net.machine(self.index()).life)
    }

    /// Its runtime, for [`MeshBuilder::runtime`] and `net_sdk::rt::enter`.
    pub fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(self.runtime.clone())
    }

    /// A node on this machine: its runtime, an identity of its own that outlives crashes, the mesh of all
    /// machines of the run. Everything can be changed.
    pub fn mesh_builder(&self) -> MeshBuilder {
        let (seed, identity) = with(|net| (net.seed, net.machine(self.index()).identity.clone()));
        let mesh = Mesh {
            id: MeshId(bytes32(seed, Domain::Mesh, 0, 0)),
            key: MeshKey(bytes32(seed, Domain::Mesh, 0, 1)),
        };
        let at = SocketAddr::new(self.ip, PORT);
        net_sdk::Mesh::builder().runtime(self.runtime()).identity(identity).mesh(mesh).bind(at)
    }

    /// Who another machine's node is, if it comes from [`Machine::mesh_builder`], and where it is now.
    pub fn ticket(&self, host: u32) -> Ticket {
        with(|net| Ticket {
            entity: net.machine(host).identity.id(),
            addrs: vec![net.visible(host, PORT).into()],
        })
    }

    /// Who another machine's node is.
    pub fn entity(&self, host: u32) -> EntityId {
        with(|net| net.machine(host).identity.id())
    }

    /// A stream of random numbers for `key`, the same in every run of the seed.
    pub fn rng(&self, key: u64) -> Rng {
        let seed = with(|net| net.seed);
        Rng::new(seed, Domain::Application, u64::from(self.index()) << 32 | key)
    }

    /// Lets checkers and the record know something.
    pub fn note(&self, what: &str, value: u64) {
        let node = self.index();
        with(|net| {
            net.trace.numbers(&[net.now(), u64::from(node), value, 0x071e]);
            net.watch.see(net.at(), &Seen::Note { node, what, value });
        });
    }

    /// Fails the run.
    pub fn fail(&self, what: impl Into<String>) {
        with(|net| net.fail(Some(self.index()), what));
    }
}
