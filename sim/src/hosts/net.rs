//! What the machines of a run share: links, addresses, clocks, disks, checkers, the trace.
//!
//! Everything of a run is on one thread. A machine's runtime must be `Send`, and what is here is not:
//! so runtimes hold numbers, and find this through a thread-local that is set while the run moves. A
//! call from another thread finds nothing, and says so.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::Waker;

use net_proto::identity::Identity;
use net_proto::node::{Event, Node};
use net_proto::path::Ecn;
use net_proto::time::{Duration, Instant};
use serde::Serialize;

use crate::checkers::{Seen, Watch};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::keyed::{Domain, bytes32};
use crate::net::{Link, LinkConfig};
use crate::null::fold;
use crate::plan::{DiskFault, Faults};
use crate::residents::Residents;
use crate::trace::Chain;
use crate::world::Failure;

thread_local! {
    static HERE: RefCell<Option<Rc<RefCell<Net>>>> = const { RefCell::new(None) };
}

/// Runs `f` while `net` is the one that machines find.
pub(super) fn enter<R>(net: &Rc<RefCell<Net>>, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Rc<RefCell<Net>>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            HERE.set(self.0.take());
        }
    }
    let _restore = Restore(HERE.replace(Some(net.clone())));
    f()
}

/// The run that this code is part of, if it is part of one now.
pub(super) fn try_with<R>(f: impl FnOnce(&mut Net) -> R) -> Option<R> {
    let net = HERE.with_borrow(Clone::clone)?;
    let mut net = net.borrow_mut();
    Some(f(&mut net))
}

/// The run that this code is part of.
///
/// # Panics
/// On another thread, and while the run does not move.
pub(super) fn with<R>(f: impl FnOnce(&mut Net) -> R) -> R {
    match try_with(f) {
        Some(out) => out,
        None => panic!("a simulated machine was used from a thread that is not the run's"),
    }
}

pub(super) struct Machine {
    /// Its address in turmoil.
    pub ip: Ipv4Addr,
    /// The address that others see.
    pub seen_as: Ipv4Addr,
    /// What others see added to each port.
    pub shift: u16,
    /// How often it was started.
    pub life: u32,
    pub running: bool,
    /// Its application returned.
    pub done: bool,
    pub clock: Clock,
    pub entropy: u64,
    pub identity: Identity,
    pub residents: Residents,
    /// Who waits for the clock.
    pub wakers: BTreeMap<u64, Waker>,
    pub next_timer: u64,
}

/// A datagram inside turmoil: what the link decided, and the datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// When it arrives, in world time.
    pub at: u64,
    /// Names it.
    pub id: u64,
    /// The node that sent it, if one did.
    pub node: Option<u32>,
    pub src: SocketAddrV4,
    pub dst: SocketAddrV4,
    pub ecn: Ecn,
    pub data: Vec<u8>,
}

const HEAD: usize = 8 + 8 + 4 + 6 + 6 + 1;

impl Frame {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + self.data.len());
        out.extend(self.at.to_le_bytes());
        out.extend(self.id.to_le_bytes());
        out.extend(self.node.unwrap_or(u32::MAX).to_le_bytes());
        for addr in [self.src, self.dst] {
            out.extend(addr.ip().octets());
            out.extend(addr.port().to_le_bytes());
        }
        out.push(self.ecn as u8);
        out.extend(&self.data);
        out
    }

    /// `None` for what does not come from [`Frame::encode`].
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
            let (head, rest) = bytes.split_first_chunk()?;
            *bytes = rest;
            Some(*head)
        }
        let addr = |bytes: &mut &[u8]| {
            let ip = Ipv4Addr::from(take::<4>(bytes)?);
            Some(SocketAddrV4::new(ip, u16::from_le_bytes(take(bytes)?)))
        };
        let at = u64::from_le_bytes(take(&mut bytes)?);
        let id = u64::from_le_bytes(take(&mut bytes)?);
        let node = Some(u32::from_le_bytes(take(&mut bytes)?)).filter(|node| *node != u32::MAX);
        let (src, dst) = (addr(&mut bytes)?, addr(&mut bytes)?);
        let [ecn] = take(&mut bytes)?;
        let ecn = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce].into_iter().find(|e| *e as u8 == ecn)?;
        Some(Self { at, id, node, src, dst, ecn, data: bytes.to_vec() })
    }
}

/// What machines share.
pub(super) struct Net {
    pub seed: u64,
    /// World time while no machine runs.
    pub now: u64,
    pub link: LinkConfig,
    pub links: BTreeMap<(u32, u32), Link>,
    pub machines: Vec<Machine>,
    pub disks: BTreeMap<(u32, PathBuf), Disk>,
    pub disk_faults: BTreeMap<(u32, usize), DiskFault>,
    pub watch: Watch,
    pub trace: Chain,
    pub failure: Option<Failure>,
    pub faults: Faults<(u32, u32)>,
    /// Datagrams so far.
    pub datagrams: u64,
    pub steps: u64,
}

impl Net {
    /// World time in nanoseconds: on the way through a tick it is the running machine's.
    pub fn now(&self) -> u64 {
        turmoil::sim_elapsed().map_or(self.now, |now| now.as_nanos() as u64)
    }

    pub fn at(&self) -> Duration {
        Duration::from_nanos(self.now())
    }

    pub fn fail(&mut self, node: Option<u32>, what: impl Into<String>) {
        let at = self.at();
        self.failure.get_or_insert_with(|| Failure { at, node, what: what.into() });
    }

    pub fn machine(&mut self, host: u32) -> &mut Machine {
        &mut self.machines[host as usize]
    }

    /// What a machine's clock reads.
    pub fn local(&self, host: u32) -> Instant {
        Instant::from_nanos(self.machines[host as usize].clock.read(self.now()))
    }

    /// 32 fresh bytes of a machine.
    pub fn draw(&mut self, host: u32) -> [u8; 32] {
        let seed = self.seed;
        let machine = self.machine(host);
        machine.entropy += 1;
        bytes32(seed, Domain::Entropy, u64::from(host), machine.entropy)
    }

    pub fn link(&mut self, from: u32, to: u32) -> &mut Link {
        let config = &self.link;
        let key = u64::from(from) << 32 | u64::from(to);
        let new = !self.links.contains_key(&(from, to));
        self.links.entry((from, to)).or_insert_with(|| Link::new(key, config.clone()));
        if new {
            self.refresh_link(from, to);
        }
        self.links.get_mut(&(from, to)).expect("made above")
    }

    /// Where others reach a port of a machine.
    pub fn visible(&self, host: u32, port: u16) -> SocketAddrV4 {
        let machine = &self.machines[host as usize];
        SocketAddrV4::new(machine.seen_as, port.wrapping_add(machine.shift))
    }

    /// The machine and the port behind an address.
    pub fn owner(&self, addr: SocketAddr) -> Option<(u32, u16)> {
        let host = self.machines.iter().position(|m| IpAddr::V4(m.seen_as) == addr.ip())?;
        Some((host as u32, addr.port().wrapping_sub(self.machines[host].shift)))
    }

    /// A datagram leaves a machine: what is to be sent through turmoil, and where to.
    pub fn send(
        &mut self,
        (host, port, node): (u32, u16, Option<u32>),
        to: SocketAddr,
        ecn: Ecn,
        data: &[u8],
    ) -> Vec<(SocketAddr, Frame)> {
        let (now, seed) = (self.now(), self.seed);
        self.datagrams += 1;
        let id = self.datagrams;
        let src = self.visible(host, port);
        self.trace.numbers(&[now, u64::from(host), 7, u64::from(ecn as u8)]);
        self.trace.bytes(data);
        if let Some(node) = node {
            let sent = Seen::Sent { node, id, src: src.into(), dst: to, ecn, data };
            self.watch.see(Duration::from_nanos(now), &sent);
        }
        let (Some((there, port)), SocketAddr::V4(dst)) = (self.owner(to), to) else { return Vec::new() };
        let mut whole = data.to_vec();
        let arrivals = self.link(host, there).offer(seed, now, &mut whole, ecn);
        let target = SocketAddr::from((self.machines[there as usize].ip, port));
        let frames = arrivals.into_iter().flatten().map(|arrival| {
            let mut data = whole.clone();
            if let Some(bit) = arrival.flip {
                data[bit / 8] ^= 1 << (bit % 8);
            }
            if let Some(len) = arrival.cut_to {
                data.truncate(len);
            }
            (target, Frame { at: arrival.at, id, node, src, dst, ecn: arrival.ecn, data })
        });
        frames.collect()
    }

    /// A datagram reaches a socket; false if the machine moved away meanwhile.
    pub fn arrived(&mut self, host: u32, port: u16, node: Option<u32>, frame: &Frame) -> bool {
        if self.visible(host, port) != frame.dst {
            return false;
        }
        let now = self.now();
        self.trace.numbers(&[now, u64::from(host), 1, u64::from(frame.ecn as u8)]);
        self.trace.bytes(&frame.data);
        if let Some(node) = node {
            let Frame { id, node: from, src, dst, data, .. } = frame;
            let (src, dst) = ((*src).into(), (*dst).into());
            let arrived = Seen::Arrived { node, id: *id, from: *from, src, dst, data };
            self.watch.see(Duration::from_nanos(now), &arrived);
        }
        true
    }

    pub fn started(&mut self, host: u32, number: u32, node: &Node) {
        let at = self.at();
        let life = self.machine(host).residents.started(number);
        self.watch.see(at, &Seen::Started { node: number, life, entity: node.me() });
    }

    /// Something passed between a node and those who use it.
    pub fn api(&mut self, kind: u64, node: u32, value: &impl Serialize, seen: &Seen<'_>) {
        let now = self.now();
        let bytes = postcard::to_allocvec(value).expect("it serialises");
        self.trace.numbers(&[now, u64::from(node), kind]);
        self.trace.bytes(&bytes);
        self.watch.see(Duration::from_nanos(now), seen);
    }

    pub fn event(&mut self, node: u32, event: &Event) {
        self.api(6, node, event, &Seen::Event { node, event });
    }

    /// A machine's disk.
    pub fn disk(&mut self, host: u32, dir: &Path) -> Disk {
        let seed = self.seed;
        let faults = &self.disk_faults;
        let entry = self.disks.entry((host, dir.to_path_buf()));
        let disk = entry.or_insert_with_key(|(_, dir)| {
            let disk = Disk::new(seed, fold(u64::from(host), dir.to_string_lossy().as_bytes()));
            let faults = faults.iter().filter(|((h, _), _)| *h == host);
            faults.for_each(|((_, number), fault)| disk.worsen(*number, fault));
            disk
        });
        disk.clone()
    }

    pub fn disks_of(&self, host: u32) -> impl Iterator<Item = &Disk> {
        self.disks.iter().filter(move |((h, _), _)| *h == host).map(|(_, disk)| disk)
    }

    /// A machine lost its power: its nodes end without a word.
    pub fn stopped(&mut self, host: u32) {
        let now = self.now();
        self.trace.numbers(&[now, u64::from(host), 0xdead]);
        let machine = self.machine(host);
        machine.running = false;
        machine.life += 1;
        machine.wakers.clear();
        for node in machine.residents.crash() {
            self.watch.see(Duration::from_nanos(now), &Seen::Stopped { node });
        }
        self.disks_of(host).for_each(Disk::crash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_as_it_was() {
        let addr = |n| SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, n), 7_000 + u16::from(n));
        for node in [None, Some(7)] {
            let (src, dst) = (addr(1), addr(2));
            let frame = Frame { at: 5, id: 6, node, src, dst, ecn: Ecn::Ce, data: vec![1, 2, 3] };
            assert_eq!(Frame::decode(&frame.encode()), Some(frame.clone()));
            assert_eq!(Frame::decode(&frame.encode()[..HEAD - 1]), None);
        }
    }
}
