//! The composition, and two toy planes on simulated lanes.

#[path = "../../../sim/src/planenet.rs"]
#[allow(dead_code)]
mod planenet;

use self::planenet::{Config, PlaneNet};
use super::*;
use crate::planes;
use crate::time::{Duration, earlier};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

/// Sends numbers and gets each back plus one.
#[derive(Debug, Default)]
struct Echo {
    out: VecDeque<(Option<Lane>, Peer, u64)>,
    events: VecDeque<u64>,
    now: Option<Instant>,
    /// Waits for room.
    blocked: bool,
    mode: Option<Mode>,
    lanes: Vec<(Peer, Lane)>,
    ended: Vec<Ended>,
}

impl Plane for Echo {
    type Cmd = (Peer, u64);
    type Event = u64;

    fn handle(&mut self, now: Instant, input: In<'_>) {
        self.now = Some(now);
        match input {
            In::Msg(peer, lane, _, data) => {
                let n = u64::from_le_bytes(data.try_into().unwrap());
                if self.lanes.iter().any(|(_, l)| *l == lane) {
                    self.events.push_back(n);
                } else {
                    self.out.push_back((Some(lane), peer, n + 1));
                }
            }
            In::Writable(_) => self.blocked = false,
            In::Down(peer, _) => {
                self.out.retain(|(_, p, _)| *p != peer);
                self.lanes.retain(|(p, _)| *p != peer);
                self.blocked = false;
            }
            In::Closed(lane, why) => {
                self.ended.push(why);
                self.out.clear();
                self.lanes.retain(|(_, l)| *l != lane);
            }
            _ => {}
        }
    }

    fn command(&mut self, now: Instant, (peer, n): (Peer, u64)) {
        self.now = Some(now);
        self.out.push_back((None, peer, n));
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn drain(&mut self, fx: &mut dyn Effects) {
        while let Some(&(lane, peer, n)) = self.out.front() {
            let lane = lane.or_else(|| self.lanes.iter().find(|(p, _)| *p == peer).map(|(_, l)| *l));
            let lane = match lane {
                Some(lane) => lane,
                None => {
                    let mode = self.mode.unwrap_or(Mode::Reliable);
                    let spec = LaneSpec { kind: 1, mode, priority: 16, head: b"echo" };
                    let Some(lane) = fx.open(peer, &spec) else {
                        self.out.pop_front();
                        continue;
                    };
                    self.lanes.push((peer, lane));
                    lane
                }
            };
            let Some(room) = fx.reserve(lane, 8) else {
                self.blocked = true;
                return;
            };
            room.copy_from_slice(&n.to_le_bytes());
            fx.commit(lane, 8);
            self.out.pop_front();
        }
    }

    fn poll_event(&mut self) -> Option<u64> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let output = !self.events.is_empty() || (!self.out.is_empty() && !self.blocked);
        output.then_some((self.now.unwrap_or(Instant::ZERO), Reason::Output))
    }

    fn ceiling(&self) -> u64 {
        1000
    }

    fn admit(&self, kind: u8) -> Result<(), Refusal> {
        if kind == 1 { Ok(()) } else { Err(Refusal::UnknownKind(kind)) }
    }
}

/// Counts what it is told, and rings once a second until it was told to stop.
#[derive(Debug, Default)]
struct Counter {
    count: u64,
    next: Option<Instant>,
    rang: u64,
    stored: u64,
    ask: bool,
    now: Option<Instant>,
}

impl Plane for Counter {
    type Cmd = bool;
    type Event = u64;

    fn handle(&mut self, now: Instant, input: In<'_>) {
        self.now = Some(now);
        match input {
            In::Up(_) | In::Wall(_) => self.count += 1,
            In::Stored(Ticket(7), Ok(_)) => self.stored += 1,
            _ => {}
        }
    }

    fn command(&mut self, now: Instant, on: bool) {
        self.now = Some(now);
        self.next = on.then_some(now + Duration::from_secs(1));
        self.ask = true;
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.now = Some(now);
        if self.next.is_some_and(|at| at <= now) {
            self.next = Some(now + Duration::from_secs(1));
            self.rang += 1;
        }
    }

    fn drain(&mut self, fx: &mut dyn Effects) {
        if core::mem::take(&mut self.ask) {
            fx.store(Ticket(7), StoreOp::List);
        }
    }

    fn poll_event(&mut self) -> Option<u64> {
        (self.rang > 0).then(|| core::mem::take(&mut self.rang))
    }

    fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let output = (self.rang > 0 || self.ask).then(|| (self.now.unwrap_or(Instant::ZERO), Reason::Output));
        earlier(output, self.next.map(|at| (at, Reason::Plane)))
    }

    fn ceiling(&self) -> u64 {
        64
    }

    fn admit(&self, _: u8) -> Result<(), Refusal> {
        Err(Refusal::Plane(1))
    }
}

planes! {
    /// Both toys.
    struct Toys, commands ToyCommand, events ToyEvent;
    1 echo: Echo,
    5 counter: Counter,
    #[cfg(not(test))]
    9 absent: Absent,
}

fn toys() -> Toys {
    Toys::new(Echo::default(), Counter::default())
}

fn config() -> Config {
    Config::new(Job::run)
}

fn ms(n: u64) -> Instant {
    Instant::from_nanos(n * 1_000_000)
}

/// Records effects; lanes are of the kind that was asked for.
#[derive(Default)]
struct Log {
    lines: Vec<(u8, Vec<u8>)>,
    room: Vec<u8>,
    lanes: u32,
}

impl Effects for Log {
    fn entity(&self, _: Peer) -> Option<EntityId> {
        None
    }
    fn open(&mut self, _: Peer, spec: &LaneSpec<'_>) -> Option<Lane> {
        self.lanes += 1;
        Some(Lane::new(self.lanes, 0, spec.kind))
    }
    fn largest(&self, _: Lane) -> Option<usize> {
        Some(usize::MAX)
    }
    fn reserve(&mut self, _: Lane, len: usize) -> Option<&mut [u8]> {
        self.room = vec![0; len];
        Some(&mut self.room)
    }
    fn commit(&mut self, lane: Lane, used: usize) -> u64 {
        self.lines.push((lane.kind(), self.room[..used].to_vec()));
        0
    }
    fn close(&mut self, lane: Lane, _: u16) {
        self.lines.push((lane.kind(), Vec::new()));
    }
    fn store(&mut self, ticket: Ticket, _: StoreOp) {
        self.lines.push((owner(ticket).0, vec![owner(ticket).1.0 as u8]));
    }
    fn job(&mut self, _: Ticket, _: Job) {}
}

#[test]
fn what_is_not_there_is_refused_with_a_type() {
    let t = toys();
    assert_eq!(Toys::KINDS, [(1, "echo"), (5, "counter")]);
    assert_eq!(t.admit(1), Ok(()));
    assert_eq!(t.admit(5), Err(Refusal::Plane(1)));
    assert_eq!(t.admit(9), Err(Refusal::UnknownKind(9)));
    assert_eq!(t.admit(255), Err(Refusal::UnknownKind(255)));
    assert_eq!(t.ceiling(), 1064 + core::mem::size_of::<Toys>() as u64);
}

#[test]
fn a_plane_with_much_to_say_takes_turns_and_is_not_forgotten() {
    let mut t = toys();
    let peer = forge::peer(1, 1);
    // Each message counts as 64 bytes of the share.
    let share = QUANTUM / 64;
    for n in 0..(share as u64 * 2 + 5) {
        t.command(ms(1), ToyCommand::Echo((peer, n)));
    }
    t.command(ms(1), ToyCommand::Counter(true));
    let mut log = Log::default();
    t.drain(&mut log);
    assert_eq!(log.lines.len(), share + 1, "one share, and the other plane's store");
    assert_eq!(t.poll_timeout(), Some((ms(1), Reason::Output)));
    t.drain(&mut log);
    t.drain(&mut log);
    assert_eq!(log.lines.len(), share * 2 + 6);
    assert_eq!(t.poll_timeout(), Some((ms(1001), Reason::Plane)));
}

#[test]
fn tickets_find_their_plane() {
    let mut t = toys();
    let mine = Ticket(5 << TICKET_BITS | 7);
    t.handle(ms(1), In::Stored(mine, Ok(crate::storage::Stored::Done)));
    t.handle(ms(1), In::Stored(Ticket(7), Ok(crate::storage::Stored::Done)));
    assert_eq!(t.counter.stored, 1);
}

/// Runs 200 numbers from node 0 to node 1 and answers what came back.
fn echoes(seed: u64, mode: Mode) -> (Vec<u64>, u64) {
    let echo = || Echo { mode: Some(mode), ..Echo::default() };
    let mut net = PlaneNet::new(seed, Config { credit: 640, ..config() }, vec![echo(), echo()]);
    net.up(0, 1);
    let peer = net.peer(0, 1);
    for n in 0..200 {
        net.command(0, (peer, n * 10));
    }
    net.run(ms(600_000));
    (net.told.iter().map(|(_, node, n)| (*node == 0).then_some(*n).unwrap()).collect(), net.lost())
}

#[test]
fn an_echo_keeps_the_promise_of_each_mode() {
    let all: Vec<u64> = (0..200).map(|n| n * 10 + 1).collect();
    let mut reordered = false;
    for seed in 0..20 {
        assert_eq!(echoes(seed, Mode::Reliable), (all.clone(), 0));
        let (mut got, _) = echoes(seed, Mode::Unordered);
        reordered |= got != all;
        got.sort_unstable();
        assert_eq!(got, all, "exactly once");
        let (mut got, lost) = echoes(seed, Mode::FireAndForget);
        got.sort_unstable();
        assert!(got.windows(2).all(|w| w[0] < w[1]), "at most once");
        assert_eq!(got.len() as u64 + lost, 200);
        assert!(lost > 0);
        assert_eq!(echoes(seed, Mode::Unordered), echoes(seed, Mode::Unordered), "the seed decides");
    }
    assert!(reordered);
}

#[test]
fn composed_planes_run_and_a_lost_generation_ends_its_lanes() {
    let mut net = PlaneNet::new(1, config(), vec![toys(), toys(), toys()]);
    net.up(0, 1);
    net.up(1, 2);
    net.command(2, ToyCommand::Counter(true));
    let old = net.peer(0, 1);
    net.command(0, ToyCommand::Echo((old, 41)));
    net.run(ms(500));
    assert!(matches!(net.told.as_slice(), [(_, 0, ToyEvent::Echo(42))]));
    net.command(0, ToyCommand::Echo((old, 50)));
    net.down(0, 1, Gone::Unreachable);
    net.up(0, 1);
    net.run(ms(900));
    assert_eq!(net.told.len(), 1, "what was under way is gone");
    net.command(0, ToyCommand::Echo((old, 60)));
    let new = net.peer(0, 1);
    net.command(0, ToyCommand::Echo((new, 70)));
    net.run(ms(2_500));
    let echoed = net.told.iter().filter(|(_, _, e)| matches!(e, ToyEvent::Echo(71))).count();
    let rang = net.told.iter().filter(|(_, n, e)| *n == 2 && matches!(e, ToyEvent::Counter(1))).count();
    assert_eq!((echoed, rang, net.told.len()), (1, 2, 4));
    assert_eq!(net.plane(1).counter.count, 3, "two peers, one of them twice");
    assert_eq!(net.now(), ms(2_500));
}

/// Opens a lane of a kind that the other side does not have.
struct Stranger(Echo);

impl Plane for Stranger {
    type Cmd = (Peer, u64);
    type Event = u64;
    fn handle(&mut self, now: Instant, input: In<'_>) {
        self.0.handle(now, input);
    }
    fn command(&mut self, now: Instant, c: Self::Cmd) {
        self.0.command(now, c);
    }
    fn handle_timeout(&mut self, _: Instant) {}
    fn drain(&mut self, fx: &mut dyn Effects) {
        self.0.drain(&mut Scoped::new(fx, 33, usize::MAX));
    }
    fn poll_event(&mut self) -> Option<u64> {
        self.0.poll_event()
    }
    fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        self.0.poll_timeout()
    }
    fn ceiling(&self) -> u64 {
        0
    }
    fn admit(&self, kind: u8) -> Result<(), Refusal> {
        self.0.admit(kind)
    }
}

#[test]
fn the_opener_learns_the_refusal() {
    let mut net = PlaneNet::new(1, config(), vec![Stranger(Echo::default()), Stranger(Echo::default())]);
    net.up(0, 1);
    let peer = net.peer(0, 1);
    net.command(0, (peer, 1));
    net.run(ms(1_000));
    assert_eq!(net.plane(0).0.ended, [Ended::Refused(Refusal::UnknownKind(33))]);
    assert!(net.told.is_empty());
}

#[test]
fn a_command_is_written_with_the_number_of_its_plane() {
    let bytes = postcard::to_allocvec(&ToyCommand::Counter(true)).unwrap();
    assert_eq!(bytes, [5, 1]);
    assert!(matches!(postcard::from_bytes(&bytes), Ok(ToyCommand::Counter(true))));
    assert!(postcard::from_bytes::<ToyCommand>(&[9, 1]).is_err(), "no such plane");
    assert!(postcard::from_bytes::<ToyCommand>(&[5]).is_err(), "cut off");
    assert_eq!(postcard::to_allocvec(&ToyEvent::Echo(7)).unwrap(), [1, 7]);
    // Each plane has a port of its own, which is its number.
    assert_eq!((Toys::PORTS, Toys::port(&ToyCommand::Counter(true))), (6, 5));
    assert!(toys().takes(5) && toys().takes(0));
}

proptest! {
    /// Draining the dirty planes does what draining all of them does.
    #[test]
    fn polling_the_dirty_ones_equals_polling_all(
        ops in proptest::collection::vec((0u8..7, 0u64..50), 0..80)) {
        let (mut lazy, mut eager) = (toys(), toys());
        let (mut a, mut b) = (Log::default(), Log::default());
        let mut now = Instant::ZERO;
        let peer = forge::peer(1, 1);
        for (kind, n) in ops {
            now += Duration::from_millis(n * 10);
            for t in [&mut lazy, &mut eager] {
                match kind {
                    0 => t.command(now, ToyCommand::Echo((peer, n))),
                    1 => t.command(now, ToyCommand::Counter(n > 10)),
                    2 => t.handle(now, In::Msg(peer, Lane::new(99, 0, 1), 0, &n.to_le_bytes())),
                    3 => t.handle(now, In::Msg(peer, Lane::new(1, 0, (n % 8) as u8), 0, &n.to_le_bytes())),
                    4 => t.handle(now, In::Down(peer, Gone::Closed)),
                    _ => t.handle_timeout(now),
                }
            }
            eager.mark_all();
            lazy.drain(&mut a);
            eager.drain(&mut b);
            prop_assert_eq!(&a.lines, &b.lines);
            eager.mark_all();
            let told = |t: &mut Toys| core::iter::from_fn(|| t.poll_event()).map(|e| match e {
                ToyEvent::Echo(n) => (1, n),
                ToyEvent::Counter(n) => (5, n),
            }).collect::<Vec<_>>();
            prop_assert_eq!(told(&mut lazy), told(&mut eager));
            eager.drain(&mut b);
            prop_assert_eq!(lazy.poll_timeout(), eager.poll_timeout());
        }
    }
}
