//! Faults of a plan happening to machines, and healing: the same plans as in a [`World`](crate::World).

use std::net::Ipv4Addr;

use net_proto::time::{Duration, nanos};

use super::Hosts;
use super::net::Net;
use crate::checkers::Seen;
use crate::marks::{self, State};
use crate::plan::{Core, DiskFault, Fault, Plan, What};
use crate::world::Failure;

impl Net {
    /// Works out what a link does under all faults that concern it now.
    pub(super) fn refresh_link(&mut self, a: u32, b: u32) {
        let Some(link) = self.links.get_mut(&(a, b)) else { return };
        link.config = self.faults.of_link((a, b), (a, b), &link.config, link.stats.offered);
    }

    fn refresh(&mut self, what: &What) {
        let links: Vec<_> = self.links.keys().copied().filter(|(a, b)| what.concerns_link(*a, *b)).collect();
        links.into_iter().for_each(|(a, b)| self.refresh_link(a, b));
    }

    fn note_fault(&mut self, number: usize, what: &What, begins: bool) {
        self.trace.numbers(&[self.now, number as u64, u64::from(begins), 0xfa_017]);
        if begins {
            marks::fault(what.kind(), State::Many);
        }
        if self.watch.wants_faults() {
            let text = what.to_string();
            self.watch.see(self.at(), &Seen::Fault { number, text: &text, begins });
        }
    }

    /// The machine is seen under an address that nobody had before.
    fn move_to_fresh(&mut self, host: u32, net: u32, shift: bool) {
        let moves = self.faults.move_on();
        let machine = self.machine(host);
        machine.seen_as = Ipv4Addr::from(net + moves);
        if shift {
            machine.shift = machine.shift.wrapping_add(1);
        }
    }

    fn change_clock(&mut self, host: u32, change: impl FnOnce(&mut crate::clock::Clock, u64)) {
        let now = self.now;
        let machine = self.machine(host);
        change(&mut machine.clock, now);
        std::mem::take(&mut machine.wakers).into_values().for_each(std::task::Waker::wake);
    }

    fn worsen_disks(&mut self, host: u32, number: usize, fault: &DiskFault) {
        // Rot happens at one instant, to what is there then.
        if *fault != DiskFault::Rot {
            self.disk_faults.insert((host, number), fault.clone());
        }
        self.disks_of(host).for_each(|disk| disk.worsen(number, fault));
    }

    fn mend_disks(&mut self, host: u32, number: usize) {
        self.disk_faults.remove(&(host, number));
        self.disks_of(host).for_each(|disk| disk.mend(number));
    }
}

impl Hosts {
    /// Lets every fault of a plan happen at its time, counted from now.
    pub fn schedule(&mut self, plan: &Plan) {
        self.net.borrow_mut().faults.begin_plan();
        for fault in &plan.faults {
            self.schedule_fault(fault.clone());
        }
    }

    /// Lets one fault happen at its time, counted from now.
    pub fn schedule_fault(&mut self, fault: Fault) {
        let number = self.net.borrow_mut().faults.number();
        let begins = self.now() + fault.at;
        let ends = fault.lasting.map(|lasting| begins + lasting);
        let what = fault.what;
        self.at(begins, move |hosts| {
            if !hosts.net.borrow().faults.is_over() {
                hosts.begin(number, &what, ends.map_or(u64::MAX, nanos));
            }
        });
        if let Some(ends) = ends {
            self.at(ends, move |hosts| {
                if !hosts.net.borrow().faults.is_over() {
                    hosts.end(number);
                }
            });
        }
    }

    /// Lives a plan: its faults happen, its time passes. What still lasts at the end goes on until
    /// [`Hosts::heal`] or [`Hosts::heal_core`].
    pub fn run_plan(&mut self, plan: &Plan) -> Result<(), Failure> {
        self.schedule(plan);
        self.run_for(plan.time)
    }

    /// Ends all faults: links are as they were, crashed machines start again.
    pub fn heal(&mut self) {
        self.heal_core(&Core::All);
    }

    /// Ends all faults among the machines of a core; what concerns the others stays as it is for good,
    /// and no further fault of a plan happens. Returns the core.
    pub fn heal_core(&mut self, core: &Core) -> Vec<u32> {
        let nodes = core.nodes(self.net.borrow().seed, self.len() as u32);
        let ended: Vec<usize> = {
            let mut net = self.net.borrow_mut();
            let ended = net.faults.heal(&nodes);
            let text = format!("heal {} of {} nodes", nodes.len(), net.machines.len());
            let at = net.at();
            net.watch.see(at, &Seen::Fault { number: usize::MAX, text: &text, begins: true });
            for (a, b) in net.links.keys().copied().collect::<Vec<_>>() {
                net.refresh_link(a, b);
            }
            ended
        };
        ended.into_iter().for_each(|number| self.end(number));
        nodes
    }

    fn begin(&mut self, number: usize, what: &What, until: u64) {
        if what.node().is_some_and(|node| node as usize >= self.len()) {
            return;
        }
        let mut net = self.net.borrow_mut();
        net.note_fault(number, what, true);
        if let What::Crash(node) = what
            && !net.faults.take_down(*node, number)
        {
            return;
        }
        net.faults.begin(number, what, until);
        match what {
            What::Link { .. } => net.refresh(what),
            What::Crash(node) => {
                drop(net);
                self.crash(*node);
            }
            What::Jump(node, by) => net.change_clock(*node, |clock, _| clock.jump(nanos(*by))),
            What::Drift(node, ppm) => net.change_clock(*node, |clock, now| clock.set_drift(now, *ppm)),
            What::Rebind(node) => net.move_to_fresh(*node, 0x6440_0000, true),
            What::Roam(node) => net.move_to_fresh(*node, 0x0a80_0000, false),
            What::Disk(node, does) => net.worsen_disks(*node, number, does),
        }
    }

    fn end(&mut self, number: usize) {
        let mut net = self.net.borrow_mut();
        let Some(what) = net.faults.end(number) else { return };
        net.note_fault(number, &what, false);
        match &what {
            What::Link { .. } => net.refresh(&what),
            What::Crash(node) => {
                if net.faults.let_up(*node, number) {
                    drop(net);
                    self.restart(*node);
                }
            }
            What::Drift(node, _) => net.change_clock(*node, |clock, now| clock.set_drift(now, 0)),
            What::Disk(node, _) => net.mend_disks(*node, number),
            What::Jump(..) | What::Rebind(_) | What::Roam(_) => {}
        }
    }

    /// The machine moves: it is seen under another address, and notices nothing.
    pub fn roam(&mut self, host: u32) {
        self.schedule_fault(Fault::once(Duration::ZERO, What::Roam(host)));
    }

    /// The address translation before a machine forgets: it is seen under another address and port.
    pub fn rebind(&mut self, host: u32) {
        self.schedule_fault(Fault::once(Duration::ZERO, What::Rebind(host)));
    }

    /// Cuts or mends both directions between two sets of machines, beside all plans.
    pub fn partition(&mut self, left: &[u32], right: &[u32], cut: bool) {
        let mut net = self.net.borrow_mut();
        for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b))) {
            net.link(a, b).config.cut = cut;
            net.link(b, a).config.cut = cut;
        }
    }
}
