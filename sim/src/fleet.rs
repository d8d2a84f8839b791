//! Users' asynchronous applications as a fleet: one on every machine of a topology, under faults that the
//! seed draws, restarted after crashes, then healed and asked whether they agree.
//!
//! The application is the function that `main` calls, with the builder that it is given.
//!
//! ```no_run
//! # use net_sim::{Topology, check, plan::Kind};
//! # use net_sdk::MeshBuilder;
//! # use std::time::Duration;
//! # #[derive(Clone, Default)] struct Counter;
//! # impl Counter { async fn run(self, _: MeshBuilder) {} fn total(&self) -> u64 { 0 } }
//! check("counter", 20, |s| {
//!     let mut fleet = s.fleet(Topology::Line(3));
//!     fleet.spawn_all(|seat| {
//!         let counter = Counter::default();
//!         (counter.clone(), counter.run(seat.mesh_builder()))
//!     });
//!     fleet.faults([Kind::NET, Kind::CRASH]);
//!     fleet.run_for(Duration::from_secs(30))?;
//!     fleet.heal();
//!     fleet.eventually(Duration::from_secs(10), "equal totals", |v| v.all_equal(Counter::total))
//! });
//! ```

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use net_proto::identity::{Identity, Mesh as MeshSecret, MeshId, MeshKey, Ticket};
use net_proto::session::aead::{CipherSuite, Portable};
use net_proto::time::Duration;
use net_sdk::{Mesh, MeshBuilder, rt};
use net_shell::runtime::BoxFuture;

use crate::check::Sim;
use crate::checkers::Seen;
use crate::keyed::{Domain, bytes32};
use crate::null::Null;
use crate::plan::{Kind, Plan, Swarm};
use crate::stage;
use crate::topology::Topology;
use crate::world::{Failure, World, default_addr};

/// Longest distance of two looks at what must always hold.
const LOOK: Duration = Duration::from_millis(5);

/// The machine that an application starts on.
#[derive(Clone)]
pub struct Seat {
    node: u32,
    life: u32,
    seed: u64,
    neighbours: Vec<u32>,
    /// Where each machine is seen when this life begins.
    addrs: Arc<[SocketAddr]>,
    ciphers: Arc<dyn CipherSuite>,
}

impl Seat {
    /// Its number, from 0.
    pub const fn node(&self) -> u32 {
        self.node
    }

    /// The how manieth start this is, from 1: it rises with every crash.
    pub const fn life(&self) -> u32 {
        self.life
    }

    /// A builder for this machine: its identity (the same in every life), its address, and the mesh that
    /// all machines share. Everything else is the application's.
    pub fn mesh_builder(&self) -> MeshBuilder {
        let suite = self.ciphers.clone();
        Mesh::builder()
            .bind(default_addr(self.node))
            .seed(key(self.seed, self.node))
            .mesh(MeshSecret {
                id: MeshId(bytes32(self.seed, Domain::Mesh, 1, 0)),
                key: MeshKey(bytes32(self.seed, Domain::Mesh, 1, 1)),
            })
            .config(move |config| config.ciphers = suite)
    }

    /// Who a machine is, and where it was when this life began.
    pub fn ticket(&self, node: u32) -> Ticket {
        let entity = Identity::from_seed(&key(self.seed, node)).id();
        Ticket { entity, addrs: vec![self.addr(node)] }
    }

    /// The address of a machine when this life began, for those who need no identity.
    pub fn addr(&self, node: u32) -> SocketAddr {
        self.addrs.get(node as usize).copied().unwrap_or_else(|| default_addr(node))
    }

    /// Lets checkers and the timeline know something: that this application leads, say, and since when. It
    /// counts while the application runs; a clone of the seat goes where it is needed.
    pub fn note(&self, what: &str, value: u64) {
        stage::show(&Seen::Note { node: self.node, what, value });
    }

    /// The machines that the topology joins with this one.
    pub fn neighbours(&self) -> Vec<Ticket> {
        self.neighbours.iter().map(|node| self.ticket(*node)).collect()
    }
}

fn key(seed: u64, node: u32) -> [u8; 32] {
    bytes32(seed, Domain::Identity, u64::from(node), 1)
}

type Start<A> = dyn Fn(&Seat) -> (A, BoxFuture);
type Rule<A> = Box<dyn Fn(&View<'_, A>) -> bool>;

/// What the applications share with the test, by machine.
struct Apps<A> {
    start: Box<Start<A>>,
    graph: Vec<Vec<u32>>,
    seed: u64,
    ciphers: Arc<dyn CipherSuite>,
    /// The application of the present life, and how many lives there were.
    seats: RefCell<Vec<(Option<A>, u32)>>,
}

impl<A: 'static> Apps<A> {
    fn start(&self, world: &mut World, node: u32) {
        let life = {
            let mut seats = self.seats.borrow_mut();
            let seat = &mut seats[node as usize];
            seat.1 += 1;
            seat.1
        };
        let seat = Seat {
            node,
            life,
            seed: self.seed,
            neighbours: self.graph.get(node as usize).cloned().unwrap_or_default(),
            addrs: (0..world.len() as u32).map(|node| world.addr(node)).collect(),
            ciphers: self.ciphers.clone(),
        };
        let (app, task) = (self.start)(&seat);
        self.seats.borrow_mut()[node as usize].0 = Some(app);
        world.start_task(node, |runtime| rt::enter(runtime, task));
    }
}

/// What the test sees of the applications.
pub struct View<'a, A> {
    apps: Vec<Option<&'a A>>,
}

impl<'a, A> View<'a, A> {
    /// The application of a machine; `None` while the machine is down.
    pub fn get(&self, node: u32) -> Option<&'a A> {
        self.apps.get(node as usize).copied().flatten()
    }

    /// Those that run, with their machines' numbers.
    pub fn running(&self) -> impl Iterator<Item = (u32, &'a A)> + '_ {
        self.apps.iter().enumerate().filter_map(|(i, app)| Some((i as u32, (*app)?)))
    }

    /// Whether all machines run, and all applications say yes.
    pub fn all(&self, says: impl Fn(&A) -> bool) -> bool {
        self.apps.iter().all(|app| app.is_some_and(&says))
    }

    /// Whether all machines run, and all applications say the same.
    pub fn all_equal<T: PartialEq>(&self, says: impl Fn(&A) -> T) -> bool {
        let mut told = self.apps.iter().map(|app| app.map(&says));
        match told.next() {
            None => true,
            Some(None) => false,
            Some(first) => told.all(|next| next == first),
        }
    }
}

/// An application on every machine of a topology. [`Sim::fleet`] makes one.
pub struct Fleet<A> {
    sim: Sim,
    topology: Topology,
    world: World,
    kinds: Vec<Kind>,
    most: u32,
    apps: Option<Rc<Apps<A>>>,
    always: Vec<(String, Rule<A>)>,
    begun: bool,
}

impl<A: 'static> Fleet<A> {
    pub(crate) fn new(sim: Sim, topology: Topology, world: World) -> Self {
        Self {
            sim,
            topology,
            world,
            kinds: Vec::new(),
            most: 20,
            apps: None,
            always: Vec::new(),
            begun: false,
        }
    }

    /// Says what runs on every machine, at first and after every crash: what the test may look at, and the
    /// application itself. They share what they need (`Arc`, atomics, a `Mutex`).
    pub fn spawn_all<F>(&mut self, start: impl Fn(&Seat) -> (A, F) + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let ciphers: Arc<dyn CipherSuite> =
            if self.world.real_ciphers() { Arc::new(Portable) } else { Arc::new(Null) };
        self.apps = Some(Rc::new(Apps {
            start: Box::new(move |seat| {
                let (app, task) = start(seat);
                (app, Box::pin(task) as BoxFuture)
            }),
            graph: self.topology.neighbours(self.sim.seed()),
            seed: self.sim.seed(),
            ciphers,
            seats: RefCell::default(),
        }));
    }

    /// Allows kinds of faults. The seed picks which of them happen, how strong, when and where.
    pub fn faults(&mut self, kinds: impl IntoIterator<Item = &'static [Kind]>) {
        self.kinds.extend(kinds.into_iter().flatten());
    }

    /// At most so many faults in a run; 20 without a call.
    pub const fn at_most(&mut self, faults: u32) {
        self.most = faults;
    }

    /// Something that must hold at every look, once in 5 ms.
    pub fn always(&mut self, what: &str, rule: impl Fn(&View<'_, A>) -> bool + 'static) {
        self.always.push((what.to_owned(), Box::new(rule)));
    }

    /// The world below: checkers, links, scripts.
    pub const fn world(&mut self) -> &mut World {
        &mut self.world
    }

    /// Makes the machines and schedules the faults. A plan that is replayed or shrunk may have fewer of
    /// both, and less time.
    fn begin(&mut self, time: Duration) -> Duration {
        if std::mem::replace(&mut self.begun, true) {
            return time;
        }
        let nodes = self.topology.nodes();
        let time = self.sim.time(time);
        let graph = self.topology.neighbours(self.sim.seed());
        let pairs = graph.iter().enumerate().flat_map(|(a, to)| to.iter().map(move |b| (a as u32, *b)));
        let pairs: Vec<_> = pairs.filter(|(a, b)| a < b).collect();
        let plan = self.sim.plan_or(|| {
            let swarm = Swarm::new("fleet", nodes, time).only(&self.kinds).between(pairs).at_most(self.most);
            Plan::random(self.sim.seed(), &swarm)
        });
        let Some(apps) = self.apps.clone() else { return plan.time };
        apps.seats.borrow_mut().resize_with(plan.nodes as usize, || (None, 0));
        for _ in 0..plan.nodes {
            let node = self.world.host();
            let again = apps.clone();
            self.world.on_restart(node, move |world, node| again.start(world, node));
        }
        if plan.nodes == nodes {
            self.topology.lay(&mut self.world);
        }
        (0..plan.nodes).for_each(|node| apps.start(&mut self.world, node));
        self.world.schedule(&plan);
        plan.time
    }

    fn look<R>(apps: Option<&Rc<Apps<A>>>, world: &World, look: impl FnOnce(&View<'_, A>) -> R) -> R {
        let Some(apps) = apps else { return look(&View { apps: Vec::new() }) };
        let seats = apps.seats.borrow();
        let running =
            seats.iter().enumerate().map(|(i, (app, _))| app.as_ref().filter(|_| world.is_up(i as u32)));
        look(&View { apps: running.collect() })
    }

    /// What the applications look like now.
    pub fn view<R>(&self, look: impl FnOnce(&View<'_, A>) -> R) -> R {
        Self::look(self.apps.as_ref(), &self.world, look)
    }

    /// Runs for a time. The first call starts the machines, and the faults happen in it.
    pub fn run_for(&mut self, time: Duration) -> Result<(), Failure> {
        let time = self.begin(time);
        let end = self.world.now() + time;
        if self.always.is_empty() {
            return self.world.run_for(time);
        }
        while self.world.now() < end {
            self.world.run_for(LOOK.min(end - self.world.now()))?;
            let broken = self.always.iter().find(|(_, rule)| !self.view(rule)).map(|(what, _)| what.clone());
            if let Some(what) = broken {
                self.world.fail(None, format!("{what}: not so"));
                return self.world.run_for(Duration::ZERO);
            }
        }
        Ok(())
    }

    /// Ends all faults: links are as they were, crashed machines start again.
    pub fn heal(&mut self) {
        self.begin(Duration::ZERO);
        self.world.heal();
    }

    /// Runs until the applications look right; fails after `limit`.
    pub fn eventually(
        &mut self,
        limit: Duration,
        what: &str,
        right: impl Fn(&View<'_, A>) -> bool,
    ) -> Result<(), Failure> {
        self.begin(Duration::ZERO);
        let apps = self.apps.clone();
        self.world.eventually(limit, what, |world| Self::look(apps.as_ref(), world, &right))
    }
}
