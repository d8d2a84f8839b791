//! Which faults last, and what links do under them: the same in a world and in turmoil.

use std::collections::{BTreeMap, BTreeSet};

use super::{LinkFault, What};
use crate::net::Shared;

/// The faults of a run; `L` names a link.
pub(crate) struct Faults<L> {
    /// Those that last, by number, with their ends.
    active: BTreeMap<usize, (What, u64)>,
    count: usize,
    /// What links were before the first fault.
    base: BTreeMap<L, Shared>,
    /// The first datagram of a link under a fault.
    first: BTreeMap<(usize, L), u64>,
    /// Nodes that a fault keeps down.
    down: BTreeMap<u32, usize>,
    moves: u32,
    /// Once something is healed no more faults begin or end by themselves.
    over: bool,
    /// Among these nodes links have no faults.
    core: BTreeSet<u32>,
}

impl<L> Default for Faults<L> {
    fn default() -> Self {
        Self {
            active: BTreeMap::new(),
            count: 0,
            base: BTreeMap::new(),
            first: BTreeMap::new(),
            down: BTreeMap::new(),
            moves: 0,
            over: false,
            core: BTreeSet::new(),
        }
    }
}

impl<L: Copy + Ord> Faults<L> {
    /// A plan begins.
    pub fn begin_plan(&mut self) {
        self.over = false;
        self.core.clear();
    }

    /// The number of the next fault.
    pub const fn number(&mut self) -> usize {
        self.count += 1;
        self.count - 1
    }

    /// How many addresses were given out, with this one.
    pub const fn move_on(&mut self) -> u32 {
        self.moves += 1;
        self.moves
    }

    /// Whether faults begin and end no more.
    pub const fn is_over(&self) -> bool {
        self.over
    }

    /// Whether any fault concerns links now.
    pub fn on_links(&self) -> bool {
        self.active.values().any(|(what, _)| matches!(what, What::Link { .. }))
    }

    /// A fault lasts from now on.
    pub fn begin(&mut self, number: usize, what: &What, until: u64) {
        self.active.insert(number, (what.clone(), until));
    }

    /// A fault is over: what it was, if it lasted.
    pub fn end(&mut self, number: usize) -> Option<What> {
        self.active.remove(&number).map(|(what, _)| what)
    }

    /// A fault takes a node down; false if another one did before.
    pub fn take_down(&mut self, node: u32, number: usize) -> bool {
        *self.down.entry(node).or_insert(number) == number
    }

    /// Whether it is this fault that keeps a node down; from now on nothing does.
    pub fn let_up(&mut self, node: u32, number: usize) -> bool {
        let its = self.down.get(&node) == Some(&number);
        if its {
            self.down.remove(&node);
        }
        its
    }

    /// Among these nodes no fault lasts; returns those that are theirs.
    pub fn heal(&mut self, core: &[u32]) -> Vec<usize> {
        self.over = true;
        self.core = core.iter().copied().collect();
        let of_core = |what: &What| what.node().is_some_and(|node| self.core.contains(&node));
        self.active.iter().filter(|(_, (what, _))| of_core(what)).map(|(number, _)| *number).collect()
    }

    /// What the link from `a` to `b` does under all faults that concern it now. Before it did `config`, and
    /// was offered so many datagrams.
    pub fn of_link(&mut self, link: L, (a, b): (u32, u32), config: &Shared, offered: u64) -> Shared {
        let plain = self.base.remove(&link).unwrap_or_else(|| config.clone());
        let mut config = plain.clone();
        if self.core.contains(&a) && self.core.contains(&b) {
            return config;
        }
        for (number, (what, until)) in &self.active {
            if let What::Link { does, .. } = what
                && what.concerns_link(a, b)
            {
                let first = match does {
                    LinkFault::Drop(_) => *self.first.entry((*number, link)).or_insert(offered),
                    _ => offered,
                };
                does.worsen(&mut config, *until, first);
                self.base.entry(link).or_insert_with(|| plain.clone());
            }
        }
        config
    }
}
