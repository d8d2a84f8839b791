//! Nodes joined by a wire that loses, delays, duplicates and reorders as it is told.

use super::*;
use crate::identity::{Identity, Incarnation, Mesh, MeshId, MeshKey};
use crate::path::{Ecn, Remote};
use crate::stream::{Messages, Mode, charge, frame_message};
use crate::time::Duration;
use std::format;
use std::string::{String, ToString};
use std::vec;

const MS: Duration = Duration::from_millis(1);

fn addr(node: usize) -> core::net::SocketAddr {
    core::net::SocketAddr::from(([10, 0, 0, node as u8 + 1], 7000))
}

fn mesh() -> Mesh {
    Mesh { id: MeshId([1; 32]), key: MeshKey([2; 32]) }
}

fn config(node: usize, epoch: u64) -> Config {
    let identity = Identity::from_seed(&[node as u8 + 10; 32]);
    Config::new(identity, mesh(), Incarnation { epoch, random: node as u64 })
}

/// What becomes of the n-th datagram between two nodes: how often it arrives, after what delay.
type Fault = dyn FnMut(u64, usize, usize) -> Vec<Duration>;

/// A datagram under way: to whom, from where, its ECN bits, its bytes.
type Flying = (usize, core::net::SocketAddr, Ecn, Vec<u8>);
/// The messages of each stream.
type Received = BTreeMap<(Peer, StreamId), Vec<Vec<u8>>>;

struct Net {
    now: Instant,
    nodes: Vec<Node>,
    addrs: Vec<core::net::SocketAddr>,
    /// By arrival and tie-break.
    wire: BTreeMap<(Instant, u64), Flying>,
    sent: u64,
    fault: Box<Fault>,
    events: Vec<Vec<Event>>,
    received: Vec<Received>,
    drain: bool,
    steps: u64,
    /// What node 0 lived, and what came of each step.
    tape: Option<Vec<(Instant, Step, Output)>>,
}

impl Net {
    fn new(count: usize) -> Self {
        Self::with((0..count).map(|n| config(n, 1)).collect())
    }

    /// Two nodes that are connected, and node 0's handle to the other.
    fn joined() -> (Self, Peer) {
        let mut net = Self::new(2);
        net.dial(0, 1, 1);
        net.run(Duration::from_secs(1));
        let peer = net.peer(0, 1);
        (net, peer)
    }

    fn with(configs: Vec<Config>) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let count = configs.len();
        let nodes =
            configs.into_iter().enumerate().map(|(n, c)| Node::new(c, [n as u8; 32], now).unwrap()).collect();
        Self {
            now,
            nodes,
            addrs: (0..count).map(addr).collect(),
            wire: BTreeMap::new(),
            sent: 0,
            fault: Box::new(|_, _, _| vec![MS * 5]),
            events: vec![Vec::new(); count],
            received: vec![BTreeMap::new(); count],
            drain: true,
            steps: 0,
            tape: None,
        }
    }

    fn command(&mut self, node: usize, command: Command) {
        self.input(node, Input::Command(command));
        self.settle(node);
    }

    fn input(&mut self, node: usize, input: Input<'_>) {
        self.note(node, || Step::from(&input), &[]);
        self.nodes[node].handle(self.now, input);
    }

    fn note(&mut self, node: usize, step: impl FnOnce() -> Step, out: &[u8]) {
        if let (0, Some(tape)) = (node, &mut self.tape) {
            let mut output = Output::default();
            if !out.is_empty() {
                output.add(out);
            }
            tape.push((self.now, step(), output));
        }
    }

    /// Everything a driver does after an input.
    fn settle(&mut self, node: usize) {
        self.steps += 1;
        let now = self.now;
        while let Some((ticket, job)) = self.nodes[node].poll_job() {
            self.note(node, || Step::Jobs, &[]);
            self.input(node, Input::Job(ticket, job.run()));
        }
        self.events_of(node);
        let mut buf = vec![0; 64 * 1500];
        loop {
            let sent = self.nodes[node].poll_transmit(now, &mut buf);
            self.note(node, || Step::Transmit(64 * 1500), &buf[..sent.map_or(0, |t| t.len)]);
            let Some(t) = sent else { break };
            let Remote::Udp(remote) = t.path.remote else { panic!("{t:?}") };
            for datagram in buf[..t.len].chunks(t.segment.unwrap_or(t.len)) {
                let n = self.sent;
                self.sent += 1;
                let Some(to) = self.addrs.iter().position(|a| *a == remote) else { continue };
                for (copy, delay) in (self.fault)(n, node, to).into_iter().enumerate() {
                    let key = (now + delay, n << 3 | copy as u64);
                    self.wire.insert(key, (to, self.addrs[node], t.ecn, datagram.to_vec()));
                }
            }
        }
        self.events_of(node);
        self.nodes[node].invariants();
    }

    fn events_of(&mut self, node: usize) {
        while let Some(event) = self.nodes[node].poll_event() {
            if let (0, Some((.., output))) = (node, self.tape.as_mut().and_then(|t| t.last_mut())) {
                output.events.push(event.clone());
            }
            if let (Event::Readable { peer, stream }, true) = (&event, self.drain) {
                self.read(node, *peer, *stream);
            }
            self.events[node].push(event);
        }
    }

    fn read(&mut self, node: usize, peer: Peer, stream: StreamId) {
        loop {
            let taken = self.nodes[node].take(peer, stream, &mut Vec::new());
            self.note(node, || Step::Take(peer, stream), taken.as_ref().map_or(&[], |t| &t.chunk));
            let Some(taken) = taken else { break };
            let mut total = 0;
            for (_, message) in Messages::received(&taken.chunk, taken.mode, taken.first) {
                total += charge(message.len());
                self.received[node].entry((peer, stream)).or_default().push(message.to_vec());
            }
            if total == 0 {
                break;
            }
            self.input(node, Input::Command(Command::Consumed { peer, stream, charge: total }));
        }
    }

    /// Runs to the next thing that happens, at the latest to `until`. False: nothing happens before.
    fn step(&mut self, until: Instant) -> bool {
        let timer = self
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(n, node)| node.poll_timeout().map(|(at, _)| (at.max(self.now), n)))
            .min();
        let arrival = self.wire.keys().next().copied();
        match (timer, arrival) {
            (_, Some(key)) if timer.is_none_or(|(at, _)| key.0 <= at) && key.0 <= until => {
                let (to, from, ecn, mut data) = self.wire.remove(&key).unwrap();
                self.now = self.now.max(key.0);
                self.input(to, Input::Datagram { path: Path::udp(from), ecn, data: &mut data });
                self.settle(to);
                true
            }
            (Some((at, node)), _) if at <= until => {
                self.now = at;
                self.input(node, Input::Timeout);
                self.settle(node);
                true
            }
            _ => {
                self.now = until;
                false
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        let limit = self.steps + 3_000_000;
        while self.step(until) {
            assert!(self.steps < limit, "no progress at {:?}: {:?}", self.now, self.reasons());
        }
    }

    fn reasons(&self) -> Vec<Option<(Instant, Reason)>> {
        self.nodes.iter().map(Node::poll_timeout).collect()
    }

    fn run_until(&mut self, time: Duration, mut done: impl FnMut(&Self) -> bool) {
        let until = self.now + time;
        while !done(self) {
            assert!(self.step(until), "not within {time:?}: {:?}", self.events);
        }
    }

    fn dial(&mut self, from: usize, to: usize, id: u64) {
        let entity = self.nodes[to].me;
        let paths = vec![Path::udp(self.addrs[to])];
        self.command(from, Command::Dial { id, entity, paths });
    }

    fn peer(&self, at: usize, of: usize) -> Peer {
        let entity = self.nodes[of].me;
        self.nodes[at].peers().find(|(_, e)| *e == entity).map(|(p, _)| p).expect("connected")
    }

    fn connected(&self, at: usize) -> usize {
        self.events[at].iter().filter(|e| matches!(e, Event::Connected { .. })).count()
    }

    fn open(&mut self, from: usize, peer: Peer, label: &str, mode: Mode) -> StreamId {
        self.command(from, Command::Open { id: 77, peer, label: label.to_string(), mode, priority: 16 });
        match self.events[from].iter().rev().find(|e| matches!(e, Event::StreamReady { .. })) {
            Some(Event::StreamReady { stream, .. }) => *stream,
            _ => panic!("{:?}", self.events[from]),
        }
    }

    fn send(&mut self, from: usize, peer: Peer, stream: StreamId, messages: &[Vec<u8>]) {
        let mut chunk = Vec::new();
        for m in messages {
            frame_message(&mut chunk, m);
        }
        self.command(from, Command::Send { peer, stream, chunk });
    }

    fn got(&self, at: usize) -> Vec<Vec<u8>> {
        self.received[at].values().flatten().cloned().collect()
    }
}

fn messages(count: usize, len: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| format!("{n:0len$}").into_bytes()).collect()
}

#[test]
fn two_nodes_connect_and_messages_arrive() {
    let mut net = Net::new(2);
    net.dial(0, 1, 5);
    net.run_until(Duration::from_secs(1), |n| n.connected(0) == 1 && n.connected(1) == 1);
    assert!(matches!(net.events[0][0], Event::Connected { dial: Some(5), .. }));
    let peer = net.peer(0, 1);
    for mode in [Mode::Reliable, Mode::Unordered, Mode::FireAndForget] {
        let stream = net.open(0, peer, "logs", mode);
        let sent = messages(500, 64);
        net.send(0, peer, stream, &sent);
        net.run(Duration::from_secs(2));
        let mut got = net.got(1);
        got.sort();
        assert_eq!(got, sent, "{mode:?}");
        net.received[1].clear();
    }
    let opened: Vec<_> = net.events[1]
        .iter()
        .filter_map(|e| match e {
            Event::StreamOpened { label, .. } => Some(label.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(opened, ["logs", "logs", "logs"].map(String::from));
}

#[test]
fn crossing_dials_make_one_association() {
    let mut net = Net::new(2);
    net.dial(0, 1, 1);
    net.dial(1, 0, 2);
    net.run(Duration::from_secs(3));
    for n in 0..2 {
        assert_eq!(net.nodes[n].peers().count(), 1);
        assert_eq!(net.connected(n), 1, "{:?}", net.events[n]);
        assert!(
            !net.events[n].iter().any(|e| matches!(e, Event::Disconnected { .. })),
            "{:?}",
            net.events[n]
        );
    }
    let peer = net.peer(0, 1);
    let stream = net.open(0, peer, "x", Mode::Reliable);
    net.send(0, peer, stream, &messages(10, 10));
    net.run(Duration::from_secs(1));
    assert_eq!(net.got(1), messages(10, 10));
}

#[test]
fn dials_that_cross_at_any_offset_make_one_association() {
    for offset in 0..40 {
        let mut net = Net::new(2);
        net.dial(0, 1, 1);
        net.run(MS / 2 * offset);
        net.dial(1, 0, 2);
        net.run(Duration::from_secs(3));
        for n in 0..2 {
            assert_eq!(net.nodes[n].peers().count(), 1, "offset {offset}");
            let down = net.events[n].iter().any(|e| matches!(e, Event::Disconnected { .. }));
            assert!(!down, "offset {offset}: {:?}", net.events[n]);
        }
    }
}

#[test]
fn reliable_streams_deliver_everything_at_heavy_loss() {
    for seed in 0..10 {
        let mut net = Net::new(2);
        let mut draws = Entropy::new(&[seed; 32], "faults");
        net.fault = Box::new(move |_, _, _| match draws.below(100) {
            0..20 => vec![],
            20..25 => vec![MS * 5, MS * 9],
            25..35 => vec![MS * 20],
            _ => vec![MS * 5],
        });
        net.dial(0, 1, 1);
        net.run_until(Duration::from_secs(20), |n| n.connected(0) == 1);
        let peer = net.peer(0, 1);
        let mut sent = Vec::new();
        for mode in [Mode::Reliable, Mode::Unordered] {
            let stream = net.open(0, peer, "s", mode);
            let batch: Vec<_> = (0..300).map(|n| vec![n as u8; 1 + n * 37 % 5_000]).collect();
            net.send(0, peer, stream, &batch);
            sent.push((mode, batch));
        }
        net.run_until(Duration::from_secs(300), |n| n.got(1).len() >= 600);
        for ((_, got), (mode, sent)) in net.received[1].iter_mut().zip(&mut sent) {
            if *mode == Mode::Unordered {
                got.sort();
                sent.sort();
            }
            assert!(got == sent, "seed {seed} {mode:?}");
        }
    }
}

#[test]
fn closing_tells_the_peer_and_leaves_nothing() {
    let (mut net, peer) = Net::joined();
    net.command(0, Command::Disconnect { peer, code: 42 });
    net.run(Duration::from_secs(2));
    let reason = |n: usize| {
        net.events[n].iter().find_map(|e| match e {
            Event::Disconnected { reason, .. } => Some(*reason),
            _ => None,
        })
    };
    assert_eq!(reason(0), Some(DownReason::ClosedHere(42)));
    assert_eq!(reason(1), Some(DownReason::ClosedByPeer(42)));
    for node in &net.nodes {
        assert_eq!((node.peers().count(), node.indices.in_use(), node.leased()), (0, 0, 0));
        assert_eq!(node.poll_timeout(), None, "idle costs nothing");
    }
    // And they can meet again.
    net.dial(1, 0, 9);
    net.run(Duration::from_secs(1));
    assert_eq!(net.nodes[0].peers().count(), 1);
}

#[test]
fn a_restarted_peer_is_a_new_association_and_losses_are_reported() {
    let (mut net, peer) = Net::joined();
    let stream = net.open(0, peer, "s", Mode::Reliable);
    net.run(Duration::from_secs(1));
    // Node 1 dies and comes back; what is sent meanwhile is lost, and said to be.
    net.nodes[1] = Node::new(config(1, 2), [99; 32], net.now).unwrap();
    net.send(0, peer, stream, &messages(5, 10));
    net.dial(1, 0, 3);
    net.run(Duration::from_secs(1));
    let lost = net.events[0].iter().find_map(|e| match e {
        Event::Disconnected { reason: DownReason::Restarted, lost, .. } => Some(*lost),
        _ => None,
    });
    assert_eq!(lost, Some(Lost { messages: 5, bytes: 50 }));
    assert_ne!(net.peer(0, 1), peer);
}

#[test]
fn a_dead_peer_is_given_up_after_its_time() {
    let (mut net, peer) = Net::joined();
    let stream = net.open(0, peer, "s", Mode::Reliable);
    net.run(Duration::from_secs(1));
    net.fault = Box::new(|_, _, _| vec![]);
    net.send(0, peer, stream, &messages(3, 10));
    net.run(Duration::from_secs(60));
    let down = net.events[0].iter().find_map(|e| match e {
        Event::Disconnected { reason, lost, .. } => Some((*reason, *lost)),
        _ => None,
    });
    assert_eq!(down, Some((DownReason::Unreachable, Lost { messages: 3, bytes: 30 })));
}

#[test]
fn a_cut_of_ten_seconds_is_survived() {
    let (mut net, peer) = Net::joined();
    let stream = net.open(0, peer, "s", Mode::Reliable);
    net.run(Duration::from_secs(1));
    net.fault = Box::new(|_, _, _| vec![]);
    net.send(0, peer, stream, &messages(100, 100));
    net.run(Duration::from_secs(10));
    net.fault = Box::new(|_, _, _| vec![MS * 5]);
    net.run(Duration::from_secs(8));
    assert_eq!(net.got(1), messages(100, 100));
}

#[test]
fn rekeying_under_load_loses_nothing() {
    let mut configs = vec![config(0, 1), config(1, 1)];
    for c in &mut configs {
        c.session.keys.rekey_after = Duration::from_secs(1);
        c.session.keys.refuse_after = Duration::from_secs(3);
    }
    let mut net = Net::with(configs);
    net.dial(0, 1, 1);
    net.run(Duration::from_secs(1));
    let peer = net.peer(0, 1);
    let stream = net.open(0, peer, "s", Mode::Reliable);
    for _ in 0..600 {
        net.send(0, peer, stream, &messages(20, 100));
        net.run(MS * 50);
    }
    net.run(Duration::from_secs(1));
    assert_eq!(net.got(1).len(), 12_000);
    let stats = net.nodes[0].peer_stats(peer).unwrap();
    assert!(stats.epochs >= 20, "{stats:?}");
    assert!(net.nodes[0].indices.in_use() <= 4);
}

/// Of two epochs made within 5 s the one of the greater entity sends on, so the renewal of the other end
/// changes nothing for it, and it must not ask again at once.
#[test]
fn who_renews_early_and_does_not_send_under_it_waits_for_the_next_time() {
    for renews in [0, 1] {
        let mut configs = vec![config(0, 1), config(1, 1)];
        configs[renews].session.keys.rekey_after = Duration::from_secs(1);
        let mut net = Net::with(configs);
        net.dial(1 - renews, renews, 1);
        net.run(MS * 100);
        let peer = net.peer(1 - renews, renews);
        let stream = net.open(1 - renews, peer, "s", Mode::Reliable);
        net.send(1 - renews, peer, stream, &messages(1, 10));
        net.run(Duration::from_secs(20));
        let epochs = net.nodes[renews].stats().epochs;
        assert!((15..=22).contains(&epochs), "node {renews} renews: {epochs} epochs");
    }
}

#[test]
fn an_idle_association_without_streams_is_dormant() {
    let mut net = Net::new(2);
    net.dial(0, 1, 1);
    net.run(Duration::from_secs(5));
    let before = net.sent;
    net.run(Duration::from_secs(1000));
    assert_eq!(net.sent, before);
    // Its keys are too old now; the first use renews them.
    let peer = net.peer(0, 1);
    let stream = net.open(0, peer, "s", Mode::Reliable);
    net.send(0, peer, stream, &messages(3, 10));
    net.run(Duration::from_secs(2));
    assert_eq!(net.got(1), messages(3, 10));
}

#[test]
fn a_wrong_mesh_key_meets_silence() {
    let mut stranger = config(0, 1);
    stranger.meshes[0].key = MeshKey([3; 32]);
    let mut net = Net::with(vec![stranger, config(1, 1)]);
    net.dial(0, 1, 4);
    net.run(Duration::from_secs(30));
    assert!(matches!(net.events[0][..], [Event::DialFailed { dial: 4, error: DialError::TimedOut(_) }]));
    assert_eq!(net.nodes[1].stats().datagrams_sent, 0);
    assert!(net.events[1].is_empty());
}

/// Streams ten megabytes, and lets node 0 move to another address in the middle.
fn roam(to: core::net::SocketAddr) {
    let mut net = Net::new(2);
    net.dial(0, 1, 1);
    net.run(Duration::from_secs(1));
    let (a, b) = (net.peer(0, 1), net.peer(1, 0));
    let up = net.open(0, a, "up", Mode::Reliable);
    let down = net.open(1, b, "down", Mode::Reliable);
    let batch = messages(300, 1_000);
    for round in 0..20 {
        net.send(0, a, up, &batch);
        net.send(1, b, down, &batch);
        net.run(MS * 100);
        if round == 10 {
            net.addrs[0] = to;
        }
    }
    net.run(Duration::from_secs(5));
    assert_eq!(net.got(1).len(), 6_000);
    assert_eq!(net.got(0).len(), 6_000);
    let moved = Path::udp(to);
    assert!(net.events[1].iter().any(|e| matches!(e, Event::PathChanged { path, .. } if *path == moved)));
    assert_eq!(net.nodes[1].peer_stats(b).unwrap().path, moved);
    for n in 0..2 {
        assert!(!net.events[n].iter().any(|e| matches!(e, Event::Disconnected { .. })));
    }
}

#[test]
fn a_transfer_follows_its_peer_to_another_address() {
    roam("10.0.9.9:7000".parse().unwrap());
}

#[test]
fn a_transfer_follows_its_peer_to_another_port() {
    roam("10.0.0.1:9999".parse().unwrap());
}

#[test]
fn what_was_recorded_replays() {
    let mut net = Net::new(2);
    let mut draws = Entropy::new(&[5; 32], "faults");
    net.fault = Box::new(move |_, _, _| if draws.below(10) == 0 { vec![] } else { vec![MS * 5] });
    net.tape = Some(Vec::new());
    net.dial(0, 1, 1);
    net.run(Duration::from_secs(2));
    let peer = net.peer(0, 1);
    let stream = net.open(0, peer, "s", Mode::Reliable);
    net.send(0, peer, stream, &messages(200, 300));
    net.run(Duration::from_secs(5));
    // Only the bytes of the tape reach the second life of the node.
    let tape = net.tape.take().unwrap();
    let bytes =
        postcard::to_allocvec(&tape.iter().map(|(at, step, _)| (at, step)).collect::<Vec<_>>()).unwrap();
    let steps: Vec<(Instant, Step)> = postcard::from_bytes(&bytes).unwrap();
    let mut node = Node::new(config(0, 1), [0; 32], steps[0].0).unwrap();
    for ((at, step), (.., output)) in steps.into_iter().zip(&tape) {
        assert_eq!(node.replay(at, step), *output);
    }
    // A changed byte shows at once, not at the end.
    let mut node = Node::new(config(0, 1), [0; 32], tape[0].0).unwrap();
    let victim = tape.iter().position(|(_, s, _)| matches!(s, Step::Datagram { .. })).unwrap();
    let mut differs = None;
    for (n, (at, step, output)) in tape.iter().enumerate() {
        let mut step = step.clone();
        if let (true, Step::Datagram { data, .. }) = (n == victim, &mut step) {
            data[40] ^= 1;
        }
        if node.replay(*at, step) != *output {
            differs = Some(n);
            break;
        }
    }
    assert!(differs.is_some_and(|n| n - victim < 10), "{victim} {differs:?}");
}

#[test]
fn a_dead_peer_is_found_again_where_the_caller_says() {
    let (mut net, peer) = Net::joined();
    let stream = net.open(0, peer, "s", Mode::Reliable);
    net.send(0, peer, stream, &messages(5, 10));
    net.run(Duration::from_secs(1));
    // Node 1 moves without a word, and has nothing to send that would show it.
    net.addrs[1] = "10.0.7.7:1".parse().unwrap();
    net.send(0, peer, stream, &messages(5, 10));
    net.fault = Box::new(|_, from, _| if from == 1 { vec![] } else { vec![MS * 5] });
    net.run(Duration::from_secs(8));
    net.fault = Box::new(|_, _, _| vec![MS * 5]);
    net.dial(0, 1, 2);
    net.run(Duration::from_secs(5));
    assert_eq!(net.got(1).len(), 10);
    assert_eq!(net.nodes[0].peer_stats(peer).map(|s| s.path), Some(Path::udp(net.addrs[1])));
    assert!(net.events[0].iter().any(|e| matches!(e, Event::Connected { dial: Some(2), .. })));
}

#[test]
fn only_the_most_recently_used_keep_alive_quickly() {
    let mut configs: Vec<_> = (0..4).map(|n| config(n, 1)).collect();
    configs[0].max_active = 1;
    let mut net = Net::with(configs);
    for n in 1..4 {
        net.dial(0, n, n as u64);
    }
    net.run(Duration::from_secs(1));
    for n in 1..4 {
        let peer = net.peer(0, n);
        // The far side forgets the stream's use at once: only node 0 keeps alive.
        net.open(0, peer, "s", Mode::Reliable);
    }
    net.run(Duration::from_secs(1));
    let quick = |net: &Net, n| net.nodes[0].session(net.peer(0, n)).map(Session::is_favoured);
    assert_eq!([1, 2, 3].map(|n| quick(&net, n)), [Some(false), Some(false), Some(true)]);
    let before = net.nodes[0].stats().datagrams_sent;
    net.run(Duration::from_secs(20));
    assert!(net.nodes[0].stats().datagrams_sent > before);
    assert_eq!(net.nodes[0].peers().count(), 3, "slow keep-alives do not kill");
}

#[test]
fn one_ping_keeps_both_ends_alive() {
    let (mut net, peer) = Net::joined();
    net.open(0, peer, "s", Mode::Reliable);
    // A network whose delay varies: two ends with the same patience would often ask at once.
    net.fault = Box::new(|n, _, _| vec![MS * (5 + (n % 7) as u32 * 3)]);
    net.run(Duration::from_secs(5));
    let before = net.sent;
    net.run(Duration::from_secs(60));
    // 40 keep-alives of 1.5 s, a PING and an answer each; now and then the answering end asks for an
    // acknowledgement of its answers.
    let sent = net.sent - before;
    assert!((70..=84).contains(&sent), "{sent} packets");
    assert_eq!(net.nodes[0].peers().count(), 1);
}

#[test]
fn who_defers_still_asks_in_time() {
    for deaf in [0, 1] {
        let mut configs: Vec<_> = (0..2).map(|n| config(n, 1)).collect();
        for config in &mut configs {
            config.session.keep_alive = MS * 100;
            config.session.dead_after = MS * 200;
        }
        let mut net = Net::with(configs);
        net.fault = Box::new(|_, _, _| vec![MS * 45]);
        net.dial(0, 1, 1);
        net.run(Duration::from_secs(1));
        // Only this end uses the association, so the other one never asks.
        let user = 1 - deaf;
        net.open(user, net.peer(user, deaf), "s", Mode::Reliable);
        net.run(Duration::from_secs(1));
        let slot = net.peer(deaf, user).slot() as usize;
        let session = net.nodes[deaf].slots[slot].session.as_deref_mut().unwrap();
        session.set_favoured(false);
        net.run(Duration::from_secs(20));
        let ends = |n: usize| net.events[n].iter().any(|e| matches!(e, Event::Disconnected { .. }));
        let asked = net.nodes[user].peer_stats(net.peer(user, deaf)).unwrap();
        assert!(!ends(0) && !ends(1) && asked.packets_sent > 80, "{deaf}: {asked:?}");
    }
}

#[test]
fn an_idle_session_is_small() {
    let idle = core::mem::size_of::<Session>();
    assert!(idle <= 3_500, "{idle} bytes");
}

#[test]
fn a_message_larger_than_the_first_window_arrives() {
    for len in [20_000, 40_000, 65_536, 262_144, 1 << 20] {
        let mut net = Net::new(2);
        net.dial(0, 1, 1);
        net.run(Duration::from_secs(1));
        let peer = net.peer(0, 1);
        let stream = net.open(0, peer, "large", Mode::Reliable);
        let sent = vec![vec![7; len]; 3];
        net.send(0, peer, stream, &sent);
        net.run(Duration::from_secs(20));
        assert!(net.got(1) == sent, "{len}: {} arrived", net.got(1).len());
    }
}

#[test]
fn a_flush_after_finish_waits_for_the_end_to_arrive() {
    let (mut net, peer) = Net::joined();
    let stream = net.open(0, peer, "s", Mode::Reliable);
    net.send(0, peer, stream, &messages(3, 10));
    net.run(Duration::from_secs(1));
    // All data is acknowledged; only the end is under way when the wire is cut.
    net.fault = Box::new(|_, _, _| vec![]);
    net.command(0, Command::Finish { peer, stream });
    net.command(0, Command::Flush { id: 5, peer, stream });
    net.run(Duration::from_secs(1));
    let flushed = |net: &Net| net.events[0].contains(&Event::Flushed { id: 5 });
    assert!(!flushed(&net));
    net.fault = Box::new(|_, _, _| vec![MS * 5]);
    net.run(Duration::from_secs(3));
    assert!(flushed(&net));
    assert!(net.events[1].iter().any(|e| matches!(e, Event::Finished { .. })));
}

/// The address that node 0's packets seem to come from once it has the keys, where nobody hears; and
/// what node 1 sent there.
fn first_packet_from_elsewhere(with_token: bool) -> (core::net::SocketAddr, u64, u64) {
    let mut net = Net::new(2);
    net.dial(0, 1, 1);
    while !net.wire.values().any(|(to, _, _, data)| *to == 0 && data[0] == 2) {
        assert!(net.step(net.now + Duration::from_secs(1)));
    }
    if !with_token {
        for (.., data) in net.wire.values_mut() {
            let at = data.len() - 16;
            data[at..].fill(0);
        }
    }
    // Message 1 and message 2 pass; then node 0's packets come from another address, where nobody hears.
    while net.nodes[0].peers().count() == 0 {
        assert!(net.step(net.now + Duration::from_secs(1)));
    }
    let elsewhere = "10.0.66.6:6".parse().unwrap();
    net.wire.values_mut().filter(|(to, ..)| *to == 1).for_each(|(_, from, ..)| *from = elsewhere);
    net.run(MS * 50);
    let peer = net.peer(1, 0);
    let stream = net.open(1, peer, "s", Mode::Reliable);
    let heard: u64 = net.nodes[1].peer_stats(peer).unwrap().bytes_received;
    net.send(1, peer, stream, &messages(1_000, 1_000));
    net.addrs[0] = elsewhere;
    // What goes there stays on the wire, to be counted; nobody is at the true address any more.
    net.fault = Box::new(|_, from, _| if from == 0 { vec![] } else { vec![MS * 10_000] });
    net.run(MS * 200);
    let sent = net.wire.values().map(|(.., data)| data.len() as u64).sum();
    (net.nodes[1].peer_stats(peer).unwrap().path.udp_addr().unwrap(), sent, heard)
}

#[test]
fn a_first_packet_from_elsewhere_is_challenged_before_it_is_believed() {
    let (path, sent, heard) = first_packet_from_elsewhere(false);
    assert_eq!(path, "10.0.66.6:6".parse().unwrap());
    assert!(sent <= heard, "{sent} bytes to an address that sent {heard}");
}

#[test]
fn the_first_path_is_the_one_whose_message_2_arrived() {
    let (path, sent, heard) = first_packet_from_elsewhere(true);
    assert_eq!(path, addr(0));
    assert!(sent <= heard, "{sent} bytes to an address that sent {heard}");
}

#[test]
fn limits_that_cannot_be_decoded_are_a_bad_answer() {
    let mut net = Net::new(2);
    net.dial(0, 1, 4);
    let Some((_, from, _, message1)) = net.wire.values().next().cloned() else { panic!("message 1") };
    // In the place of node 1, a handshake machine with its identity and an answer of its own.
    let Config { identity, meshes, incarnation, .. } = config(1, 1);
    let settings = handshake::Config::new(identity, incarnation, meshes);
    let mut other = Handshakes::new(settings, Entropy::new(&[1; 32], "other"), net.now);
    let from = Path::udp(from);
    other.handle_datagram(net.now, &from, &message1);
    let mut buf = [0; 1200];
    let len = loop {
        while let Some((ticket, job)) = other.poll_job() {
            other.handle_job(net.now, ticket, job.run());
        }
        if let Some(handshake::Event::Asked { id, resume, .. }) = other.poll_event() {
            let association = resume.unwrap() | 1;
            let limits = vec![0xff; 3];
            let answer = handshake::Answer::Accept { local_index: 7, association, resumed: false, limits };
            assert!(other.answer(net.now, id, answer));
        } else if let Some((_, len)) = other.poll_transmit(net.now, &mut buf) {
            break len;
        }
    };
    let path = Path::udp(addr(1));
    net.input(0, Input::Datagram { path, ecn: Ecn::NotEct, data: &mut buf[..len] });
    net.settle(0);
    assert_eq!(net.events[0], [Event::DialFailed { dial: 4, error: DialError::BadAnswer }]);
}
