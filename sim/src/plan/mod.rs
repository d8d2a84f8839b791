//! A run as a value: its configuration and a list of faults, in a text that people read and write.
//!
//! ```text
//! net-sim plan 1
//! scenario stations
//! seed 7
//! nodes 50
//! time 30s
//! at 3.2s cut 4->7 for 800ms
//! at 5s crash 12 for 2s
//! ```
//!
//! [`Plan::random`] draws one from a seed, [`World::run_plan`](crate::World::run_plan) lives it,
//! [`shrink`](crate::shrink) makes it smaller while it still fails.

mod active;
mod apply;
mod swarm;
mod text;

use std::fmt;
use std::ops::Range;

use net_proto::time::{Duration, nanos};

use crate::net::{Burst, LinkConfig};

pub(crate) use active::Faults;
pub use apply::Core;
pub use swarm::{Kind, Swarm};
pub use text::ParseError;
pub(crate) use text::{show, time};

/// Configuration and faults of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The scenario or test that it belongs to; one word.
    pub scenario: String,
    /// Decides everything that the faults leave to chance.
    pub seed: u64,
    /// How many nodes.
    pub nodes: u32,
    /// How long the faults go on. What comes after (healing, converging) is the scenario's.
    pub time: Duration,
    /// What goes wrong, in order of time.
    pub faults: Vec<Fault>,
}

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When, from the beginning of the plan.
    pub at: Duration,
    /// For how long; `None` is until something is healed. Some faults happen at one instant.
    pub lasting: Option<Duration>,
    /// What.
    pub what: What,
}

/// What goes wrong where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Links get worse.
    Link {
        /// Those of datagrams from these nodes
        from: Nodes,
        /// to those nodes,
        to: Nodes,
        /// and back, if this is set.
        both: bool,
        /// What they do.
        does: LinkFault,
    },
    /// A node ends without a word; it starts again at the end.
    Crash(u32),
    /// A node's clock jumps ahead, as after a suspended virtual machine.
    Jump(u32, Duration),
    /// A node's clock is fast or slow, in parts per million.
    Drift(u32, i32),
    /// The address translation before a node forgets: the node is seen under another address.
    Rebind(u32),
    /// A node moves to another address.
    Roam(u32),
    /// A node's disk gets worse.
    Disk(u32, DiskFault),
}

/// What a link does. Chances are in parts per million, per datagram; numbers of the link's own
/// configuration are made worse, never better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkFault {
    /// Nothing passes.
    Cut,
    /// Nothing comes out until the end; then all at once.
    Clog,
    /// Independent loss.
    Lose(u32),
    /// Losses in bursts: chance to enter the bad state, to leave it, and the loss in it.
    Bursts(u32, u32, u32),
    /// The datagrams with these numbers on the link, counted from the fault's beginning, are lost.
    Drop(Range<u64>),
    /// More delay.
    Slow(Duration),
    /// Delay that varies.
    Jitter(Duration),
    /// Chance to be overtaken, and by how much at most.
    Reorder(u32, Duration),
    /// Chance to arrive twice.
    Duplicate(u32),
    /// Chance of a flipped bit.
    Corrupt(u32),
    /// Chance to arrive without its end.
    Truncate(u32),
    /// Larger datagrams vanish.
    Mtu(usize),
    /// Bits per second, and bytes that wait.
    Rate(u64, u64),
    /// Chance of a mark by ECN.
    Mark(u32),
    /// ECN bits are cleared.
    Bleach,
}

/// What a disk does. Chances are in parts per million, per operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// Operations fail.
    Errors(u32),
    /// Nothing more fits.
    Full,
    /// A write that was reported done is not there after the next crash, though it was synced.
    Lost(u32),
    /// Of a write that was not synced a part survives a crash, cut at a sector.
    Torn(u32),
    /// A write lands at another place of its file.
    Misdirected(u32),
    /// One bit of a file turns over, now.
    Rot,
    /// Every operation takes this much longer.
    Slow(Duration),
}

/// A set of nodes: all, or sorted ranges without overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nodes {
    /// Every node, also those that come later.
    All,
    /// These.
    Ranges(Vec<Range<u32>>),
}

impl Nodes {
    /// One node.
    pub fn one(node: u32) -> Self {
        Self::of([node])
    }

    /// These nodes.
    pub fn of(nodes: impl IntoIterator<Item = u32>) -> Self {
        let mut nodes: Vec<u32> = nodes.into_iter().collect();
        nodes.sort_unstable();
        nodes.dedup();
        let mut ranges: Vec<Range<u32>> = Vec::new();
        for node in nodes {
            match ranges.last_mut() {
                Some(last) if last.end == node => last.end += 1,
                _ => ranges.push(node..node + 1),
            }
        }
        Self::Ranges(ranges)
    }

    /// Whether a node is one of them.
    pub fn contains(&self, node: u32) -> bool {
        match self {
            Self::All => true,
            Self::Ranges(ranges) => ranges.iter().any(|r| r.contains(&node)),
        }
    }

    /// The node, if it is exactly one.
    pub fn single(&self) -> Option<u32> {
        match self {
            Self::Ranges(ranges) => match &ranges[..] {
                [one] if one.len() == 1 => Some(one.start),
                _ => None,
            },
            Self::All => None,
        }
    }

    /// The same set under other numbers; nodes that `to` forgets are left out.
    fn renumber(&self, to: &dyn Fn(u32) -> Option<u32>) -> Self {
        match self {
            Self::All => Self::All,
            Self::Ranges(ranges) => Self::of(ranges.iter().flat_map(Clone::clone).filter_map(to)),
        }
    }

    const fn is_none(&self) -> bool {
        matches!(self, Self::Ranges(ranges) if ranges.is_empty())
    }
}

impl Fault {
    /// A fault that begins at `at` and lasts `lasting`.
    pub const fn new(at: Duration, lasting: Duration, what: What) -> Self {
        Self { at, lasting: Some(lasting), what }
    }

    /// A fault that happens at one instant, or lasts until something is healed.
    pub const fn once(at: Duration, what: What) -> Self {
        Self { at, lasting: None, what }
    }

    /// Its kind, for tables.
    pub const fn kind(&self) -> Kind {
        self.what.kind()
    }
}

impl What {
    /// A fault of the link from one node to another.
    pub fn link(from: u32, to: u32, does: LinkFault) -> Self {
        Self::Link { from: Nodes::one(from), to: Nodes::one(to), both: false, does }
    }

    /// A cut between two sets, in both directions.
    pub fn partition(left: Nodes, right: Nodes) -> Self {
        Self::Link { from: left, to: right, both: true, does: LinkFault::Cut }
    }

    /// Its kind, for tables.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Crash(_) => Kind::Crash,
            Self::Jump(..) => Kind::Jump,
            Self::Drift(..) => Kind::Drift,
            Self::Rebind(_) => Kind::Rebind,
            Self::Roam(_) => Kind::Roam,
            Self::Disk(..) => Kind::Disk,
            Self::Link { does, .. } => match does {
                LinkFault::Cut => Kind::Cut,
                LinkFault::Clog => Kind::Clog,
                LinkFault::Lose(_) | LinkFault::Drop(_) => Kind::Lose,
                LinkFault::Bursts(..) => Kind::Bursts,
                LinkFault::Slow(_) => Kind::Slow,
                LinkFault::Jitter(_) => Kind::Jitter,
                LinkFault::Reorder(..) => Kind::Reorder,
                LinkFault::Duplicate(_) => Kind::Duplicate,
                LinkFault::Corrupt(_) => Kind::Corrupt,
                LinkFault::Truncate(_) => Kind::Truncate,
                LinkFault::Mtu(_) => Kind::Mtu,
                LinkFault::Rate(..) => Kind::Rate,
                LinkFault::Mark(_) => Kind::Mark,
                LinkFault::Bleach => Kind::Bleach,
            },
        }
    }

    /// Whether the link between two nodes is meant.
    pub fn concerns_link(&self, a: u32, b: u32) -> bool {
        let Self::Link { from, to, both, .. } = self else { return false };
        (from.contains(a) && to.contains(b)) || (*both && from.contains(b) && to.contains(a))
    }

    /// The node that it happens at, if at one.
    pub fn node(&self) -> Option<u32> {
        match self {
            Self::Crash(n)
            | Self::Jump(n, _)
            | Self::Drift(n, _)
            | Self::Rebind(n)
            | Self::Roam(n)
            | Self::Disk(n, _) => Some(*n),
            Self::Link { .. } => None,
        }
    }

    /// Nodes that it names one by one; a whole range of them is no name.
    fn names(&self) -> Vec<u32> {
        match self {
            Self::Link { from, to, .. } => from.single().into_iter().chain(to.single()).collect(),
            other => other.node().into_iter().collect(),
        }
    }

    fn renumber(&self, to: &dyn Fn(u32) -> Option<u32>) -> Option<Self> {
        Some(match self {
            Self::Link { from, to: there, both, does } => {
                let (from, there) = (from.renumber(to), there.renumber(to));
                if from.is_none() || there.is_none() {
                    return None;
                }
                Self::Link { from, to: there, both: *both, does: does.clone() }
            }
            Self::Crash(n) => Self::Crash(to(*n)?),
            Self::Jump(n, by) => Self::Jump(to(*n)?, *by),
            Self::Drift(n, by) => Self::Drift(to(*n)?, *by),
            Self::Rebind(n) => Self::Rebind(to(*n)?),
            Self::Roam(n) => Self::Roam(to(*n)?),
            Self::Disk(n, does) => Self::Disk(to(*n)?, does.clone()),
        })
    }
}

impl LinkFault {
    /// Makes a configuration worse. `until` is when the fault ends, `n` the number of the next datagram.
    pub(crate) fn worsen(&self, c: &mut LinkConfig, until: u64, n: u64) {
        match self {
            Self::Cut => c.cut = true,
            // What never ends lets nothing out.
            Self::Clog if until == u64::MAX => c.cut = true,
            Self::Clog => c.clogged_until = c.clogged_until.max(until),
            Self::Lose(ppm) => c.loss = either(c.loss, *ppm),
            Self::Bursts(enter, leave, loss) => {
                let longest = Duration::from_secs(1);
                c.burst = Some(Burst { enter: *enter, leave: *leave, loss: *loss, longest });
            }
            Self::Drop(numbers) => c.holes.push(n + numbers.start..n + numbers.end),
            Self::Slow(by) => c.delay += *by,
            Self::Jitter(by) => c.jitter += *by,
            Self::Reorder(ppm, by) => {
                c.reorder = either(c.reorder, *ppm);
                c.reorder_by = c.reorder_by.max(*by);
            }
            Self::Duplicate(ppm) => c.duplicate = either(c.duplicate, *ppm),
            Self::Corrupt(ppm) => c.corrupt = either(c.corrupt, *ppm),
            Self::Truncate(ppm) => c.truncate = either(c.truncate, *ppm),
            Self::Mtu(size) => c.mtu = c.mtu.min(*size),
            Self::Rate(rate, queue) => {
                c.rate = Some(c.rate.map_or(*rate, |old| old.min(*rate)));
                c.queue = c.queue.min(*queue);
            }
            Self::Mark(ppm) => c.mark = either(c.mark, *ppm),
            Self::Bleach => c.bleach = true,
        }
    }
}

/// The chance that at least one of two independent things happens.
fn either(a: u32, b: u32) -> u32 {
    let (a, b) = (u64::from(a.min(1_000_000)), u64::from(b.min(1_000_000)));
    (a + b - a * b / 1_000_000) as u32
}

impl Plan {
    /// A run in which nothing goes wrong.
    pub fn quiet(scenario: &str, seed: u64, nodes: u32, time: Duration) -> Self {
        Self { scenario: scenario.into(), seed, nodes, time, faults: Vec::new() }
    }

    /// The same with one more fault.
    #[must_use]
    pub fn with(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// The same run with only these faults.
    #[must_use]
    pub fn with_faults(&self, faults: Vec<Fault>) -> Self {
        Self { faults, ..self.clone() }
    }

    /// The same run with other numbers for nodes; `to` answers `None` for those that are left out, and
    /// faults that concerned only them are left out too.
    #[must_use]
    pub fn renumbered(&self, nodes: u32, to: &dyn Fn(u32) -> Option<u32>) -> Self {
        let faults = self
            .faults
            .iter()
            .filter_map(|f| Some(Fault { what: f.what.renumber(to)?, at: f.at, lasting: f.lasting }));
        Self { nodes, faults: faults.collect(), ..self.clone() }
    }

    /// The same run, shorter; faults that began later are left out.
    #[must_use]
    pub fn shortened(&self, time: Duration) -> Self {
        let faults = self.faults.iter().filter(|f| f.at <= time).cloned().collect();
        Self { time, faults, ..self.clone() }
    }

    /// Nodes that faults name one by one, in rising order.
    pub fn named_nodes(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.faults.iter().flat_map(|f| f.what.names()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Reads a plan from a file.
    pub fn load(path: impl AsRef<std::path::Path>) -> Result<Self, LoadError> {
        let text = std::fs::read_to_string(path.as_ref())
            .map_err(|source| LoadError::Read { path: path.as_ref().display().to_string(), source })?;
        text.parse().map_err(|source| LoadError::Parse { path: path.as_ref().display().to_string(), source })
    }
}

/// Why a plan could not be read from a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file could not be read.
    #[error("{path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is no plan.
    #[error("{path}: {source}")]
    Parse {
        /// Which.
        path: String,
        /// Why.
        source: ParseError,
    },
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "net-sim plan 1")?;
        writeln!(f, "scenario {}", self.scenario)?;
        writeln!(f, "seed {}", self.seed)?;
        writeln!(f, "nodes {}", self.nodes)?;
        writeln!(f, "time {}", show(nanos(self.time)))?;
        self.faults.iter().try_for_each(|fault| writeln!(f, "{fault}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_nodes_are_ranges() {
        let set = Nodes::of([3, 1, 2, 9, 2]);
        assert_eq!(set, Nodes::Ranges(vec![1..4, 9..10]));
        assert!(set.contains(3) && !set.contains(4) && Nodes::All.contains(7));
        assert_eq!((Nodes::one(5).single(), set.single()), (Some(5), None));
    }

    #[test]
    fn chances_add_up_as_chances_do() {
        assert_eq!(either(500_000, 500_000), 750_000);
        assert_eq!(either(0, 7), 7);
        assert_eq!(either(1_000_000, 9), 1_000_000);
    }

    #[test]
    fn renumbering_drops_what_names_the_forgotten() {
        let secs = Duration::from_secs;
        let plan = Plan::quiet("x", 1, 10, secs(9))
            .with(Fault::new(secs(1), secs(1), What::link(4, 7, LinkFault::Cut)))
            .with(Fault::new(secs(2), secs(1), What::Crash(3)))
            .with(Fault::new(secs(3), secs(1), What::partition(Nodes::of(0..5), Nodes::of(5..10))));
        assert_eq!(plan.named_nodes(), [3, 4, 7]);
        let small = plan.renumbered(2, &|n| match n {
            4 => Some(0),
            7 => Some(1),
            _ => None,
        });
        assert_eq!(small.faults.len(), 2);
        assert_eq!(small.faults[0].what, What::link(0, 1, LinkFault::Cut));
        assert_eq!(small.shortened(secs(2)).faults.len(), 1);
    }
}
