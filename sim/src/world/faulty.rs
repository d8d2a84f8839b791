//! What faults and checkers need to reach inside a world.

use super::*;
use crate::checkers::{Broken, Checker};
use crate::nat::NatConfig;
use crate::plan::DiskFault;

impl World {
    /// Adds a checker. It sees what happens from now on, so add it before the nodes.
    pub fn check(&mut self, checker: impl Checker + 'static) {
        self.watch.add(checker);
    }

    /// The run is over: asks every checker for its last word.
    pub fn at_end(&mut self) -> Result<(), Failure> {
        let mut checkers = self.watch.take_checkers();
        for (_, checker) in &mut checkers {
            if let Err(Broken { node, what }) = checker.at_end(self) {
                self.fail(node, format!("{}: {what}", checker.name()));
            }
        }
        self.watch.put_checkers(checkers);
        self.outcome()
    }

    /// Lets checkers and the record know something about a node.
    pub fn note(&mut self, node: u32, what: &str, value: u64) {
        self.watch.see(self.now(), &Seen::Note { node, what, value });
    }

    pub(crate) fn take(
        &mut self,
        place: u32,
        peer: net_proto::session::Peer,
        stream: net_proto::stream::StreamId,
        spare: &mut Vec<u8>,
    ) -> Option<net_proto::stream::Taken> {
        let taken = self.node_mut(place)?.take(peer, stream, spare)?;
        self.watch.see(self.now(), &Seen::Taken { node: place, peer, stream, taken: &taken });
        Some(taken)
    }

    /// Pairs of nodes that have a link by now, in order.
    pub(crate) fn joined(&self) -> Vec<(u32, u32)> {
        let of = |(from, ways): (usize, &Vec<(u32, Way)>)| {
            ways.iter().map(move |(to, _)| (from as u32, *to)).collect::<Vec<_>>()
        };
        self.ways.iter().enumerate().flat_map(of).collect()
    }

    /// The number of the first link from one node to another, and how many datagrams it was offered.
    pub(crate) fn link_number(&mut self, a: u32, b: u32) -> (usize, u64) {
        let way = self.way(a, b);
        let link = self.link_of(way, 0).expect("a way has a link");
        (link, self.links[link].stats.offered)
    }

    pub(crate) fn is_host(&self, place: u32) -> bool {
        self.places[place as usize].machine
    }

    pub(crate) fn is_bare(&self, place: u32) -> bool {
        self.places[place as usize].bare
    }

    /// Dials that a node has not answered yet.
    pub(crate) fn dials(&self, place: u32) -> u32 {
        self.places[place as usize].dials
    }

    pub(crate) fn fold(&mut self, numbers: &[u64]) {
        self.chain.numbers(&[self.now]);
        self.chain.numbers(numbers);
    }

    /// Changes a node's or a machine's clock. What was armed by the old one may be due now.
    pub(crate) fn change_clock(&mut self, place: u32, change: impl FnOnce(&mut Clock, u64)) {
        let now = self.now;
        let Some(p) = self.places.get_mut(place as usize) else { return };
        change(&mut p.clock, now);
        if p.machine {
            self.exec.set_clock(place, p.clock);
        }
        self.places[place as usize].armed = None;
        if let Some((at, reason)) = self.node(place).and_then(Node::poll_timeout) {
            self.arm(place, at, reason);
        }
    }

    /// The address translation before a node forgets: a NAT its mappings, without a NAT the node is
    /// seen under another address.
    pub(crate) fn forget_mappings(&mut self, place: u32, public: SocketAddr) {
        match self.places.get(place as usize).map(|p| p.nat) {
            Some(Some(nat)) => self.nats[nat].rebind(),
            Some(None) => self.rebind(place, public),
            None => {}
        }
    }

    /// Makes an address translation with a public address of its own. Returns its number.
    pub fn nat(&mut self, config: NatConfig) -> usize {
        self.by_node = false;
        let number = self.nats.len();
        let public = IpAddr::V4(Ipv4Addr::from(0xc612_0001 + number as u32));
        self.nats.push(Nat::new(self.seed() ^ number as u64, public, config));
        self.nat_of.insert(public, number);
        number
    }

    /// Puts a node behind an address translation. Others cannot reach it before it sent something.
    pub fn behind(&mut self, place: u32, nat: usize) {
        let p = &mut self.places[place as usize];
        (p.nat, p.plain) = (Some(nat), false);
    }

    /// The public address that a node behind a translation used last.
    pub fn mapped(&self, place: u32) -> Option<SocketAddr> {
        let p = &self.places[place as usize];
        self.nats[p.nat?].last_used(p.addr)
    }

    /// Gives a node one more address; what is sent to it arrives, and is answered from it. Machines with
    /// tasks have one address: asked for two, the run fails.
    pub fn also_at(&mut self, place: u32, addr: SocketAddr) {
        if self.is_host(place) {
            return self.fail(Some(place), "a machine with tasks has one address, and no other beside it");
        }
        self.by_node = false;
        self.places[place as usize].also.push(addr);
        self.owners.insert(addr, Owner::Node(place));
    }

    /// Takes such an address away again.
    pub fn no_longer_at(&mut self, place: u32, addr: SocketAddr) {
        self.places[place as usize].also.retain(|a| *a != addr);
        self.owners.remove(&addr);
    }

    /// A disk of a machine: what tasks on it store in `dir`.
    pub fn disk(&self, host: u32, dir: impl AsRef<std::path::Path>) -> crate::disk::Disk {
        self.exec.disk(host, dir.as_ref())
    }

    pub(crate) fn move_to(&mut self, place: u32, addr: SocketAddr) {
        if (place as usize) < self.places.len() {
            self.roam(place, addr);
        }
    }

    pub(crate) fn worsen_disk(&mut self, place: u32, number: usize, does: &DiskFault) {
        self.exec.worsen_disks(place, number, does);
    }

    pub(crate) fn mend_disk(&mut self, place: u32, number: usize) {
        self.exec.mend_disks(place, number);
    }
}
