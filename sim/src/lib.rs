//! Deterministic worlds for tests of Net, and of applications on it.
//!
//! - [`pair::Pair`], [`peers::Peers`]: bare nodes directly joined (L0).
//! - [`world::World`]: any number of nodes in virtual time, with links that lose, delay, reorder,
//!   duplicate and damage, and with applications as synchronous machines (L1).
//! - `hosts`, with the feature `turmoil`: machines with real tokio runtimes, for
//!   applications that use tokio directly (L2).
//! - [`check::check`]: one test over many seeds; a failure prints the line that repeats it.
//!
//! - [`fleet::Fleet`]: users' asynchronous applications, the whole SDK below them, one on every machine.
//!
//! The same seed gives the same trace hash in every process. `docs/SIMULATION.md` is the guide.
#![forbid(unsafe_code)]

pub mod app;
pub mod artefact;
pub mod bus;
pub mod check;
pub mod checkers;
mod clock;
pub mod disk;
mod exec;
pub mod exhaust;
pub mod fleet;
mod guard;
#[cfg(feature = "turmoil")]
pub mod hosts;
pub mod keyed;
pub mod marks;
mod memo;
pub mod nat;
pub mod net;
pub mod null;
pub mod pair;
pub mod peers;
pub mod plan;
pub mod planenet;
mod residents;
pub mod scenario;
pub mod shrink;
mod stage;
pub mod topology;
pub mod trace;
pub mod traffic;
pub mod world;

pub use app::{App, Ctx};
pub use check::{Sim, check, ensure};
pub use checkers::Checker;
pub use fleet::{Fleet, Seat, View};
pub use net::{Burst, Fate, LinkConfig};
pub use plan::{Core, Fault, Plan, Swarm};
pub use topology::Topology;
pub use world::{Failure, World, WorldConfig};

/// The programs of the guide compile.
#[cfg(doctest)]
#[doc = include_str!("../../docs/SIMULATION.md")]
struct Guide;
