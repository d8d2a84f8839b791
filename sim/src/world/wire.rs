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
        self.trace.numbers(&[
            self.now,
            u64::from(place),
            7,
            path_number(&transmit.path),
            transmit.len as u64,
        ]);
        for data in out[..transmit.len].chunks(segment) {
            self.stats.datagrams += 1;
            self.stats.bytes += data.len() as u64;
            if let Err(what) = self.places[place as usize].guard.sent(dst, data) {
                return self.fail(Some(place), what);
            }
            if let (true, Some(marker)) = (self.config.real_ciphers, &self.config.marker)
                && contains(data, marker)
            {
                return self.fail(Some(place), "plaintext on the wire");
            }
            self.depart(place, self.addr(place), dst, data, transmit.ecn);
        }
    }

    pub(super) fn depart(&mut self, place: u32, src: SocketAddr, dst: SocketAddr, data: &[u8], ecn: Ecn) {
        let mut bytes = self.buffers.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(data);
        match self.owners.get(&dst) {
            None => {
                self.stats.nowhere += 1;
                self.buffers.push(bytes);
            }
            Some(Owner::Outsider(i)) => self.outsiders[*i].1.push(bytes),
            Some(Owner::Copier(i)) => {
                let copier = &mut self.copiers[*i];
                copier.got.0 += 1;
                copier.got.1 += data.len() as u64;
                if copier.relay && !(copier.handshakes_only && data.first() == Some(&DATA)) {
                    let (a, b) = copier.between;
                    let (to, via) = (if place == a { b } else { a }, copier.addr);
                    // As fast as an attacker can hope for: just ahead of the honest way.
                    let at = self.now + nanos(self.link(place, to).config.delay).saturating_sub(1_000_000);
                    let dst = self.addr(to);
                    self.arrive_at(at, bytes, via, dst, ecn, to);
                }
            }
            Some(Owner::Node(to) | Owner::Host(to)) => {
                let to = *to;
                let route = self.route(place, to);
                let first = self.pass(Packet { data: bytes, src, dst, ecn, to, route, hop: 0 });
                self.copy(place, to, dst, data, ecn, first);
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
        let packet = Packet { data, src, dst, ecn, to, route: usize::MAX, hop: usize::MAX };
        let slot = self.packets.put(packet);
        self.push(at, Kind::Packet(slot));
    }

    /// A packet enters the link of its hop. Returns when the first copy comes out.
    pub(super) fn pass(&mut self, mut packet: Packet) -> Option<u64> {
        let link = self.routes[packet.route][packet.hop];
        let arrivals = self.links[link].offer(self.config.seed, self.now, &mut packet.data, packet.ecn);
        packet.hop += 1;
        let first = arrivals[0].map(|a| a.at);
        if let [Some(_), Some(second)] = arrivals {
            let copy = Packet { data: packet.data.clone(), ecn: second.ecn, ..packet };
            let slot = self.packets.put(copy);
            self.push(second.at, Kind::Packet(slot));
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
        let slot = self.packets.put(packet);
        self.push(arrival.at, Kind::Packet(slot));
        first
    }

    pub(super) fn recycle(&mut self, data: Vec<u8>) {
        if self.buffers.len() < 4_096 {
            self.buffers.push(data);
        }
    }

    pub(super) fn travel(&mut self, slot: usize) {
        let packet = self.packets.take(slot);
        if packet.hop < self.routes.get(packet.route).map_or(0, Vec::len) {
            self.pass(packet);
            return;
        }
        let to = packet.to;
        self.arrive(packet);
        // What arrives at one instant is read in one batch, as GRO would hand it over.
        for _ in 0..63 {
            let Some(Reverse(Entry { at, kind: Kind::Packet(next), .. })) = self.queue.peek() else { break };
            let joins = self.packets.get(*next).is_some_and(|p| {
                *at == self.now && p.to == to && p.hop >= self.routes.get(p.route).map_or(0, Vec::len)
            });
            if !joins {
                break;
            }
            let next = *next;
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
        if self.owners.get(&packet.dst) == Some(&Owner::Host(packet.to)) {
            self.stats.arrived += 1;
            self.trace.numbers(&[self.now, u64::from(packet.to), 1, u64::from(packet.ecn as u8)]);
            self.trace.bytes(&packet.data);
            self.exec.deliver(packet.dst, packet.src, packet.ecn, &packet.data);
            return self.recycle(packet.data);
        }
        if self.owners.get(&packet.dst) != Some(&Owner::Node(packet.to)) || self.places[index].node.is_none()
        {
            self.stats.nowhere += 1;
            return self.recycle(packet.data);
        }
        self.stats.arrived += 1;
        let p = &mut self.places[index];
        p.guard.got(packet.src, packet.data.len());
        // Behind a NAT the node sees its inside address.
        let path = Path { socket: 0, local: Some(p.addr.ip()), remote: Remote::Udp(packet.src) };
        let ecn = packet.ecn;
        self.input(packet.to, Input::Datagram { path, ecn, data: &mut packet.data });
        self.recycle(packet.data);
    }
}
