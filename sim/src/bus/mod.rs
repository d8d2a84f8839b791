//! The event bus in front of a simulated engine: a log per shard that is trimmed, a server that ends
//! and begins again, connections that break at any instant, over the world's links.
//!
//! For tests of applications: [`Engine::serve`] puts a server on a machine, [`adapter`] leads there.
//!
//! ```
//! use net_sdk::{Net, rt};
//! use net_sim::bus::{Engine, adapter};
//! use net_sim::{LinkConfig, Sim};
//! use std::time::Duration;
//!
//! let sim = Sim::new(7);
//! let mut world = sim.world();
//! let engine = Engine::new(7).breaking(100_000);                 // one batch in ten breaks its connection
//! let server = engine.serve(&mut world);
//! world.spawn_task(move |runtime| {
//!     rt::enter(runtime, async move {
//!         let bus = Net::builder().shards(1).adapter(adapter(server)).build().await.unwrap();
//!         (0..100u8).for_each(|n| _ = bus.emit_raw([n]).unwrap());
//!         while bus.flush().await.is_err() {}
//!     })
//! });
//! let full = |engine: &Engine| engine.with(0, |shelf| shelf.taken.len()) >= 100;
//! world.eventually(Duration::from_secs(60), "everything in the engine", |_| full(&engine)).unwrap();
//! ```
//!
//! The scenario `bus` has producers with and without outbox in every mode of back-pressure, and
//! consumers that keep cursor and deduplication on their disks; `truth` holds the promises against
//! what really happened.

mod adapter;
mod apps;
mod engine;
mod session;
mod truth;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use net_proto::time::Duration;
use net_sdk::rt;

pub use adapter::EngineAdapter;
pub use engine::{Engine, Shelf};
pub use wire::Entry;

use crate::keyed::{Domain, Rng};
use crate::plan::{DiskFault, Plan, What};
use crate::world::{Failure, World, WorldConfig, default_addr};
use crate::{LinkConfig, sometimes};
use apps::Seat;
use truth::Truth;

/// The engine's machine in the scenario.
pub const ENGINE: u32 = 0;
/// Longest time until everything is in the engine and read, with nothing broken any more.
const SETTLE: Duration = Duration::from_secs(120);
/// How often the promises are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// An adapter to the server on a machine ([`Engine::serve`]).
pub fn adapter(server: u32) -> EngineAdapter {
    EngineAdapter::new(SocketAddr::new(default_addr(server).ip(), engine::PORT))
}

impl Engine {
    /// Adds a machine with a server in front of this engine, which starts again after a crash by a plan.
    pub fn serve(&self, world: &mut World) -> u32 {
        let engine = self.clone();
        let host = world.host();
        let start = move |world: &mut World, host| {
            let engine = engine.clone();
            world.start_task(host, |runtime| engine::serve(runtime, engine));
        };
        start(world, host);
        world.on_restart(host, start);
        host
    }
}

/// Marks that a campaign must reach.
pub const REQUIRED: &[&str] = &[
    "a link broke with events under way",
    "an outbox was replayed",
    "an event found no room",
    "a shutdown gave events up",
    "a shutdown left events to the next life",
    "a duplicate was recognised",
    "a reader was told what it lost",
    "a consumer went on from where it was kept",
];

/// Lives a plan: machine 0 is the engine, the odd ones produce, the others consume. Then everything is
/// healed, and has to come to rest with every promise kept.
pub fn live(plan: &Plan) -> Result<World, Failure> {
    // A disk that lies about what it wrote leaves nothing to promise.
    let honest = |what: &What| {
        !matches!(what, What::Disk(_, DiskFault::Lost(_) | DiskFault::Misdirected(_) | DiskFault::Rot))
    };
    let plan = plan.with_faults(plan.faults.iter().filter(|f| honest(&f.what)).cloned().collect());
    let mut rng = Rng::new(plan.seed, Domain::Application, 0x00b5);
    let link = LinkConfig { delay: Duration::from_millis(rng.range(1, 20)), ..LinkConfig::default() };
    let mut world = World::new(WorldConfig::new(plan.seed).link(link));
    let retain = [30, 300, usize::MAX][rng.below(3) as usize];
    let breaks = [0, 10_000, 100_000][rng.below(3) as usize];
    let engine = Engine::new(plan.seed).retaining(retain).breaking(breaks);
    engine.serve(&mut world);
    let (truth, quiet) = (Truth::new(engine), Arc::new(AtomicBool::new(false)));
    let mut nodes: [Vec<u32>; 2] = [Vec::new(), Vec::new()];
    for node in 1..plan.nodes {
        let consumes = node % 2 == 0;
        nodes[usize::from(consumes)].push(node);
        let seat = Seat { node, seed: plan.seed, truth: truth.clone(), quiet: quiet.clone() };
        start(&mut world, seat, consumes);
    }
    let [producers, consumers] = nodes;
    let look = |world: &World, end: bool| {
        let held = if end { truth.at_end() } else { truth.holds() };
        held.map_err(|b| Failure { at: world.now(), node: b.node, what: format!("bus: {}", b.what) })
    };
    world.schedule(&plan);
    while world.now() < plan.time {
        world.run_for(LOOK.min(plan.time - world.now()))?;
        look(&world, false)?;
    }
    world.heal();
    quiet.store(true, Relaxed);
    let until = world.now() + SETTLE;
    while !truth.finished(&producers) || !truth.caught_up(&consumers) {
        if world.now() >= until {
            let late = if truth.finished(&producers) { "read" } else { "in the engine" };
            let what = format!("bus: not everything is {late} {SETTLE:?} after everything was healed");
            return Err(Failure { at: world.now(), node: None, what });
        }
        world.run_for(LOOK)?;
        look(&world, false)?;
    }
    look(&world, true)?;
    world.at_end()?;
    Ok(world)
}

/// Starts a producer or a consumer, now and after each crash.
fn start(world: &mut World, seat: Seat, consumes: bool) {
    let host = world.host();
    let boots = AtomicU64::new(0);
    let start = move |world: &mut World, host| {
        let boot = boots.fetch_add(1, Relaxed);
        sometimes!("a machine of the bus started again", boot > 0);
        let seat = seat.clone();
        world.start_task(host, move |runtime| {
            rt::enter(runtime, async move {
                if consumes {
                    apps::consumer(seat, boot).await;
                } else {
                    apps::producer(seat, boot).await;
                }
            })
        });
    };
    start(world, host);
    world.on_restart(host, start);
}
