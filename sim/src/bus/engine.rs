//! The engine: a log per shard that survives restarts, trimmed from its old end, and the server in
//! front of it, which forgets its connections when it ends and breaks some of them at the worst moment.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use net_proto::bus::{Position, Shard};
use net_proto::time::{Duration, Instant, nanos};
use net_shell::runtime::{Runtime, Transmit, UdpOptions};

use super::wire::{Answer, Ask, Entry, MOST, Message, Part, ROOM};
use crate::keyed::{Domain, Rng};

/// Port of the server.
pub const PORT: u16 = 6_000;

/// What a shard holds.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    /// Everything that was ever taken, in order. What was trimmed is kept here to be looked at.
    pub taken: Vec<(Position, Entry)>,
    /// So many of the oldest are gone.
    pub trimmed: usize,
}

impl Shelf {
    /// Which of [`Shelf::taken`] is the first behind a position.
    pub fn behind(&self, at: Position) -> usize {
        self.taken.partition_point(|(position, _)| *position <= at)
    }

    /// Where the newest one lies.
    pub fn tail(&self) -> Option<Position> {
        self.taken.last().map(|(position, _)| *position)
    }
}

#[derive(Debug)]
struct State {
    shelves: BTreeMap<Shard, Shelf>,
    retain: usize,
    breaks: u32,
    rng: Rng,
}

/// An engine. It outlives the server in front of it; clones share it.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Mutex<State>>);

impl Engine {
    /// An empty engine that keeps everything and breaks nothing by itself.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            shelves: BTreeMap::new(),
            retain: usize::MAX,
            breaks: 0,
            rng: Rng::new(seed, Domain::Application, 0x00e6_9143),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps at most so many events of each shard.
    #[must_use]
    pub fn retaining(self, events: usize) -> Self {
        self.state().retain = events.max(1);
        self
    }

    /// Breaks a connection with this chance at each batch, in parts per million: before anything of the
    /// batch was taken, in the middle of it, or before it was acknowledged.
    #[must_use]
    pub fn breaking(self, ppm: u32) -> Self {
        self.state().breaks = ppm;
        self
    }

    /// Looks at what a shard holds.
    pub fn with<T>(&self, shard: Shard, look: impl FnOnce(&Shelf) -> T) -> T {
        look(self.state().shelves.get(&shard).unwrap_or(&Shelf::default()))
    }

    /// The shards that hold something.
    pub fn shards(&self) -> Vec<Shard> {
        self.state().shelves.keys().copied().collect()
    }

    /// How many of a batch's events are taken before its connection breaks, if it does.
    fn breaks(&self, events: usize) -> Option<usize> {
        let mut state = self.state();
        let ppm = state.breaks;
        state.rng.chance(ppm).then(|| state.rng.below(events as u64 + 1) as usize)
    }

    /// Takes events. A position is a time in milliseconds, and the number within it.
    fn take(&self, shard: Shard, ms: u64, events: &[Entry]) {
        let mut state = self.state();
        let retain = state.retain;
        let shelf = state.shelves.entry(shard).or_default();
        for entry in events {
            let position = match shelf.tail() {
                Some(last) if last.major >= ms => Position::new(last.major, last.minor + 1),
                _ => Position::new(ms, 0),
            };
            shelf.taken.push((position, entry.clone()));
        }
        shelf.trimmed = shelf.trimmed.max(shelf.taken.len().saturating_sub(retain));
    }

    /// Events behind positions, as many as fit into a datagram.
    fn page(&self, from: &[(Shard, Option<Position>)], limit: usize) -> Vec<Part> {
        let state = self.state();
        let (mut room, mut most) = (ROOM, MOST);
        let mut parts = Vec::new();
        for (shard, at) in from {
            let Some(shelf) = state.shelves.get(shard) else { continue };
            let gone = shelf.trimmed.checked_sub(1).map(|last| shelf.taken[last].0);
            let lost = at.zip(gone).filter(|(at, gone)| at < gone);
            let begin = at.map_or(0, |at| shelf.behind(at)).max(shelf.trimmed);
            let mut events = Vec::new();
            for (position, entry) in &shelf.taken[begin..] {
                if events.len() == limit || most == 0 || entry.raw.len() > room {
                    break;
                }
                (room, most) = (room - entry.raw.len(), most - 1);
                events.push((*position, entry.clone()));
            }
            let more = begin + events.len() < shelf.taken.len();
            if lost.is_some() || !events.is_empty() {
                parts.push(Part { shard: *shard, lost, events, more });
            }
        }
        parts
    }
}

/// A connection that writes.
#[derive(Debug)]
struct Conn {
    shard: Shard,
    next: u64,
}

/// A question that waits for events.
#[derive(Debug)]
struct Parked {
    asker: SocketAddr,
    call: u64,
    from: Vec<(Shard, Option<Position>)>,
    limit: usize,
    until: Instant,
}

/// The server as a machine. What it has in memory goes with it.
#[derive(Debug)]
pub struct Server {
    engine: Engine,
    conns: BTreeMap<u64, Conn>,
    parked: Vec<Parked>,
    out: VecDeque<(SocketAddr, Vec<u8>)>,
}

impl Server {
    /// A server in front of an engine.
    pub const fn new(engine: Engine) -> Self {
        Self { engine, conns: BTreeMap::new(), parked: Vec::new(), out: VecDeque::new() }
    }

    fn say(&mut self, to: SocketAddr, message: &Message) {
        self.out.push_back((to, message.encode()));
    }

    /// Somebody said something. `ms` is the wall clock.
    pub fn handle(&mut self, now: Instant, ms: u64, from: SocketAddr, message: Message) {
        match message {
            Message::Open { conn, shard } => {
                self.conns.entry(conn).or_insert(Conn { shard, next: 0 });
                self.say(from, &Message::Opened { conn });
            }
            Message::Batch { conn, n, events } => self.batch(now, ms, from, (conn, n), &events),
            Message::Ask { call, ask } => self.ask(now, from, call, ask),
            _ => {}
        }
    }

    fn batch(&mut self, now: Instant, ms: u64, from: SocketAddr, (conn, n): (u64, u64), events: &[Entry]) {
        let Some(known) = self.conns.get_mut(&conn) else { return self.say(from, &Message::Reset { conn }) };
        let shard = known.shard;
        if n == known.next {
            let breaks = self.engine.breaks(events.len());
            let taken = breaks.unwrap_or(events.len());
            self.engine.take(shard, ms, &events[..taken]);
            self.wake(now);
            if breaks.is_some() {
                self.conns.remove(&conn);
                return self.say(from, &Message::Reset { conn });
            }
        }
        if let Some(known) = self.conns.get_mut(&conn) {
            known.next = known.next.max(if n == known.next { n + 1 } else { 0 });
            let below = known.next;
            self.say(from, &Message::Taken { conn, below });
        }
    }

    fn ask(&mut self, now: Instant, from: SocketAddr, call: u64, ask: Ask) {
        let answer = match ask {
            Ask::Ping => Answer::Pong,
            Ask::Shards => Answer::Shards(self.engine.shards()),
            Ask::Tail(shards) => {
                let tail = |s: &Shard| Some((*s, self.engine.with(*s, Shelf::tail)?));
                Answer::Tail(shards.iter().filter_map(tail).collect())
            }
            Ask::Read { from: at, limit, wait } => {
                let until = now + Duration::from_millis(wait.into());
                self.parked.retain(|p| (p.asker, p.call) != (from, call));
                self.parked.push(Parked { asker: from, call, from: at, limit: limit as usize, until });
                return self.wake(now);
            }
        };
        self.say(from, &Message::Answer { call, answer });
    }

    /// Answers who waits, if there is something for them, or their time is over.
    pub fn wake(&mut self, now: Instant) {
        let engine = self.engine.clone();
        let mut answers = Vec::new();
        self.parked.retain(|p| {
            let parts = engine.page(&p.from, p.limit);
            let waits = parts.is_empty() && now < p.until;
            if !waits {
                answers.push((p.asker, Message::Answer { call: p.call, answer: Answer::Page(parts) }));
            }
            waits
        });
        answers.iter().for_each(|(to, answer)| self.say(*to, answer));
    }

    /// When to call [`Server::wake`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.parked.iter().map(|p| p.until).min()
    }

    /// The next datagram, and to whom.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.out.pop_front()
    }
}

/// The server's task.
///
/// # Panics
/// If its port is taken on this machine.
pub async fn serve(runtime: Arc<dyn Runtime>, engine: Engine) {
    let any = SocketAddr::from(([0, 0, 0, 0], PORT));
    let (tx, mut rx) = runtime.bind(any, &UdpOptions::default()).expect("one server on a machine");
    let (mut server, mut timer) = (Server::new(engine), runtime.timer());
    std::future::poll_fn(|cx| {
        loop {
            let (now, ms) = (runtime.now(), nanos(runtime.wall().unix) / 1_000_000);
            let mut moved = false;
            if let std::task::Poll::Ready(Ok(batch)) = rx.poll_recv(cx) {
                moved = true;
                batch.for_each(|from, _, _, data| {
                    if let Some(message) = Message::decode(data) {
                        server.handle(now, ms, from, message);
                    }
                });
            }
            if timer.poll(cx, server.poll_timeout()).is_ready() {
                moved = true;
                server.wake(now);
            }
            while let Some((to, data)) = server.poll_transmit() {
                _ = tx.try_send(&Transmit {
                    to,
                    from: None,
                    ecn: net_proto::path::Ecn::NotEct,
                    data: &data,
                    segment: None,
                });
            }
            if !moved {
                return std::task::Poll::<()>::Pending;
            }
        }
    })
    .await;
}
