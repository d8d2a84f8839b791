//! Faults happening in a world, and healing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use net_proto::time::{Duration, nanos};

use super::{Fault, Plan, What};
use crate::app::App;
use crate::checkers::Seen;
use crate::keyed::{Domain, draw};
use crate::marks::{self, State};
use crate::world::{Failure, World};

/// Which nodes must work in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Core {
    /// All of them.
    All,
    /// More than half of them; the seed picks which.
    Majority,
    /// These.
    Of(Vec<u32>),
}

impl Core {
    /// The nodes of it among `count`.
    pub(crate) fn nodes(&self, seed: u64, count: u32) -> Vec<u32> {
        let all = 0..count;
        let mut nodes: Vec<u32> = match self {
            Self::All => all.collect(),
            Self::Of(nodes) => nodes.clone(),
            Self::Majority => {
                let mut order: Vec<u32> = all.collect();
                order.sort_by_key(|n| (draw(seed, Domain::Plan, 0xc04e, u64::from(*n)), *n));
                order.truncate(count as usize / 2 + 1);
                order
            }
        };
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

impl World {
    /// Says how a node starts again after a crash by a plan. [`World::spawn_each`] does so by itself.
    pub fn on_restart(&mut self, place: u32, start: impl Fn(&mut World, u32) + 'static) {
        self.respawn.insert(place, Rc::new(start));
    }

    /// Adds `count` nodes with an application each, which starts afresh after a crash.
    pub fn spawn_each<A: App>(&mut self, count: u32, app: impl Fn(u32) -> A + 'static) {
        let app = Rc::new(app);
        for _ in 0..count {
            let place = self.spawn(app(self.len() as u32));
            let again = app.clone();
            self.on_restart(place, move |w, place| w.restart(place, again(place)));
        }
    }

    /// Lets every fault of a plan happen at its time, counted from now.
    pub fn schedule(&mut self, plan: &Plan) {
        self.faults.begin_plan();
        for fault in &plan.faults {
            self.schedule_fault(fault.clone());
        }
    }

    /// Lets one fault happen at its time, counted from now.
    pub fn schedule_fault(&mut self, fault: Fault) {
        let number = self.faults.number();
        let begins = self.now() + fault.at;
        let ends = fault.lasting.map(|lasting| begins + lasting);
        let what = fault.what;
        self.at(begins, move |w| {
            if !w.faults.is_over() {
                w.begin(number, &what, ends.map_or(u64::MAX, nanos));
            }
        });
        if let Some(ends) = ends {
            self.at(ends, move |w| {
                if !w.faults.is_over() {
                    w.end(number);
                }
            });
        }
    }

    /// Lives a plan: its faults happen, its time passes. What still lasts at the end goes on until
    /// [`World::heal`] or [`World::heal_core`].
    pub fn run_plan(&mut self, plan: &Plan) -> Result<(), Failure> {
        self.schedule(plan);
        self.run_for(plan.time)
    }

    /// Ends all faults: links are as they were, crashed nodes start again.
    pub fn heal(&mut self) {
        self.heal_core(&Core::All);
    }

    /// Ends all faults among the nodes of a core; what concerns the others stays as it is for good,
    /// and no further fault of a plan happens. Returns the core.
    pub fn heal_core(&mut self, core: &Core) -> Vec<u32> {
        let core = core.nodes(self.seed(), self.len() as u32);
        let text = format!("heal {} of {} nodes", core.len(), self.len());
        self.watch.see(self.now(), &Seen::Fault { number: usize::MAX, text: &text, begins: true });
        let ended = self.faults.heal(&core);
        for (from, to) in self.joined() {
            self.refresh_link(from, to);
        }
        ended.into_iter().for_each(|number| self.end(number));
        core
    }

    fn begin(&mut self, number: usize, what: &What, until: u64) {
        self.note_fault(number, what, true);
        match what {
            What::Link { .. } => {
                self.faults.begin(number, what, until);
                self.refresh(what);
            }
            What::Crash(node) => {
                if (*node as usize) < self.len() && self.faults.take_down(*node, number) {
                    self.faults.begin(number, what, until);
                    self.stop(*node);
                }
            }
            What::Jump(node, by) => self.jump_clock(*node, *by),
            What::Drift(node, ppm) => {
                self.faults.begin(number, what, until);
                self.drift(*node, *ppm);
            }
            What::Rebind(node) => {
                let public = self.fresh_addr(0x6440_0000, *node);
                self.forget_mappings(*node, public);
            }
            What::Roam(node) => {
                let addr = self.fresh_addr(0x0a80_0000, *node);
                self.move_to(*node, addr);
            }
            What::Disk(node, does) => {
                self.faults.begin(number, what, until);
                self.worsen_disk(*node, number, does);
            }
        }
    }

    fn end(&mut self, number: usize) {
        let Some(what) = self.faults.end(number) else { return };
        self.note_fault(number, &what, false);
        match &what {
            What::Link { .. } => self.refresh(&what),
            What::Crash(node) => {
                if self.faults.let_up(*node, number) {
                    self.start_again(*node);
                }
            }
            What::Drift(node, _) => self.drift(*node, 0),
            What::Disk(node, _) => self.mend_disk(*node, number),
            What::Jump(..) | What::Rebind(_) | What::Roam(_) => {}
        }
    }

    fn note_fault(&mut self, number: usize, what: &What, begins: bool) {
        self.fold(&[number as u64, u64::from(begins), 0xfa_017]);
        if begins {
            let state = match what {
                What::Link { from, to, .. } => match (from.single(), to.single()) {
                    (Some(a), Some(b)) => self.state_between(a, b),
                    _ => State::Many,
                },
                other => other.node().map_or(State::Many, |n| self.state_of(n)),
            };
            marks::fault(what.kind(), state);
        }
        if self.watch.wants_faults() {
            let text = what.to_string();
            self.watch.see(self.now(), &Seen::Fault { number, text: &text, begins });
        }
    }

    fn state_of(&self, node: u32) -> State {
        if node as usize >= self.len() || self.is_host(node) {
            return State::Many;
        }
        let Some(machine) = self.node(node) else { return State::Down };
        let peers = machine.peers().filter_map(|(peer, _)| machine.peer_stats(peer));
        let (mut any, mut busy, mut later) = (false, false, false);
        for stats in peers {
            any = true;
            busy |= stats.in_flight > 0;
            later |= stats.epochs > 1;
        }
        match (any, later, busy) {
            (false, ..) if self.dials(node) > 0 => State::Dialling,
            (false, ..) => State::Alone,
            (_, _, true) => State::Busy,
            (_, true, _) => State::Renewed,
            _ => State::Quiet,
        }
    }

    fn state_between(&self, a: u32, b: u32) -> State {
        if a as usize >= self.len() || b as usize >= self.len() || self.is_host(a) {
            return State::Many;
        }
        let Some(machine) = self.node(a) else { return State::Down };
        let entity = self.entity(b);
        let peer = machine.peers().find(|(_, e)| *e == entity).and_then(|(p, _)| machine.peer_stats(p));
        match peer {
            None if self.dials(a) > 0 => State::Dialling,
            None => State::Alone,
            Some(stats) if stats.in_flight > 0 => State::Busy,
            Some(stats) if stats.epochs > 1 => State::Renewed,
            Some(_) => State::Quiet,
        }
    }

    /// Brings the links that a fault concerns up to date.
    fn refresh(&mut self, what: &What) {
        let What::Link { from, to, both, .. } = what else { return };
        if let (Some(a), Some(b)) = (from.single(), to.single()) {
            if (a.max(b) as usize) < self.len() && a != b {
                self.refresh_link(a, b);
                if *both {
                    self.refresh_link(b, a);
                }
            }
            return;
        }
        for (a, b) in self.joined() {
            if what.concerns_link(a, b) {
                self.refresh_link(a, b);
            }
        }
    }

    /// Works out what a link does under all faults that concern it now.
    pub(crate) fn refresh_link(&mut self, a: u32, b: u32) {
        let (number, offered) = self.link_number(a, b);
        let config = self.link_by_number(number).config.clone();
        self.link_by_number(number).config = self.faults.of_link(number, (a, b), &config, offered);
    }

    fn stop(&mut self, node: u32) {
        if self.is_host(node) {
            self.crash_host(node);
        } else {
            self.crash(node);
        }
    }

    fn start_again(&mut self, node: u32) {
        match self.respawn.get(&node).cloned() {
            Some(respawn) => respawn(self, node),
            None if self.is_bare(node) => self.restart_bare(node),
            None => {
                self.fail(Some(node), "the plan restarts this node, but nobody said how: World::on_restart")
            }
        }
    }

    /// An address that nobody had before.
    fn fresh_addr(&mut self, net: u32, node: u32) -> SocketAddr {
        let moves = self.faults.move_on();
        let host = net + (node & 0xffff) + 1;
        SocketAddr::new(IpAddr::V4(Ipv4Addr::from(host)), 10_000 + (moves % 50_000) as u16)
    }

    /// A node's clock jumps ahead.
    pub fn jump_clock(&mut self, place: u32, by: Duration) {
        self.change_clock(place, |clock, _| clock.jump(nanos(by)));
    }
}
