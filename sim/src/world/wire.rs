//! The way of a datagram: out of a node, over links, past copiers, into a node.

use super::*;
use net_proto::session::DATA;

impl World {
    pub(super) fn send(&mut self, place: u32, transmit: &Transmit, out: &[u8]) {
        let Some(dst) = transmit.path.udp_addr() else {
            return self.fail(Some(place), format!("a path that is not UDP: {:?}", transmit.path));
        };
        let segment = transmit.segment.unwrap_or(transmit.len);
        if transmit.len == 0 || segment == 0 || transmit.len > out.len() {
            return self.fail(Some(place), format!("a transmit that cannot be: {transmit:?}"));
        }
        self.stats.batches += 1;
        let chain = &mut self.places[place as usize].chain;
        chain.numbers(&[self.now, 7, path_number(&transmit.path), transmit.len as u64]);
        for data in out[..transmit.len].chunks(segment) {
            let src = self.source(place, &transmit.path, dst);
            let id = self.stats.datagrams + 1;
            let sent = Seen::Sent { node: place, id, src, dst, ecn: transmit.ecn, data };
            self.watch.see(Duration::from_nanos(self.now), &sent);
            let data = self.buffer(data);
            self.depart(place, src, dst, data, transmit.ecn);
        }
    }

    /// A copy of a datagram, in memory that was used before.
    pub(super) fn buffer(&mut self, data: &[u8]) -> Vec<u8> {
        let mut bytes = self.buffers.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(data);
        bytes
    }

    pub(super) fn depart(&mut self, place: u32, src: SocketAddr, dst: SocketAddr, data: Vec<u8>, ecn: Ecn) {
        self.stats.datagrams += 1;
        self.stats.bytes += data.len() as u64;
        let owner = self.owner(place, dst);
        match owner {
            None => {
                self.stats.nowhere += 1;
                self.recycle(data);
            }
            Some(Owner::Outsider(i)) => self.outsiders[i].1.push(data),
            Some(Owner::Copier(i)) => {
                let copier = &mut self.copiers[i];
                copier.got.0 += 1;
                copier.got.1 += data.len() as u64;
                if copier.relay && !(copier.handshakes_only && data.first() == Some(&DATA)) {
                    let (a, b) = copier.between;
                    let (to, via) = (if place == a { b } else { a }, copier.addr);
                    // As fast as an attacker can hope for: just ahead of the honest way.
                    let at = self.now + nanos(self.link(place, to).config.delay).saturating_sub(1_000_000);
                    let dst = self.addr(to);
                    self.arrive_at(at, data, via, dst, ecn, to);
                }
            }
            Some(Owner::Node(to) | Owner::Host(to)) => {
                let way = self.way(place, to);
                let id = self.stats.datagrams;
                let original = if self.copiers.is_empty() { Vec::new() } else { data.clone() };
                let packet = Packet { id, from: Some(place), data, src, dst, ecn, to, way, hop: 0 };
                match self.link_of(way, 0) {
                    Some(link) => {
                        let first = self.pass(packet, link);
                        self.copy(place, to, dst, &original, ecn, first);
                    }
                    None => self.push_packet(self.now, packet),
                }
            }
        }
    }

    /// The copiers' part: the copy arrives before the original would have.
    pub(super) fn copy(
        &mut self,
        from: u32,
        to: u32,
        dst: SocketAddr,
        data: &[u8],
        ecn: Ecn,
        original: Option<u64>,
    ) {
        for i in 0..self.copiers.len() {
            let Copier { between: (a, b), addr, lead, handshakes_only, .. } = self.copiers[i];
            let left_alone = handshakes_only && data.first() == Some(&DATA);
            if left_alone || (from, to) != (a, b) && (from, to) != (b, a) {
                continue;
            }
            let usual = self.now + nanos(self.link(from, to).config.delay);
            let at = original.unwrap_or(usual).saturating_sub(lead).max(self.now);
            self.arrive_at(at, data.to_vec(), addr, dst, ecn, to);
        }
    }

    pub(super) fn arrive_at(
        &mut self,
        at: u64,
        data: Vec<u8>,
        src: SocketAddr,
        dst: SocketAddr,
        ecn: Ecn,
        to: u32,
    ) {
        self.push_packet(at, Packet { id: 0, from: None, data, src, dst, ecn, to, way: Way::None, hop: 0 });
    }

    /// A packet enters the link of its hop. Returns when the first copy comes out.
    pub(super) fn pass(&mut self, mut packet: Packet, link: usize) -> Option<u64> {
        let arrivals = self.links[link].offer(self.config.seed, self.now, &mut packet.data, packet.ecn);
        packet.hop += 1;
        let first = arrivals[0].map(|a| a.at);
        if let [Some(_), Some(second)] = arrivals {
            let copy = Packet { data: packet.data.clone(), ecn: second.ecn, ..packet };
            self.push_packet(second.at, copy);
        }
        let Some(arrival) = arrivals[0] else {
            self.recycle(packet.data);
            return None;
        };
        packet.ecn = arrival.ecn;
        if let Some(bit) = arrival.flip {
            packet.data[bit / 8] ^= 1 << (bit % 8);
        }
        if let Some(len) = arrival.cut_to {
            packet.data.truncate(len);
        }
        self.push_packet(arrival.at, packet);
        first
    }

    pub(super) fn recycle(&mut self, data: Vec<u8>) {
        if self.buffers.len() < 4_096 {
            self.buffers.push(data);
        }
    }

    pub(super) fn travel(&mut self, slot: u32) {
        let packet = self.packets.take(slot);
        if let Some(link) = self.link_of(packet.way, packet.hop) {
            self.pass(packet, link);
            return;
        }
        let to = packet.to;
        self.arrive(packet);
        // What arrives at one instant is read in one batch, as GRO would hand it over.
        for _ in 0..63 {
            let Some(Entry { at, place, kind: Kind::Packet(next), .. }) = self.queue.peek() else { break };
            let arrives = |p: &Packet| self.link_of(p.way, p.hop).is_none();
            if at != self.now || place != to || !self.packets.get(next).is_some_and(arrives) {
                break;
            }
            self.queue.pop();
            self.pending -= 1;
            self.stats.events += 1;
            let packet = self.packets.take(next);
            self.arrive(packet);
        }
        self.settle(to);
    }

    pub(super) fn arrive(&mut self, mut packet: Packet) {
        let index = packet.to as usize;
        if self.places[index].machine {
            return self.arrive_at_machine(packet);
        }
        let own = self.owner_of(&packet.dst) == Some(Owner::Node(packet.to));
        if !(own || self.translated(&packet).is_some()) || self.places[index].node.is_none() {
            self.stats.nowhere += 1;
            return self.recycle(packet.data);
        }
        self.stats.arrived += 1;
        let Packet { id, from, src, dst, ref data, .. } = packet;
        let arrived = Seen::Arrived { node: packet.to, id, from, src, dst, data };
        self.watch.see(Duration::from_nanos(self.now), &arrived);
        let p = &self.places[index];
        // Behind a NAT the node sees its inside address.
        let local = if p.also.contains(&dst) { dst.ip() } else { p.addr.ip() };
        let path = Path { socket: 0, local: Some(local), remote: Remote::Udp(packet.src) };
        let ecn = packet.ecn;
        self.input(packet.to, Input::Datagram { path, ecn, data: &mut packet.data });
        self.recycle(packet.data);
    }

    fn arrive_at_machine(&mut self, packet: Packet) {
        let Some(socket) = self.socket_for(&packet) else {
            self.stats.nowhere += 1;
            return self.recycle(packet.data);
        };
        let Packet { id, from, to, dst, src, ecn, data, .. } = packet;
        self.stats.arrived += 1;
        let chain = &mut self.places[to as usize].chain;
        chain.numbers(&[self.now, 1, ecn as u64]);
        chain.bytes(&data);
        // As a node would see it: what finds no room in the socket never came.
        let Some(node) = self.exec.has_room(to, socket, data.len()) else { return self.recycle(data) };
        if let Some(node) = node {
            let arrived = Seen::Arrived { node, id, from, src, dst, data: &data };
            self.watch.see(Duration::from_nanos(self.now), &arrived);
        }
        self.exec.deliver(to, socket, src, ecn, data);
    }

    /// The socket of a machine that a packet is for, by the machine's own address.
    fn socket_for(&mut self, packet: &Packet) -> Option<SocketAddr> {
        let p = &self.places[packet.to as usize];
        let (addr, dst) = (p.addr, packet.dst);
        match p.public {
            _ if p.nat.is_some() && dst.ip() != addr.ip() => self.translated(packet),
            Some(public) if public.ip() == dst.ip() => {
                let port = dst.port().wrapping_sub(public.port()).wrapping_add(addr.port());
                Some(SocketAddr::new(addr.ip(), port))
            }
            Some(_) => None,
            None => (self.owner_of(&dst) == Some(Owner::Host(packet.to))).then_some(dst),
        }
    }

    /// The address that others see a datagram of a machine's socket come from.
    pub(super) fn machine_source(&mut self, place: u32, from: SocketAddr, dst: SocketAddr) -> SocketAddr {
        let p = &self.places[place as usize];
        match (p.nat, p.public) {
            (Some(nat), _) if !self.share_a_nat(place, &dst) => self.nats[nat].outbound(self.now, from, dst),
            (None, Some(public)) => {
                let port = from.port().wrapping_sub(p.addr.port()).wrapping_add(public.port());
                SocketAddr::new(public.ip(), port)
            }
            _ => from,
        }
    }

    /// Whether an address is that of somebody behind the same translation.
    fn share_a_nat(&self, place: u32, addr: &SocketAddr) -> bool {
        match self.owner_of(addr) {
            Some(Owner::Node(to) | Owner::Host(to)) => {
                self.places[to as usize].nat == self.places[place as usize].nat
            }
            _ => false,
        }
    }

    /// The address that others see a node's datagram come from.
    fn source(&mut self, place: u32, path: &Path, dst: SocketAddr) -> SocketAddr {
        let p = &self.places[place as usize];
        if p.plain && p.also.is_empty() {
            return p.addr;
        }
        let chosen = path.local.and_then(|ip| p.also.iter().find(|a| a.ip() == ip)).copied();
        if let Some(own) = chosen {
            return own;
        }
        match p.nat {
            Some(nat) if !self.share_a_nat(place, &dst) => {
                let inside = p.addr;
                self.nats[nat].outbound(self.now, inside, dst)
            }
            _ => p.public.unwrap_or(p.addr),
        }
    }

    /// Who has an address.
    pub(super) fn owner_of(&self, addr: &SocketAddr) -> Option<Owner> {
        // Most nodes are where they were at first.
        if let SocketAddr::V4(v4) = addr {
            let place = u32::from(*v4.ip()).wrapping_sub(FIRST_ADDR);
            if self.places.get(place as usize).is_some_and(|p| p.plain && p.addr == *addr) {
                return Some(Owner::Node(place));
            }
        }
        self.owners.get(addr).copied()
    }

    /// The machine that is seen at this address, whatever its sockets.
    fn machine_at(&self, addr: &SocketAddr) -> Option<u32> {
        if let Some(moved) = self.machine_seen_at.get(&addr.ip()) {
            return Some(*moved);
        }
        let SocketAddr::V4(v4) = addr else { return None };
        let place = u32::from(*v4.ip()).wrapping_sub(FIRST_ADDR);
        let p = self.places.get(place as usize)?;
        (p.machine && p.public.is_none() && p.addr.ip() == addr.ip()).then_some(place)
    }

    /// Who gets what a node sends to an address.
    fn owner(&self, place: u32, dst: SocketAddr) -> Option<Owner> {
        let mine = self.places[place as usize].nat;
        match self.owner_of(&dst) {
            // An inside address means something only behind the same translation.
            Some(Owner::Node(to)) => {
                let p = &self.places[to as usize];
                let hidden = p.nat.is_some() && p.nat != mine && p.addr == dst;
                (!hidden).then_some(Owner::Node(to))
            }
            Some(owner @ (Owner::Copier(_) | Owner::Outsider(_))) => Some(owner),
            // Whether the socket is there is seen when the datagram is.
            Some(Owner::Host(_)) | None if self.machine_at(&dst).is_some() => {
                let to = self.machine_at(&dst)?;
                let p = &self.places[to as usize];
                (p.nat.is_none() || p.nat == mine).then_some(Owner::Host(to))
            }
            _ => {
                let nat = *self.nat_of.get(&dst.ip())?;
                let inside = self.nats[nat].leads_to(self.now, dst, mine == Some(nat))?;
                self.owners.get(&inside).copied()
            }
        }
    }

    /// The address behind a NAT that an arriving datagram is let through to now, if it is its receiver's.
    fn translated(&mut self, packet: &Packet) -> Option<SocketAddr> {
        let nat = self.nat_of.get(&packet.dst.ip()).copied()?;
        let hairpin = self.nats[nat].public_ip() == packet.src.ip();
        let inside = self.nats[nat].inbound(self.now, packet.src, packet.dst, hairpin)?;
        let owner = self.owners.get(&inside).copied();
        let its = owner == Some(Owner::Node(packet.to)) || owner == Some(Owner::Host(packet.to));
        its.then_some(inside)
    }
}
