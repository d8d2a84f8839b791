//! A plane over two real nodes and a wire that loses and reorders.

use super::super::{Config, Output, Step};
use super::*;
use crate::identity::{Identity, Incarnation, Mesh, MeshId, MeshKey};
use crate::lane::{NoPlanes, Verdict, Verify};
use crate::path::{Ecn, Path, Remote};
use crate::storage::Stored;
use crate::time::Duration;
use serde::{Deserialize, Serialize};
use std::string::ToString;
use std::vec;

/// What a test asks of the plane.
#[derive(Serialize, Deserialize)]
enum Ask {
    Open {
        peer: Peer,
        kind: u8,
        mode: Mode,
    },
    Send {
        count: u64,
        len: usize,
    },
    Close(u16),
    Store,
    /// Check a signature of this identity, with one bit of the message flipped or not.
    Verify {
        seed: u8,
        flipped: bool,
    },
}

#[derive(Debug, PartialEq, Serialize)]
enum Told {
    Up(Peer),
    Down(Peer, Gone),
    Opened(Vec<u8>),
    Acked(u64),
    Closed(Ended),
    Stored,
    Verified(u64, Verdict),
}

/// Counts up on its lane; the other side sends every number back.
#[derive(Default)]
struct Echo {
    ask: Vec<Ask>,
    lane: Option<Lane>,
    out: VecDeque<(Lane, u64, usize)>,
    blocked: bool,
    waits: u64,
    /// Messages of our own lane that came back; of the peer's lane that came.
    back: Vec<u64>,
    came: Vec<(u64, u64)>,
    told: VecDeque<Told>,
    now: Option<Instant>,
}

impl Plane for Echo {
    type Cmd = Ask;
    type Event = Told;

    fn handle(&mut self, now: Instant, input: In<'_>) {
        self.now = Some(now);
        match input {
            In::Up(peer) => self.told.push_back(Told::Up(peer)),
            In::Down(peer, why) => {
                (self.lane, self.blocked) = (None, false);
                self.out.clear();
                self.told.push_back(Told::Down(peer, why));
            }
            In::Opened(_, _, head) => self.told.push_back(Told::Opened(head.to_vec())),
            In::Msg(_, lane, number, data) => {
                let n = u64::from_le_bytes(data[..8].try_into().unwrap());
                if self.lane == Some(lane) {
                    self.back.push(n);
                } else {
                    self.came.push((number, n));
                    self.out.push_back((lane, n, data.len()));
                }
            }
            In::Writable(_) => self.blocked = false,
            In::Acked(_, n) => self.told.push_back(Told::Acked(n)),
            In::Closed(_, why) => {
                self.out.clear();
                self.told.push_back(Told::Closed(why));
            }
            In::Stored(Ticket(3), Ok(_)) => self.told.push_back(Told::Stored),
            In::Job(Ticket(n), lane::JobDone::Verified(verdict)) => {
                self.told.push_back(Told::Verified(n, verdict));
            }
            _ => {}
        }
    }

    fn command(&mut self, now: Instant, ask: Ask) {
        self.now = Some(now);
        match (ask, self.lane) {
            (Ask::Send { count, len }, Some(lane)) => {
                self.out.extend((0..count).map(|n| (lane, n, len)));
            }
            (ask, _) => self.ask.push(ask),
        }
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn drain(&mut self, fx: &mut dyn Effects) {
        for ask in self.ask.drain(..) {
            match ask {
                Ask::Open { peer, kind, mode } => {
                    let spec = LaneSpec { kind, mode, priority: 16, head: &[0, 200, 255, b'h'] };
                    self.lane = fx.open(peer, &spec);
                    assert!(self.lane.is_some());
                }
                Ask::Close(why) => fx.close(self.lane.expect("a lane"), why),
                Ask::Store => fx.store(Ticket(3), StoreOp::List),
                Ask::Verify { seed, flipped } => {
                    let signer = Identity::from_seed(&[seed; 32]);
                    let signature = signer.sign("test", b"message");
                    let message = if flipped { b"messagf".to_vec() } else { b"message".to_vec() };
                    let check =
                        Verify { signer: signer.id(), admit: true, label: "test", message, signature };
                    fx.job(Ticket(u64::from(seed)), lane::Job::Verify(check));
                }
                // Asked for before its lane was open.
                Ask::Send { count, len } => {
                    let lane = self.lane.expect("a lane");
                    self.out.extend((0..count).map(|n| (lane, n, len)));
                }
            }
        }
        while let Some(&(lane, n, len)) = self.out.front() {
            let Some(room) = fx.reserve(lane, len) else {
                self.blocked = true;
                self.waits += 1;
                return;
            };
            room[..8].copy_from_slice(&n.to_le_bytes());
            fx.commit(lane, len);
            self.out.pop_front();
        }
    }

    fn poll_event(&mut self) -> Option<Told> {
        self.told.pop_front()
    }

    fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let more = !self.told.is_empty() || !self.ask.is_empty() || (!self.out.is_empty() && !self.blocked);
        more.then_some((self.now.unwrap_or(Instant::ZERO), Reason::Output))
    }

    fn ceiling(&self) -> u64 {
        1000
    }

    fn admit(&self, kind: u8) -> Result<(), Refusal> {
        match kind {
            1 => Ok(()),
            2 => Err(Refusal::Plane(777)),
            _ => Err(Refusal::UnknownKind(kind)),
        }
    }
}

/// A datagram under way: to whom, from where, its ECN bits, its bytes.
type Flying = (usize, core::net::SocketAddr, Ecn, Vec<u8>);

const START: Instant = Instant::from_nanos(1_000_000_000);

fn host(n: usize) -> Host<Echo> {
    let identity = Identity::from_seed(&[n as u8 + 10; 32]);
    let mesh = Mesh { id: MeshId([1; 32]), key: MeshKey([2; 32]) };
    let config = Config::new(identity, mesh, Incarnation { epoch: 1, random: n as u64 });
    Host::new(Node::new(config, [n as u8; 32], START).unwrap(), Echo::default())
}

/// Two hosts and a wire.
struct Pair {
    now: Instant,
    hosts: Vec<Host<Echo>>,
    wire: BTreeMap<(Instant, u64), Flying>,
    sent: u64,
    /// Datagrams lost, in hundredths.
    loss: u64,
    draws: u64,
    events: [Vec<Event>; 2],
    told: [Vec<Told>; 2],
    /// Every step of host 0, what it brought out, and the counters after it.
    tape: Vec<(Instant, Step, u64, u64)>,
}

fn addr(n: usize) -> core::net::SocketAddr {
    core::net::SocketAddr::from(([10, 0, 0, n as u8 + 1], 7000))
}

impl Pair {
    /// Connected, without loss so far.
    fn new() -> Self {
        let now = START;
        let hosts = vec![host(0), host(1)];
        let (events, told) = Default::default();
        let (wire, tape) = (BTreeMap::new(), Vec::new());
        let mut pair = Self { now, hosts, wire, sent: 0, loss: 0, draws: 7, events, told, tape };
        let entity = pair.hosts[1].node().me;
        pair.command(0, Command::Dial { id: 1, entity, paths: vec![Path::udp(addr(1))] });
        pair.run(1);
        assert_eq!([pair.told[0].len(), pair.told[1].len()], [1, 1], "{:?}", pair.told);
        assert!(matches!((&pair.told[0][0], &pair.told[1][0]), (Told::Up(_), Told::Up(_))));
        pair
    }

    fn peer(&self) -> Peer {
        self.hosts[0].node().peers().next().expect("connected").0
    }

    fn note(&mut self, n: usize, step: Step, output: Output) {
        if n == 0 {
            self.tape.push((self.now, step, output.bytes, self.hosts[0].fingerprint()));
        }
    }

    fn input(&mut self, n: usize, input: Input<'_>) {
        let step = Step::from(&input);
        self.hosts[n].handle(self.now, input);
        self.note(n, step, Output::default());
    }

    fn command(&mut self, n: usize, command: Command) {
        self.input(n, Input::Command(command));
        self.settle(n);
    }

    fn ask(&mut self, n: usize, ask: Ask) {
        let step = Step::plane::<Echo>(&ask);
        self.hosts[n].command(self.now, ask);
        self.note(n, step, Output::default());
        self.drain(n);
        self.settle(n);
    }

    fn drain(&mut self, n: usize) {
        self.hosts[n].drain(self.now);
        self.note(n, Step::Drain, Output::default());
    }

    fn open(&mut self, kind: u8, mode: Mode) {
        let peer = self.peer();
        self.ask(0, Ask::Open { peer, kind, mode });
    }

    fn draw(&mut self) -> u64 {
        self.draws =
            self.draws.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.draws >> 33
    }

    fn settle(&mut self, n: usize) {
        let now = self.now;
        while let Some((ticket, job)) = self.hosts[n].poll_job() {
            let mut output = Output::default();
            output.add_job(ticket, &job);
            self.note(n, Step::Jobs, output);
            self.input(n, Input::Job(ticket, job.run()));
        }
        let mut buf = vec![0; 64 * 1500];
        loop {
            let sent = self.hosts[n].poll_transmit(now, &mut buf);
            let mut output = Output::default();
            if let Some(t) = &sent {
                output.add(&buf[..t.len]);
            }
            self.note(n, Step::Transmit(buf.len()), output);
            let Some(t) = sent else { break };
            assert_eq!(t.path.remote, Remote::Udp(addr(1 - n)));
            for datagram in buf[..t.len].chunks(t.segment.unwrap_or(t.len)) {
                self.sent += 1;
                if self.draw() % 100 < self.loss {
                    continue;
                }
                // With loss, everything overtakes everything.
                let late = if self.loss > 0 { self.draw() % 20_000 } else { 0 };
                let at = now + Duration::from_micros(5_000 + late);
                self.wire.insert((at, self.sent), (1 - n, addr(n), t.ecn, datagram.to_vec()));
            }
        }
        while let Some(store) = self.hosts[n].poll_store() {
            let mut output = Output::default();
            output.add_value(&store);
            self.note(n, Step::Store, output);
            self.hosts[n].handle_stored(now, store.0, Ok(Stored::Done));
            self.note(n, Step::Stored(store.0, Ok(Stored::Done)), Output::default());
        }
        while let Some(event) = self.hosts[n].poll_event() {
            self.events[n].push(event);
        }
        while let Some(told) = self.hosts[n].poll_plane_event() {
            let mut output = Output::default();
            output.add_value(&told);
            self.note(n, Step::Told, output);
            self.told[n].push(told);
        }
        self.hosts[n].node().invariants();
    }

    fn run(&mut self, seconds: u64) {
        let until = self.now + Duration::from_secs(seconds);
        let mut stuck = 0;
        loop {
            let timers = self.hosts.iter().enumerate();
            let timer =
                timers.filter_map(|(n, h)| h.poll_timeout().map(|(at, _)| (at.max(self.now), n))).min();
            let arrival = self.wire.keys().next().copied();
            let before = self.now;
            match (timer, arrival) {
                (_, Some(key)) if timer.is_none_or(|(at, _)| key.0 <= at) && key.0 <= until => {
                    let (to, from, ecn, mut data) = self.wire.remove(&key).unwrap();
                    self.now = self.now.max(key.0);
                    self.input(to, Input::Datagram { path: Path::udp(from), ecn, data: &mut data });
                    self.settle(to);
                    stuck = 0;
                }
                (Some((at, n)), _) if at <= until => {
                    self.now = at;
                    self.input(n, Input::Timeout);
                    self.settle(n);
                    stuck = if at == before { stuck + 1 } else { 0 };
                    assert!(stuck < 1000, "no time passes: {:?}", self.hosts[n].poll_timeout());
                }
                _ => {
                    self.now = until;
                    return;
                }
            }
        }
    }

    fn acked(&self, n: usize) -> Vec<u64> {
        self.told[n].iter().filter_map(|t| if let Told::Acked(n) = t { Some(*n) } else { None }).collect()
    }

    fn closed(&self, n: usize) -> Vec<Ended> {
        self.told[n].iter().filter_map(|t| if let Told::Closed(e) = t { Some(*e) } else { None }).collect()
    }
}

#[test]
fn a_lane_is_exactly_once_in_order_over_a_bad_wire() {
    let mut pair = Pair::new();
    pair.loss = 20;
    pair.open(1, Mode::Reliable);
    pair.ask(0, Ask::Send { count: 3000, len: 700 });
    pair.run(120);
    let all: Vec<u64> = (0..3000).collect();
    assert_eq!(pair.hosts[1].plane().came, all.iter().map(|n| (*n, *n)).collect::<Vec<_>>());
    assert_eq!(pair.hosts[0].plane().back, all);
    assert!(pair.hosts[0].plane().waits > 0, "the write limit was never met");
    assert!(pair.told[1].contains(&Told::Opened(vec![0, 200, 255, b'h'])), "{:?}", pair.told[1]);
    for n in [0, 1] {
        let acked = pair.acked(n);
        assert!(acked.is_sorted() && acked.last() == Some(&2999), "{acked:?}");
        // The application hears nothing of lanes.
        assert!(pair.events[n].iter().all(|e| matches!(e, Event::Connected { .. })), "{:?}", pair.events[n]);
    }
}

#[test]
fn an_unordered_lane_delivers_and_acknowledges_each_once() {
    let mut pair = Pair::new();
    pair.loss = 20;
    pair.open(1, Mode::Unordered);
    pair.ask(0, Ask::Send { count: 500, len: 100 });
    pair.run(60);
    let mut came = pair.hosts[1].plane().came.clone();
    came.sort_unstable();
    assert_eq!(came, (0..500).map(|n| (n, n)).collect::<Vec<_>>());
    assert_eq!(pair.acked(0), (0..500).collect::<Vec<_>>());
}

#[test]
fn a_lane_that_is_not_wanted_is_refused_with_its_reason() {
    for loss in [0, 20] {
        for (kind, why) in [(9, Refusal::UnknownKind(9)), (2, Refusal::Plane(777))] {
            let mut pair = Pair::new();
            pair.loss = loss;
            pair.open(kind, Mode::Reliable);
            pair.ask(0, Ask::Send { count: 10, len: 100 });
            pair.run(20);
            assert_eq!(pair.closed(0), [Ended::Refused(why)]);
            assert!(pair.hosts[1].plane().came.is_empty());
            assert!(pair.hosts.iter().all(|h| h.lanes.count() == 0), "the table keeps a dead lane");
            assert!(pair.events.iter().flatten().all(|e| matches!(e, Event::Connected { .. })));
        }
    }
}

#[test]
fn a_close_comes_after_what_was_committed() {
    let mut pair = Pair::new();
    pair.loss = 20;
    pair.open(1, Mode::Reliable);
    pair.ask(0, Ask::Send { count: 50, len: 100 });
    pair.ask(0, Ask::Close(42));
    pair.run(20);
    assert_eq!(pair.hosts[1].plane().came.len(), 50);
    assert_eq!(pair.closed(1), [Ended::ByPeer(42)]);
    assert_eq!(pair.closed(0), []);
    assert!(pair.hosts.iter().all(|h| h.lanes.count() == 0), "the table keeps a dead lane");
}

#[test]
fn a_peer_that_goes_is_told_once_and_takes_its_lanes() {
    let mut pair = Pair::new();
    pair.open(1, Mode::Reliable);
    pair.ask(0, Ask::Send { count: 10, len: 100 });
    pair.run(1);
    let peer = pair.peer();
    pair.command(0, Command::Disconnect { peer, code: 5 });
    pair.run(20);
    for n in [0, 1] {
        let downs: Vec<_> = pair.told[n].iter().filter(|t| matches!(t, Told::Down(..))).collect();
        assert!(matches!(downs[..], [Told::Down(_, Gone::Closed)]), "{downs:?}");
        assert_eq!(pair.closed(n), []);
        assert_eq!(pair.hosts[n].lanes.count(), 0);
        assert!(pair.events[n].iter().any(|e| matches!(e, Event::Disconnected { .. })));
    }
}

#[test]
fn application_streams_go_on_beside_lanes() {
    let mut pair = Pair::new();
    pair.open(1, Mode::Reliable);
    let peer = pair.peer();
    let open = |id, label: &str| {
        let label = label.to_string();
        Command::Open { id, peer, label, mode: Mode::Reliable, priority: 16 }
    };
    for (id, label) in [(2, "\0\u{1}mine"), (OWN_ID | 3, "mine")] {
        pair.command(0, open(id, label));
        let refused = Event::StreamRefused { id, error: StreamError::Reserved };
        assert_eq!(pair.events[0].last(), Some(&refused));
    }
    pair.command(0, open(4, "mine"));
    let Some(&Event::StreamReady { id: 4, stream, .. }) = pair.events[0].last() else {
        panic!("{:?}", pair.events[0])
    };
    // The lane came first on this side, and the application cannot touch it.
    let lane = *pair.hosts[0].lanes.by_stream.keys().next().unwrap();
    pair.command(0, Command::Reset { peer, stream: lane.1, code: 1 });
    let mut chunk = Vec::new();
    frame_message(&mut chunk, b"hello");
    pair.command(0, Command::Send { peer, stream, chunk });
    pair.command(0, Command::Flush { id: 5, peer, stream });
    pair.ask(0, Ask::Send { count: 20, len: 64 });
    pair.run(2);
    assert_eq!(pair.hosts[0].plane().back.len(), 20);
    assert!(pair.events[0].contains(&Event::Flushed { id: 5 }));
    let Some(&Event::Readable { peer, stream }) = pair.events[1].last() else {
        panic!("{:?}", pair.events[1])
    };
    let lane = pair.hosts[1].lanes.by_stream.keys().next().unwrap().1;
    assert!(pair.hosts[1].take(peer, lane, &mut Vec::new()).is_none());
    let taken = pair.hosts[1].take(peer, stream, &mut Vec::new()).expect("a message");
    let got: Vec<_> = Messages::received(&taken.chunk, taken.mode, taken.first).collect();
    assert_eq!(got, [(0, &b"hello"[..])]);
}

#[test]
fn the_timeout_is_now_while_output_waits_and_quiet_after() {
    let mut pair = Pair::new();
    pair.hosts[0].command(pair.now, Ask::Store);
    assert_eq!(pair.hosts[0].poll_timeout(), Some((pair.now, Reason::Output)));
    pair.hosts[0].drain(pair.now);
    assert_eq!(pair.hosts[0].poll_timeout(), Some((pair.now, Reason::Output)));
    assert!(matches!(pair.hosts[0].poll_store(), Some((Ticket(3), StoreOp::List))));
    // Waiting for storage is not output.
    let mut buf = vec![0; 64 * 1500];
    while pair.hosts[0].poll_transmit(pair.now, &mut buf).is_some() {}
    assert!(pair.hosts[0].poll_timeout().is_none_or(|(at, _)| at > pair.now));
    pair.hosts[0].handle_stored(pair.now, Ticket(3), Ok(Stored::Done));
    pair.settle(0);
    assert_eq!(pair.told[0].last(), Some(&Told::Stored));
    pair.open(1, Mode::Reliable);
    pair.ask(0, Ask::Send { count: 2000, len: 1000 });
    assert!(pair.hosts[0].plane().blocked);
    pair.run(10);
    assert_eq!(pair.hosts[0].plane().back.len(), 2000);
    assert!(pair.hosts.iter().all(|h| h.poll_timeout().is_none_or(|(at, _)| at > pair.now)));
}

#[test]
fn a_signature_is_checked_as_a_job() {
    let mut pair = Pair::new();
    pair.hosts[0].command(pair.now, Ask::Verify { seed: 5, flipped: false });
    pair.hosts[0].command(pair.now, Ask::Verify { seed: 6, flipped: true });
    pair.hosts[0].drain(pair.now);
    assert_eq!(pair.hosts[0].poll_timeout(), Some((pair.now, Reason::Output)), "a job waits");
    pair.settle(0);
    let verified = |n, verdict| Told::Verified(n, verdict);
    assert_eq!(pair.told[0][1..], [verified(5, Verdict::Valid), verified(6, Verdict::BadSignature)]);
    // An id that is no key, and one whose sign was flipped: another key, which did not sign.
    let signer = Identity::from_seed(&[7; 32]);
    let signature = signer.sign("test", b"m");
    let check = |signer, label| {
        lane::Job::Verify(Verify { signer, admit: true, label, message: b"m".to_vec(), signature }).run()
    };
    let mut flipped = signer.id();
    flipped.0[31] ^= 0x80;
    assert_eq!(check(signer.id(), "test"), lane::JobDone::Verified(Verdict::Valid));
    assert_eq!(check(signer.id(), "else"), lane::JobDone::Verified(Verdict::BadSignature));
    assert_eq!(check(flipped, "test"), lane::JobDone::Verified(Verdict::BadSignature));
    assert_eq!(
        check(crate::identity::EntityId([0xff; 32]), "test"),
        lane::JobDone::Verified(Verdict::BadSigner)
    );
}

/// The first step whose output or counters differ.
fn replayed(tape: &[(Instant, Step, u64, u64)]) -> Result<Host<Echo>, usize> {
    let (mut host, mut scratch) = (host(0), Vec::new());
    for (n, (at, step, bytes, counters)) in tape.iter().enumerate() {
        let output = host.replay(*at, step.clone(), &mut scratch);
        if (output.bytes, host.fingerprint()) != (*bytes, *counters) {
            return Err(n);
        }
    }
    Ok(host)
}

#[test]
fn a_host_with_a_plane_replays_and_a_flipped_byte_is_found() {
    let mut pair = Pair::new();
    pair.loss = 10;
    pair.open(1, Mode::Reliable);
    pair.ask(0, Ask::Send { count: 300, len: 400 });
    pair.ask(0, Ask::Store);
    pair.ask(0, Ask::Verify { seed: 9, flipped: false });
    pair.run(20);
    let all: Vec<u64> = (0..300).collect();
    assert_eq!(pair.hosts[0].plane().back, all);
    // Only bytes reach the second life.
    let bytes = postcard::to_allocvec(&pair.tape).unwrap();
    let tape: Vec<(Instant, Step, u64, u64)> = postcard::from_bytes(&bytes).unwrap();
    let again = replayed(&tape).unwrap_or_else(|n| panic!("differs at step {n}: {:?}", tape[n].1));
    assert_eq!(again.plane().back, all);
    assert_eq!(again.fingerprint(), pair.hosts[0].fingerprint());

    // One flipped byte of a datagram, anywhere, is found at that very step.
    let datagrams: Vec<usize> =
        (0..tape.len()).filter(|n| matches!(tape[*n].1, Step::Datagram { .. })).collect();
    for victim in datagrams.iter().step_by(37).copied() {
        let mut tape = tape.clone();
        let Step::Datagram { data, .. } = &mut tape[victim].1 else { unreachable!() };
        let at = data.len() / 2;
        data[at] ^= 1;
        assert_eq!(replayed(&tape).err(), Some(victim));
    }
    // One of a command to the plane is found as soon as something comes of it.
    let victim = tape.iter().rposition(|(_, s, ..)| matches!(s, Step::Plane(_))).unwrap();
    let mut tape = tape;
    let Step::Plane(command) = &mut tape[victim].1 else { unreachable!() };
    *command.last_mut().unwrap() ^= 1;
    let found = replayed(&tape).err();
    assert!(found.is_some_and(|n| (victim..victim + 8).contains(&n)), "{victim} {found:?}");
}

#[test]
fn without_planes_a_forged_lane_is_refused_counted_and_never_shown() {
    let mut pair = Pair::new();
    let mut bare = Vec::new();
    // The peer has a plane and opens lanes; this side has none.
    let node = core::mem::replace(&mut pair.hosts[1], host(1)).node;
    let mut host = Host::new(node, NoPlanes);
    let now = pair.now;
    let peer = pair.peer();
    pair.hosts[0].command(now, Ask::Open { peer, kind: 1, mode: Mode::Reliable });
    pair.hosts[0].command(now, Ask::Send { count: 3, len: 10 });
    let mut buf = vec![0; 64 * 1500];
    for _ in 0..8 {
        while let Some(t) = pair.hosts[0].poll_transmit(now, &mut buf) {
            for d in buf[..t.len].chunks_mut(t.segment.unwrap_or(t.len)) {
                host.handle(now, Input::Datagram { path: Path::udp(addr(0)), ecn: t.ecn, data: d });
            }
        }
        while let Some(t) = host.poll_transmit(now, &mut buf) {
            for d in buf[..t.len].chunks_mut(t.segment.unwrap_or(t.len)) {
                let path = Path::udp(addr(1));
                pair.hosts[0].handle(now, Input::Datagram { path, ecn: t.ecn, data: d });
            }
        }
        while let Some(event) = host.poll_event() {
            bare.push(event);
        }
    }
    assert_eq!(bare, [], "the application was shown a lane");
    assert_eq!(host.stats().lanes_refused, 1);
    pair.settle(0);
    assert_eq!(pair.closed(0), [Ended::Refused(Refusal::UnknownKind(1))]);
}
