//! Swarm testing: the seed picks which faults there are in a run, and how strong.
//!
//! A run with every fault at its mean strength finds less than many runs that each have a few faults
//! at any strength: some bugs need the absence of another fault.

use net_proto::time::{Duration, nanos};

use super::{DiskFault, Fault, LinkFault, Nodes, Plan, What};
use crate::keyed::{Domain, Rng};

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Cut,
    Clog,
    Lose,
    Bursts,
    Slow,
    Jitter,
    Reorder,
    Duplicate,
    Corrupt,
    Truncate,
    Mtu,
    Rate,
    Mark,
    Bleach,
    Crash,
    Jump,
    Drift,
    Rebind,
    Roam,
    Disk,
}

impl Kind {
    /// What links do.
    pub const NET: &'static [Self] = &[
        Self::Cut,
        Self::Clog,
        Self::Lose,
        Self::Bursts,
        Self::Slow,
        Self::Jitter,
        Self::Reorder,
        Self::Duplicate,
        Self::Corrupt,
        Self::Truncate,
        Self::Mtu,
        Self::Rate,
        Self::Mark,
        Self::Bleach,
    ];
    /// Nodes that end and begin again.
    pub const CRASH: &'static [Self] = &[Self::Crash];
    /// Clocks.
    pub const CLOCK: &'static [Self] = &[Self::Jump, Self::Drift];
    /// Addresses that change.
    pub const MOVE: &'static [Self] = &[Self::Rebind, Self::Roam];
    /// Disks.
    pub const DISK: &'static [Self] = &[Self::Disk];
    /// Everything.
    pub const ALL: &'static [&'static [Self]] =
        &[Self::NET, Self::CRASH, Self::CLOCK, Self::MOVE, Self::DISK];

    /// Its name, as in a plan.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Clog => "clog",
            Self::Lose => "lose",
            Self::Bursts => "bursts",
            Self::Slow => "slow",
            Self::Jitter => "jitter",
            Self::Reorder => "reorder",
            Self::Duplicate => "duplicate",
            Self::Corrupt => "corrupt",
            Self::Truncate => "truncate",
            Self::Mtu => "mtu",
            Self::Rate => "rate",
            Self::Mark => "mark",
            Self::Bleach => "bleach",
            Self::Crash => "crash",
            Self::Jump => "jump",
            Self::Drift => "drift",
            Self::Rebind => "rebind",
            Self::Roam => "roam",
            Self::Disk => "disk",
        }
    }
}

/// What a random plan is drawn from.
#[derive(Clone, Debug)]
pub struct Swarm {
    /// The scenario that it is for.
    pub scenario: String,
    /// How many nodes the run has.
    pub nodes: u32,
    /// How long faults begin.
    pub time: Duration,
    /// Kinds that may be picked.
    pub kinds: Vec<Kind>,
    /// Most faults in a run.
    pub faults: u32,
    /// Longest time that one fault lasts.
    pub longest: Duration,
    /// Pairs of nodes that speak to each other; faults of links fall on these. Empty: on any pair.
    pub pairs: Vec<(u32, u32)>,
    /// Nodes that never crash.
    pub spared: Vec<u32>,
}

impl Swarm {
    /// Faults of links, for a run of this size.
    pub fn new(scenario: &str, nodes: u32, time: Duration) -> Self {
        Self {
            scenario: scenario.into(),
            nodes,
            time,
            kinds: Kind::NET.to_vec(),
            faults: 40,
            longest: Duration::from_secs(5),
            pairs: Vec::new(),
            spared: Vec::new(),
        }
    }

    /// Adds kinds.
    #[must_use]
    pub fn allow(mut self, kinds: &[Kind]) -> Self {
        self.kinds.extend(kinds.iter().filter(|k| !self.kinds.contains(k)).copied().collect::<Vec<_>>());
        self
    }

    /// Only these kinds.
    #[must_use]
    pub fn only(mut self, kinds: &[Kind]) -> Self {
        self.kinds = kinds.to_vec();
        self
    }

    /// Sets how many faults a run has at most.
    #[must_use]
    pub const fn at_most(mut self, faults: u32) -> Self {
        self.faults = faults;
        self
    }

    /// Faults of links fall on these pairs only.
    #[must_use]
    pub fn between(mut self, pairs: impl IntoIterator<Item = (u32, u32)>) -> Self {
        self.pairs = pairs.into_iter().collect();
        self
    }
}

impl Plan {
    /// A plan whose kinds of faults, strengths, times and places the seed picks.
    pub fn random(seed: u64, swarm: &Swarm) -> Self {
        let mut plan = Self::quiet(&swarm.scenario, seed, swarm.nodes, swarm.time);
        let mut rng = Rng::new(seed, Domain::Plan, 0x0073_7761_726d);
        let mut picked: Vec<Kind> = swarm.kinds.iter().copied().filter(|_| rng.chance(500_000)).collect();
        if picked.is_empty() && !swarm.kinds.is_empty() {
            picked.push(swarm.kinds[rng.below(swarm.kinds.len() as u64) as usize]);
        }
        if picked.is_empty() || swarm.nodes == 0 {
            return plan;
        }
        // Few faults are as telling as many: the number is drawn by its order of magnitude.
        let most = u64::from(swarm.faults.max(1));
        let bits = rng.below(u64::from(most.ilog2()) + 1);
        let count = rng.range(1 << bits, most.min((2 << bits) - 1));
        // Each kind has one strength in a run, from mild to the worst.
        let strength: Vec<u64> = picked.iter().map(|_| rng.range(1, 100)).collect();
        for _ in 0..count {
            let i = rng.below(picked.len() as u64) as usize;
            plan.faults.extend(one(&mut rng, swarm, picked[i], strength[i]));
        }
        plan.faults.sort_by_key(|f| f.at);
        plan
    }
}

fn one(rng: &mut Rng, swarm: &Swarm, kind: Kind, strength: u64) -> Option<Fault> {
    let ms = Duration::from_millis;
    let span = (nanos(swarm.time) / 1_000_000).max(1);
    let at = ms(rng.below(span));
    let longest = (nanos(swarm.longest) / 1_000_000).max(1);
    let lasting = Some(ms(rng.range(1, (longest * strength / 100).max(1))));
    let node = rng.below(u64::from(swarm.nodes)) as u32;
    // Up to `most` parts per million at full strength.
    let ppm = |most: u64| (most * strength / 100) as u32;
    let by = |most: u64| Duration::from_micros((most * 1_000 * strength / 100).max(1));
    let does = match kind {
        Kind::Crash => {
            let spared = swarm.spared.contains(&node);
            return (!spared).then_some(Fault { at, lasting, what: What::Crash(node) });
        }
        Kind::Jump => return Some(Fault::once(at, What::Jump(node, ms(1 + longest * strength / 100)))),
        Kind::Drift => {
            let ppm = (10 * strength) as i32;
            let ppm = if rng.chance(500_000) { ppm } else { -ppm };
            return Some(Fault { at, lasting, what: What::Drift(node, ppm) });
        }
        Kind::Rebind => return Some(Fault::once(at, What::Rebind(node))),
        Kind::Roam => return Some(Fault::once(at, What::Roam(node))),
        Kind::Disk => {
            let does = match rng.below(7) {
                0 => DiskFault::Errors(ppm(200_000)),
                1 => DiskFault::Full,
                2 => DiskFault::Lost(ppm(100_000)),
                3 => DiskFault::Torn(ppm(500_000)),
                4 => DiskFault::Misdirected(ppm(50_000)),
                5 => return Some(Fault::once(at, What::Disk(node, DiskFault::Rot))),
                _ => DiskFault::Slow(by(500)),
            };
            return Some(Fault { at, lasting, what: What::Disk(node, does) });
        }
        Kind::Cut => LinkFault::Cut,
        Kind::Clog => LinkFault::Clog,
        Kind::Lose => LinkFault::Lose(ppm(600_000)),
        Kind::Bursts => LinkFault::Bursts(ppm(50_000).max(1), 200_000, ppm(1_000_000)),
        Kind::Slow => LinkFault::Slow(by(500)),
        Kind::Jitter => LinkFault::Jitter(by(200)),
        Kind::Reorder => LinkFault::Reorder(ppm(500_000), by(300)),
        Kind::Duplicate => LinkFault::Duplicate(ppm(500_000)),
        Kind::Corrupt => LinkFault::Corrupt(ppm(300_000)),
        Kind::Truncate => LinkFault::Truncate(ppm(300_000)),
        Kind::Mtu => LinkFault::Mtu(1_472 - (272 * strength / 100) as usize),
        Kind::Rate => LinkFault::Rate(200_000 + 50_000 * (100 - strength), 3_000 + 600 * (100 - strength)),
        Kind::Mark => LinkFault::Mark(ppm(500_000)),
        Kind::Bleach => LinkFault::Bleach,
    };
    let both = rng.chance(300_000);
    // A cut may part the whole mesh in two.
    if kind == Kind::Cut && swarm.nodes > 2 && rng.chance(200_000) {
        let side = |n: &u32| crate::keyed::draw(plan_key(rng), Domain::Plan, u64::from(*n), 1) & 1 == 0;
        let (left, right): (Vec<u32>, Vec<u32>) = (0..swarm.nodes).partition(side);
        if !left.is_empty() && !right.is_empty() {
            let what = What::Link { from: Nodes::of(left), to: Nodes::of(right), both, does };
            return Some(Fault { at, lasting, what });
        }
        return None;
    }
    let (from, to) = if swarm.pairs.is_empty() {
        if swarm.nodes < 2 {
            return None;
        }
        (node, (node + 1 + rng.below(u64::from(swarm.nodes) - 1) as u32) % swarm.nodes)
    } else {
        let (a, b) = swarm.pairs[rng.below(swarm.pairs.len() as u64) as usize];
        if rng.chance(500_000) { (a, b) } else { (b, a) }
    };
    let what = What::Link { from: Nodes::one(from), to: Nodes::one(to), both, does };
    Some(Fault { at, lasting, what })
}

/// One key for all nodes of one partition.
fn plan_key(rng: &Rng) -> u64 {
    rng.clone().u64()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn swarm() -> Swarm {
        Swarm::new("x", 8, Duration::from_secs(20)).allow(&Kind::ALL.concat()).at_most(60)
    }

    #[test]
    fn a_seed_is_a_plan_and_seeds_differ() {
        let all: Vec<Plan> = (0..200).map(|seed| Plan::random(seed, &swarm())).collect();
        assert_eq!(all[7], Plan::random(7, &swarm()));
        let texts: BTreeSet<String> = all.iter().map(Plan::to_string).collect();
        assert_eq!(texts.len(), 200);
        for plan in &all {
            assert!(plan.faults.len() <= 60);
            assert!(plan.faults.is_sorted_by_key(|f| f.at));
            assert_eq!(plan.to_string().parse::<Plan>().as_ref(), Ok(plan));
        }
    }

    #[test]
    fn over_the_seeds_everything_happens_and_no_run_has_it_all() {
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let kinds: BTreeSet<Kind> = Plan::random(seed, &swarm()).faults.iter().map(Fault::kind).collect();
            assert!(kinds.len() < 18, "seed {seed} has {} kinds", kinds.len());
            seen.extend(kinds);
        }
        assert_eq!(seen.len(), Kind::ALL.concat().len());
    }
}
