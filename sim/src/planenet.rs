//! L0: instances of one plane joined by simulated lanes, with no transport below them.
//!
//! Delay, credit, loss of a generation, exactly-once within a generation for the reliable modes, at
//! most once for fire-and-forget, reordering where the mode allows it. Every decision is drawn from
//! (seed, domain, link, n-th message), never from a shared stream, so that leaving one fault out does
//! not change the others.

use net_proto::identity::EntityId;
use net_proto::lane::{Effects, Ended, Gone, In, Job, JobDone, Lane, LaneSpec, MAX_HEAD, Plane, forge};
use net_proto::session::Peer;
use net_proto::storage::{StoreError, StoreOp, StoreResult, Stored, Ticket};
use net_proto::stream::{Mode, charge};
use net_proto::time::{Duration, Instant, Reason, nanos};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::string::String;
use std::vec::Vec;

/// How the lanes behave.
#[derive(Clone, Debug)]
pub struct Config {
    /// Shortest delay of a message.
    pub min_delay: Duration,
    /// Longest delay of a message; between them it is drawn.
    pub max_delay: Duration,
    /// Unacknowledged bytes (charged) that a lane holds in each direction.
    pub credit: u64,
    /// Fire-and-forget messages lost, in thousandths.
    pub loss: u64,
    /// Lanes that may live at once.
    pub lanes: usize,
    /// Runs a job.
    pub run: fn(Job) -> JobDone,
    /// A job takes a time from this range.
    pub job_time: (Duration, Duration),
}

impl Config {
    /// 1 to 20 ms, 64 KiB, one message in ten lost where the mode allows it.
    pub fn new(run: fn(Job) -> JobDone) -> Self {
        Self {
            min_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(20),
            credit: 64 << 10,
            loss: 100,
            lanes: 1024,
            run,
            job_time: (Duration::ZERO, Duration::from_micros(300)),
        }
    }
}

/// Where the storage effects of one node go.
pub trait Medium {
    /// How long the next operation takes.
    fn latency(&mut self) -> Duration;
    /// Carries out an operation; its time has come.
    fn run(&mut self, op: StoreOp) -> StoreResult;
    /// The power failed; what uses it from now on is a new process.
    fn crash(&mut self);
}

/// A directory in memory that loses nothing.
#[derive(Debug, Default)]
struct Safe(BTreeMap<String, Vec<u8>>);

impl Medium for Safe {
    fn latency(&mut self) -> Duration {
        Duration::from_millis(1)
    }

    fn run(&mut self, op: StoreOp) -> StoreResult {
        store(&mut self.0, op)
    }

    fn crash(&mut self) {}
}

#[derive(Debug)]
enum Happening {
    Up { node: usize, peer: Peer },
    Opened { lane: usize, head: Vec<u8> },
    Message { lane: usize, to: usize, number: u64, data: Vec<u8> },
    Acked { lane: usize, to: usize, number: u64, charge: u64 },
    Closed { lane: usize, to: usize, why: Ended },
    Store { node: usize, life: u32, ticket: Ticket, op: StoreOp },
    Done { node: usize, life: u32, ticket: Ticket, done: JobDone },
}

/// One direction of a lane.
#[derive(Debug)]
struct Half {
    next: u64,
    in_flight: u64,
    refused: bool,
    /// Nothing in order arrives before this.
    last: Instant,
}

impl Half {
    const fn new() -> Self {
        Self { next: 0, in_flight: 0, refused: false, last: Instant::ZERO }
    }
}

#[derive(Debug)]
struct LaneState {
    handle: Lane,
    mode: Mode,
    /// The opener first.
    ends: [usize; 2],
    generation: u32,
    /// When the other side learns of it; nothing that the opener sends arrives before.
    opened_at: Instant,
    halves: [Half; 2],
    open: bool,
}

struct World {
    seed: u64,
    config: Config,
    now: Instant,
    events: BTreeMap<(Instant, u64), Happening>,
    sequence: u64,
    lanes: Vec<LaneState>,
    /// Generation and whether it is up, by (smaller, greater) node.
    links: BTreeMap<(usize, usize), (u32, bool)>,
    media: Vec<Box<dyn Medium>>,
    /// When the last operation of each node is complete: they happen in order.
    stored_at: Vec<Instant>,
    /// Rises with every crash.
    lives: Vec<u32>,
    jobs: u64,
    room: Vec<u8>,
    lost: u64,
}

/// `N` instances of one plane.
pub struct PlaneNet<P: Plane> {
    planes: Vec<P>,
    world: World,
    /// What the planes told, in order: when, which node, what.
    pub told: Vec<(Instant, usize, P::Event)>,
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl World {
    /// A fixed integer hash (the finaliser of SplitMix64), so that runs agree on every system.
    fn draw(&self, domain: u64, link: u64, nth: u64) -> u64 {
        let mut x = self.seed;
        for part in [domain, link, nth] {
            x = (x ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^= x >> 31;
        }
        x
    }

    fn delay(&self, domain: u64, link: u64, nth: u64) -> Duration {
        let spread = nanos(self.config.max_delay).saturating_sub(nanos(self.config.min_delay));
        let part = self.draw(domain, link, nth) % (spread + 1);
        self.config.min_delay + Duration::from_nanos(part)
    }

    fn at(&mut self, when: Instant, what: Happening) {
        self.sequence += 1;
        self.events.insert((when, self.sequence), what);
    }

    fn link(&self, a: usize, b: usize) -> (u32, bool) {
        self.links.get(&pair(a, b)).copied().unwrap_or((0, false))
    }

    fn alive(&self, lane: usize) -> bool {
        self.lanes
            .get(lane)
            .is_some_and(|l| l.open && self.link(l.ends[0], l.ends[1]) == (l.generation, true))
    }

    /// The lane of a handle as seen from a node, and which of its ends that is.
    fn find(&self, node: usize, handle: Lane) -> Option<(usize, usize)> {
        let index = handle.slot() as usize;
        let lane = self.lanes.get(index).filter(|l| l.handle == handle)?;
        let end = lane.ends.iter().position(|n| *n == node)?;
        self.alive(index).then_some((index, end))
    }

    /// When what leaves `end` now arrives, no earlier than what left before it unless order is free.
    fn arrival(&mut self, index: usize, end: usize, domain: u64, nth: u64, ordered: bool) -> Instant {
        let delay = self.delay(domain, index as u64 * 2 + end as u64, nth);
        let mut when = self.now + delay;
        let half = &mut self.lanes[index].halves[end];
        if ordered {
            when = when.max(half.last);
        }
        half.last = half.last.max(when);
        when
    }
}

/// Effects of one node.
struct Fx<'a> {
    world: &'a mut World,
    node: usize,
}

impl Effects for Fx<'_> {
    /// The number of the node, repeated.
    fn entity(&self, peer: Peer) -> Option<EntityId> {
        let up = self.world.link(self.node, peer.slot() as usize) == (peer.generation(), true);
        up.then_some(EntityId([peer.slot() as u8; 32]))
    }

    fn open(&mut self, peer: Peer, spec: &LaneSpec<'_>) -> Option<Lane> {
        let w = &mut *self.world;
        let other = peer.slot() as usize;
        if w.link(self.node, other) != (peer.generation(), true) || spec.head.len() > MAX_HEAD {
            return None;
        }
        if (0..w.lanes.len()).filter(|i| w.alive(*i)).count() >= w.config.lanes {
            return None;
        }
        let index = w.lanes.len();
        let handle = forge::lane(index as u32, 0, spec.kind);
        w.lanes.push(LaneState {
            handle,
            mode: spec.mode,
            ends: [self.node, other],
            generation: peer.generation(),
            opened_at: Instant::ZERO,
            halves: [Half::new(), Half::new()],
            open: true,
        });
        let when = w.arrival(index, 0, 1, 0, true);
        w.lanes[index].opened_at = when;
        w.at(when, Happening::Opened { lane: index, head: spec.head.to_vec() });
        Some(handle)
    }

    fn largest(&self, lane: Lane) -> Option<usize> {
        self.world.find(self.node, lane).map(|_| self.world.config.credit as usize)
    }

    fn reserve(&mut self, lane: Lane, len: usize) -> Option<&mut [u8]> {
        let w = &mut *self.world;
        let (index, end) = w.find(self.node, lane)?;
        let half = &mut w.lanes[index].halves[end];
        if half.in_flight + charge(len) > w.config.credit {
            half.refused = true;
            return None;
        }
        w.room.clear();
        w.room.resize(len, 0);
        Some(&mut w.room)
    }

    fn commit(&mut self, lane: Lane, used: usize) -> u64 {
        let w = &mut *self.world;
        let Some((index, end)) = w.find(self.node, lane) else { return 0 };
        let mode = w.lanes[index].mode;
        let to = w.lanes[index].ends[1 - end];
        let half = &mut w.lanes[index].halves[end];
        let number = half.next;
        half.next += 1;
        let data = w.room.get(..used).unwrap_or(&w.room).to_vec();
        let cost = charge(data.len());
        half.in_flight += cost;
        let when = w.arrival(index, end, 2, number, mode == Mode::Reliable);
        let when = when.max(w.lanes[index].opened_at);
        let key = index as u64 * 2 + end as u64;
        let lost = mode == Mode::FireAndForget && w.draw(3, key, number) % 1000 < w.config.loss;
        if lost {
            w.lost += 1;
        } else {
            w.at(when, Happening::Message { lane: index, to, number, data });
        }
        let back = when + w.delay(4, key, number);
        w.at(back, Happening::Acked { lane: index, to: self.node, number, charge: cost });
        number
    }

    fn close(&mut self, lane: Lane, why: u16) {
        let w = &mut *self.world;
        let Some((index, end)) = w.find(self.node, lane) else { return };
        let to = w.lanes[index].ends[1 - end];
        let when = w.arrival(index, end, 5, 0, true);
        w.at(when, Happening::Closed { lane: index, to, why: Ended::ByPeer(why) });
    }

    fn store(&mut self, ticket: Ticket, op: StoreOp) {
        let w = &mut *self.world;
        let (node, life) = (self.node, w.lives[self.node]);
        let when = w.now.max(w.stored_at[node]) + w.media[node].latency();
        w.stored_at[node] = when;
        w.at(when, Happening::Store { node, life, ticket, op });
    }

    fn job(&mut self, ticket: Ticket, job: Job) {
        let w = &mut *self.world;
        let done = (w.config.run)(job);
        w.jobs += 1;
        let (low, high) = w.config.job_time;
        let spread = nanos(high).saturating_sub(nanos(low));
        let took = low + Duration::from_nanos(w.draw(9, self.node as u64, w.jobs) % (spread + 1));
        let (node, life, when) = (self.node, w.lives[self.node], w.now + took);
        w.at(when, Happening::Done { node, life, ticket, done });
    }
}

fn store(files: &mut BTreeMap<String, Vec<u8>>, op: StoreOp) -> StoreResult {
    match op {
        StoreOp::Open { file, .. } => {
            let len = files.entry(file).or_default().len() as u64;
            Ok(Stored::Opened { len })
        }
        StoreOp::Write { file, offset, data } => {
            let file = files.get_mut(&file).ok_or(StoreError::NotFound)?;
            let end = offset as usize + data.len();
            if file.len() < end {
                file.resize(end, 0);
            }
            file[offset as usize..end].copy_from_slice(&data);
            Ok(Stored::Done)
        }
        StoreOp::Read { file, offset, len } => {
            let file = files.get(&file).ok_or(StoreError::NotFound)?;
            let start = (offset as usize).min(file.len());
            let end = start.saturating_add(len as usize).min(file.len());
            Ok(Stored::Data(file[start..end].to_vec()))
        }
        StoreOp::Truncate { file, len } => {
            files.get_mut(&file).ok_or(StoreError::NotFound)?.resize(len as usize, 0);
            Ok(Stored::Done)
        }
        StoreOp::Rename { from, to } => {
            let file = files.remove(&from).ok_or(StoreError::NotFound)?;
            files.insert(to, file);
            Ok(Stored::Done)
        }
        StoreOp::Remove { file } => files.remove(&file).map(|_| Stored::Done).ok_or(StoreError::NotFound),
        StoreOp::List => Ok(Stored::Names(files.keys().cloned().collect())),
        _ => Ok(Stored::Done),
    }
}

impl<P: Plane> PlaneNet<P> {
    /// Nodes without links.
    pub fn new(seed: u64, config: Config, planes: Vec<P>) -> Self {
        let media = planes.iter().map(|_| Box::new(Safe::default()) as Box<dyn Medium>).collect();
        let world = World {
            seed,
            config,
            now: Instant::ZERO,
            events: BTreeMap::new(),
            sequence: 0,
            lanes: Vec::new(),
            links: BTreeMap::new(),
            media,
            stored_at: planes.iter().map(|_| Instant::ZERO).collect(),
            lives: planes.iter().map(|_| 0).collect(),
            jobs: 0,
            room: Vec::new(),
            lost: 0,
        };
        Self { planes, world, told: Vec::new() }
    }

    /// The time in the simulation.
    pub const fn now(&self) -> Instant {
        self.world.now
    }

    /// Fire-and-forget messages that were lost.
    pub const fn lost(&self) -> u64 {
        self.world.lost
    }

    /// One of the planes.
    pub fn plane(&self, node: usize) -> &P {
        &self.planes[node]
    }

    /// How `node` names `other` at present.
    pub fn peer(&self, node: usize, other: usize) -> Peer {
        forge::peer(other as u32, self.world.link(node, other).0)
    }

    /// A new generation between two nodes; both learn of it after a delay.
    pub fn up(&mut self, a: usize, b: usize) {
        self.down(a, b, Gone::Unreachable);
        let w = &mut self.world;
        let link = w.links.entry(pair(a, b)).or_insert((0, false));
        *link = (link.0 + 1, true);
        let generation = link.0;
        for (node, other) in [(a, b), (b, a)] {
            // At once: a lane that one side opens must not arrive before the other side is up.
            let now = w.now;
            w.at(now, Happening::Up { node, peer: forge::peer(other as u32, generation) });
        }
    }

    /// Loses the generation between two nodes, with everything under way.
    pub fn down(&mut self, a: usize, b: usize, why: Gone) {
        let Some(link) = self.world.links.get_mut(&pair(a, b)) else { return };
        if !link.1 {
            return;
        }
        link.1 = false;
        let generation = link.0;
        for (node, other) in [(a, b), (b, a)] {
            let now = self.world.now;
            self.planes[node].handle(now, In::Down(forge::peer(other as u32, generation), why));
            self.settle(node);
        }
    }

    /// Lets a node store elsewhere. Call it before anything happens.
    pub fn set_medium(&mut self, node: usize, medium: impl Medium + 'static) {
        self.world.media[node] = Box::new(medium);
    }

    /// A node's power fails: its links go down, what it waited for never comes, its medium keeps what
    /// it keeps. `plane` is the new process; links come up again by [`PlaneNet::up`].
    pub fn crash(&mut self, node: usize, plane: P) {
        for other in 0..self.planes.len() {
            if other != node {
                self.down(node, other, Gone::Unreachable);
            }
        }
        self.world.lives[node] += 1;
        self.world.stored_at[node] = self.world.now;
        self.world.media[node].crash();
        self.planes[node] = plane;
        self.settle(node);
    }

    /// Gives a plane a command.
    pub fn command(&mut self, node: usize, command: P::Cmd) {
        self.planes[node].command(self.world.now, command);
        self.settle(node);
    }

    /// Runs until nothing is left to do or `until` is reached.
    ///
    /// # Panics
    ///
    /// If the planes keep each other busy without time passing.
    pub fn run(&mut self, until: Instant) {
        let mut stuck = (self.world.now, 0u32);
        loop {
            let event = self.world.events.first_key_value().map(|(key, _)| key.0);
            let timer = (0..self.planes.len())
                .filter_map(|n| self.planes[n].poll_timeout().map(|(at, _): (Instant, Reason)| (at, n)))
                .min();
            let next = match (event, timer) {
                (Some(e), Some((t, _))) => e.min(t),
                (Some(e), None) => e,
                (None, Some((t, _))) => t,
                (None, None) => return,
            };
            if next > until {
                self.world.now = until;
                return;
            }
            self.world.now = self.world.now.max(next);
            stuck = if stuck.0 == self.world.now { (stuck.0, stuck.1 + 1) } else { (self.world.now, 0) };
            assert!(stuck.1 < 100_000, "no time passes at {:?}", stuck.0);
            match timer {
                Some((at, node)) if event.is_none_or(|e| at <= e) => {
                    self.planes[node].handle_timeout(self.world.now);
                    self.settle(node);
                }
                _ => {
                    if let Some((_, what)) = self.world.events.pop_first() {
                        self.happen(what);
                    }
                }
            }
        }
    }

    fn happen(&mut self, what: Happening) {
        let now = self.world.now;
        let node = match what {
            Happening::Up { node, peer } => {
                if self.world.link(node, peer.slot() as usize) != (peer.generation(), true) {
                    return;
                }
                self.planes[node].handle(now, In::Up(peer));
                node
            }
            Happening::Store { node, life, ticket, op } => {
                if self.world.lives[node] != life {
                    return;
                }
                let result = self.world.media[node].run(op);
                self.planes[node].handle(now, In::Stored(ticket, result));
                node
            }
            Happening::Done { node, life, ticket, done } => {
                if self.world.lives[node] != life {
                    return;
                }
                self.planes[node].handle(now, In::Job(ticket, done));
                node
            }
            Happening::Opened { lane, .. }
            | Happening::Message { lane, .. }
            | Happening::Acked { lane, .. }
            | Happening::Closed { lane, .. }
                if !self.world.alive(lane) =>
            {
                return;
            }
            Happening::Opened { lane, head } => {
                let state = &self.world.lanes[lane];
                let (handle, [from, node]) = (state.handle, state.ends);
                match self.planes[node].admit(handle.kind()) {
                    Ok(()) => {
                        let peer = self.peer(node, from);
                        self.planes[node].handle(now, In::Opened(peer, handle, &head));
                    }
                    Err(why) => {
                        let when = now + self.world.delay(6, lane as u64 * 2 + 1, 0);
                        let why = Ended::Refused(why);
                        self.world.at(when, Happening::Closed { lane, to: from, why });
                    }
                }
                node
            }
            Happening::Message { lane, to, number, data } => {
                let state = &self.world.lanes[lane];
                let from = if state.ends[0] == to { state.ends[1] } else { state.ends[0] };
                let (handle, peer) = (state.handle, self.peer(to, from));
                if self.planes[to].admit(handle.kind()).is_ok() {
                    self.planes[to].handle(now, In::Msg(peer, handle, number, &data));
                }
                to
            }
            Happening::Acked { lane, to, number, charge } => {
                let state = &mut self.world.lanes[lane];
                let handle = state.handle;
                let end = usize::from(state.ends[0] != to);
                let half = &mut state.halves[end];
                half.in_flight = half.in_flight.saturating_sub(charge);
                let writable = core::mem::take(&mut half.refused);
                self.planes[to].handle(now, In::Acked(handle, number));
                if writable {
                    self.planes[to].handle(now, In::Writable(handle));
                }
                to
            }
            Happening::Closed { lane, to, why } => {
                self.world.lanes[lane].open = false;
                let handle = self.world.lanes[lane].handle;
                self.planes[to].handle(now, In::Closed(handle, why));
                to
            }
        };
        self.settle(node);
    }

    fn settle(&mut self, node: usize) {
        let now = self.world.now;
        self.planes[node].drain(&mut Fx { world: &mut self.world, node });
        while let Some(event) = self.planes[node].poll_event() {
            self.told.push((now, node, event));
        }
    }
}
