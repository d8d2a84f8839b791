//! L0: two nodes as the shards of one socket address. A dispatcher stands for the kernel, which picks
//! a shard by a hash of the sender's address, and for the forwarding by index (docs/SCALING.md).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use net_proto::identity::{EntityId, Identity, Incarnation, Mesh, MeshId, MeshKey};
use net_proto::node::{Command, Config, DownReason, Event, Input, Node, Steer, steer};
use net_proto::path::{Ecn, Path};
use net_proto::session::Peer;
use net_proto::stream::{Messages, Mode, StreamId, charge, frame_message};
use net_proto::time::Instant;

const MS: Duration = Duration::from_millis(1);
/// Every datagram takes so long.
const DELAY: Duration = Duration::from_millis(5);
/// Nodes 0 and 1 are the shards; clients follow.
const SHARDS: usize = 2;

fn server() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 7000))
}

fn client_addr(client: usize, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 1, client as u8], port))
}

/// How the dispatcher works.
#[derive(Clone, Copy, PartialEq)]
enum Steering {
    /// As docs/SCALING.md says.
    ByIndex,
    /// The kernel's hash alone.
    HashOnly,
}

/// A datagram under way: to, from, its ECN bits, its bytes.
type Flying = (SocketAddr, SocketAddr, Ecn, Vec<u8>);

struct Net {
    now: Instant,
    steering: Steering,
    nodes: Vec<Node>,
    /// Where each node sends from.
    addrs: Vec<SocketAddr>,
    wire: BTreeMap<(Instant, u64), Flying>,
    sent: u64,
    /// Which shard's association lives at an address, as the shards tell.
    owners: BTreeMap<SocketAddr, usize>,
    at: BTreeMap<(usize, Peer), SocketAddr>,
    /// By first byte: datagrams that the kernel gave to the wrong shard.
    forwarded: BTreeMap<u8, u64>,
    /// Datagrams for a shard that does not exist.
    nowhere: u64,
    events: Vec<Vec<Event>>,
    received: Vec<BTreeMap<(Peer, StreamId), Vec<u32>>>,
}

fn identity(node: usize) -> Identity {
    // The shards are one identity.
    Identity::from_seed(&[if node < SHARDS { 1 } else { node as u8 + 10 }; 32])
}

impl Net {
    fn new(clients: usize, steering: Steering, tune: impl Fn(usize, &mut Config)) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let mesh = Mesh { id: MeshId([1; 32]), key: MeshKey([2; 32]) };
        let count = SHARDS + clients;
        let node = |n: usize| {
            let incarnation = Incarnation { epoch: 1, random: if n < SHARDS { 0 } else { n as u64 } };
            let mut config = Config::new(identity(n), mesh.clone(), incarnation);
            if n < SHARDS {
                config.shard = n as u8;
            }
            tune(n, &mut config);
            // Another seed for each shard: other cookies, other indices.
            Node::new(config, [n as u8 + 1; 32], now).expect("a configuration that works")
        };
        let addr = |n: usize| if n < SHARDS { server() } else { client_addr(n, 1000 + n as u16) };
        Self {
            now,
            steering,
            nodes: (0..count).map(node).collect(),
            addrs: (0..count).map(addr).collect(),
            wire: BTreeMap::new(),
            sent: 0,
            owners: BTreeMap::new(),
            at: BTreeMap::new(),
            forwarded: BTreeMap::new(),
            nowhere: 0,
            events: vec![Vec::new(); count],
            received: vec![BTreeMap::new(); count],
        }
    }

    /// The kernel's choice.
    fn hash(from: SocketAddr) -> usize {
        usize::from(from.port()) % SHARDS
    }

    fn arrive(&mut self, to: SocketAddr, from: SocketAddr, ecn: Ecn, data: &mut Vec<u8>) {
        if to != server() {
            // Somebody who moved does not hear what goes to the old address.
            if let Some(node) = self.addrs.iter().position(|addr| *addr == to) {
                self.input(node, Input::Datagram { path: Path::udp(from), ecn, data });
            }
            return;
        }
        let kernel = Self::hash(from);
        let shards = match (self.steering, steer(data)) {
            (Steering::HashOnly, _) => vec![kernel],
            (_, Steer::Shard(shard)) if usize::from(shard) < SHARDS => vec![usize::from(shard)],
            (_, Steer::Shard(_)) => {
                self.nowhere += 1;
                vec![]
            }
            (_, Steer::Address) => vec![*self.owners.get(&from).unwrap_or(&kernel)],
            (_, Steer::Every) => (0..SHARDS).collect(),
        };
        for shard in shards {
            if shard != kernel {
                *self.forwarded.entry(data[0]).or_default() += 1;
            }
            let mut copy = data.clone();
            self.input(shard, Input::Datagram { path: Path::udp(from), ecn, data: &mut copy });
        }
    }

    fn command(&mut self, node: usize, command: Command) {
        self.input(node, Input::Command(command));
    }

    /// One input, and everything that a driver does after it.
    fn input(&mut self, node: usize, input: Input<'_>) {
        let now = self.now;
        self.nodes[node].handle(now, input);
        while let Some((ticket, job)) = self.nodes[node].poll_job() {
            self.nodes[node].handle(now, Input::Job(ticket, job.run()));
        }
        self.events_of(node);
        let mut buf = vec![0; 64 * 1500];
        while let Some(t) = self.nodes[node].poll_transmit(now, &mut buf) {
            let to = t.path.udp_addr().expect("all paths are UDP here");
            for datagram in buf[..t.len].chunks(t.segment.unwrap_or(t.len)) {
                self.sent += 1;
                let flying = (to, self.addrs[node], t.ecn, datagram.to_vec());
                self.wire.insert((now + DELAY, self.sent), flying);
            }
        }
        self.events_of(node);
    }

    fn events_of(&mut self, node: usize) {
        while let Some(event) = self.nodes[node].poll_event() {
            match &event {
                Event::Readable { peer, stream } => self.read(node, *peer, *stream),
                Event::Connected { peer, path, .. } | Event::PathChanged { peer, path } if node < SHARDS => {
                    self.own(node, *peer, path.udp_addr());
                }
                Event::Disconnected { peer, .. } if node < SHARDS => self.own(node, *peer, None),
                _ => {}
            }
            self.events[node].push(event);
        }
    }

    /// A shard says where one of its peers is now.
    fn own(&mut self, shard: usize, peer: Peer, addr: Option<SocketAddr>) {
        if let Some(old) = self.at.remove(&(shard, peer))
            && self.owners.get(&old) == Some(&shard)
        {
            self.owners.remove(&old);
        }
        if let Some(addr) = addr {
            self.at.insert((shard, peer), addr);
            self.owners.insert(addr, shard);
        }
    }

    fn read(&mut self, node: usize, peer: Peer, stream: StreamId) {
        while let Some(taken) = self.nodes[node].take(peer, stream, &mut Vec::new()) {
            let mut total = 0;
            for (_, message) in Messages::received(&taken.chunk, taken.mode, taken.first) {
                total += charge(message.len());
                let number = u32::from_le_bytes(message[..4].try_into().expect("a number"));
                self.received[node].entry((peer, stream)).or_default().push(number);
            }
            if total == 0 {
                break;
            }
            let now = self.now;
            let consumed = Command::Consumed { peer, stream, charge: total };
            self.nodes[node].handle(now, Input::Command(consumed));
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        for _ in 0..2_000_000 {
            let timer = self.nodes.iter().enumerate();
            let timer =
                timer.filter_map(|(n, node)| node.poll_timeout().map(|(at, _)| (at.max(self.now), n)));
            let (timer, arrival) = (timer.min(), self.wire.keys().next().copied());
            match (timer, arrival) {
                (_, Some(key)) if timer.is_none_or(|(at, _)| key.0 <= at) && key.0 <= until => {
                    let (to, from, ecn, mut data) = self.wire.remove(&key).expect("the first key");
                    self.now = key.0;
                    self.arrive(to, from, ecn, &mut data);
                }
                (Some((at, node)), _) if at <= until => {
                    self.now = at;
                    self.input(node, Input::Timeout);
                }
                _ => {
                    self.now = until;
                    return;
                }
            }
        }
        panic!("no progress at {:?}", self.now);
    }

    fn dial(&mut self, node: usize, entity: EntityId, to: SocketAddr) {
        self.command(node, Command::Dial { id: 1, entity, paths: vec![Path::udp(to)] });
    }

    /// The handle that `node` has for `entity`, if it is connected.
    fn peer(&self, node: usize, entity: EntityId) -> Option<Peer> {
        let mut found = None;
        for event in &self.events[node] {
            match event {
                Event::Connected { peer, entity: who, .. } if *who == entity => found = Some(*peer),
                Event::Disconnected { peer, .. } if found == Some(*peer) => found = None,
                _ => {}
            }
        }
        found
    }

    /// The shard that has this client, and its handle there.
    fn shard_of(&self, client: usize) -> (usize, Peer) {
        let held = (0..SHARDS).filter_map(|s| Some((s, self.peer(s, identity(client).id())?)));
        let held: Vec<_> = held.collect();
        assert_eq!(held.len(), 1, "client {client} is in one shard");
        held[0]
    }

    fn open(&mut self, node: usize, peer: Peer) -> StreamId {
        let open = Command::Open { id: 9, peer, label: "numbers".into(), mode: Mode::Reliable, priority: 16 };
        self.command(node, open);
        let ready = self.events[node].iter().rev().find_map(|event| match event {
            Event::StreamReady { stream, .. } => Some(*stream),
            _ => None,
        });
        ready.expect("the stream opens")
    }

    fn send(&mut self, node: usize, peer: Peer, stream: StreamId, number: u32) {
        let mut chunk = Vec::new();
        let mut message = [0; 700];
        message[..4].copy_from_slice(&number.to_le_bytes());
        frame_message(&mut chunk, &message);
        self.command(node, Command::Send { peer, stream, chunk });
    }

    /// Moves a client to an address that the kernel hashes to the other shard.
    fn roam(&mut self, client: usize) {
        let old = self.addrs[client];
        self.addrs[client] = client_addr(client, old.port() + 1001);
        assert_ne!(Self::hash(old), Self::hash(self.addrs[client]));
    }

    fn downs(&self, node: usize) -> Vec<DownReason> {
        let down = |event: &Event| match event {
            Event::Disconnected { reason, .. } => Some(*reason),
            _ => None,
        };
        self.events[node].iter().filter_map(down).collect()
    }
}

/// Eight clients, one stream in each direction: (client, its handle and stream, shard, its handle
/// and stream).
type Flow = (usize, (Peer, StreamId), usize, (Peer, StreamId));

fn connected(net: &mut Net, clients: usize) -> Vec<Flow> {
    for client in SHARDS..SHARDS + clients {
        net.dial(client, identity(0).id(), server());
    }
    net.run(MS * 500);
    let mut flows = Vec::new();
    for client in SHARDS..SHARDS + clients {
        let up = net.peer(client, identity(0).id()).expect("connected");
        let (shard, down) = net.shard_of(client);
        flows.push((client, (up, net.open(client, up)), shard, (down, net.open(shard, down))));
    }
    flows
}

/// Sends `rounds` numbers both ways on every flow, 2 ms apart; clients roam where `roam` says so.
fn exchange(net: &mut Net, flows: &[Flow], rounds: std::ops::Range<u32>, roam: impl Fn(u32) -> bool) {
    for number in rounds {
        for (client, up, shard, down) in flows {
            net.send(*client, up.0, up.1, number);
            net.send(*shard, down.0, down.1, number);
        }
        if roam(number) {
            flows.iter().for_each(|(client, ..)| net.roam(*client));
        }
        net.run(MS * 2);
    }
}

fn assert_delivered(net: &Net, flows: &[Flow], count: u32) {
    for (client, up, shard, down) in flows {
        // A stream has one name at both ends.
        let at_shard = &net.received[*shard][&(down.0, up.1)];
        let at_client = &net.received[*client][&(up.0, down.1)];
        for (way, got) in [("to the shard", at_shard), ("to the client", at_client)] {
            assert!(got.iter().copied().eq(0..count), "client {client} {way}: {} of {count}", got.len());
        }
    }
}

#[test]
fn sessions_roam_between_shards_and_stay_where_they_are() {
    let mut net = Net::new(8, Steering::ByIndex, |_, _| {});
    let flows = connected(&mut net, 8);
    for (client, _, shard, _) in &flows {
        assert_eq!(*shard, Net::hash(net.addrs[*client]), "the kernel's hash spreads handshakes");
    }
    assert_eq!([net.nodes[0].stats().peers, net.nodes[1].stats().peers], [4, 4]);
    assert!(net.forwarded.is_empty(), "nothing is forwarded before anybody moves: {:?}", net.forwarded);

    exchange(&mut net, &flows, 0..600, |number| number == 100 || number == 400);
    net.run(Duration::from_secs(3));
    assert_delivered(&net, &flows, 600);
    for (client, _, shard, down) in &flows {
        assert_eq!(net.shard_of(*client), (*shard, down.0), "the association stayed");
        assert!(net.downs(*client).is_empty());
        let moved = net.events[*shard].iter().any(|event| {
            matches!(event, Event::PathChanged { peer, path } if *peer == down.0
                && path.udp_addr() == Some(net.addrs[*client]))
        });
        assert!(moved, "client {client} is reached at its new address");
    }
    assert!(net.forwarded[&5] > 1000, "packets by the index's shard: {:?}", net.forwarded);
    for shard in 0..SHARDS {
        assert_eq!(net.nodes[shard].stats().drops.unknown_index, 0, "no shard saw another's packet");
    }
}

/// The same without forwarding shows what it is for.
#[test]
fn the_hash_alone_loses_who_roams() {
    let mut net = Net::new(8, Steering::HashOnly, |_, _| {});
    let flows = connected(&mut net, 8);
    exchange(&mut net, &flows, 0..200, |number| number == 100);
    net.run(Duration::from_secs(1));
    for (client, up, shard, down) in &flows {
        let got = &net.received[*shard][&(down.0, up.1)];
        assert!(got.len() < 200, "client {client} should be cut off");
    }
    assert!(net.nodes.iter().take(SHARDS).all(|shard| shard.stats().drops.unknown_index > 0));
}

/// Message 1 has no index: the shard that the association lives in gets it, by the address that the
/// association moved to.
#[test]
fn keys_are_renewed_from_the_new_address_in_the_same_association() {
    let mut net = Net::new(2, Steering::ByIndex, |_, config| {
        config.session.keys.rekey_after = Duration::from_secs(4);
        config.session.keys.refuse_after = Duration::from_secs(8);
    });
    let flows = connected(&mut net, 2);
    exchange(&mut net, &flows, 0..300, |number| number == 100);
    let before = net.nodes[0].stats().epochs + net.nodes[1].stats().epochs;
    exchange(&mut net, &flows, 300..8000, |number| number == 4000);
    net.run(Duration::from_secs(3));
    let epochs = net.nodes[0].stats().epochs + net.nodes[1].stats().epochs - before;
    assert!(epochs >= 4, "{epochs} renewals in 15 s");
    assert!(net.forwarded[&1] > 0, "a message 1 came to the wrong shard: {:?}", net.forwarded);
    assert_delivered(&net, &flows, 8000);
    for (client, _, shard, down) in &flows {
        assert_eq!(net.shard_of(*client), (*shard, down.0));
        assert!(net.downs(*client).is_empty() && net.downs(*shard).is_empty());
    }
}

/// A shard dials; the answers come from an address that the kernel hashes to the other one.
#[test]
fn answers_reach_the_shard_that_dialled() {
    // The clients ask everybody for a cookie: message 1, cookie reply, message 1, message 2.
    let mut net = Net::new(4, Steering::ByIndex, |n, config| {
        if n >= SHARDS {
            config.cookie_after = 0;
        }
    });
    for client in SHARDS..SHARDS + 4 {
        let wrong = 1 - Net::hash(net.addrs[client]);
        net.dial(wrong, identity(client).id(), net.addrs[client]);
    }
    net.run(Duration::from_secs(2));
    for client in SHARDS..SHARDS + 4 {
        assert_eq!(net.shard_of(client).0, 1 - Net::hash(net.addrs[client]));
    }
    assert!(net.forwarded[&2] >= 4 && net.forwarded[&3] >= 4, "{:?}", net.forwarded);
    assert_eq!(net.nowhere, 0);
    // An index of a shard that does not exist goes nowhere.
    let mut stray = vec![5; 40];
    stray[4] = 200;
    let (from, before) = (net.addrs[SHARDS], net.nodes[0].stats().datagrams_received);
    net.arrive(server(), from, Ecn::NotEct, &mut stray);
    assert_eq!((net.nowhere, net.nodes[0].stats().datagrams_received), (1, before));
}
