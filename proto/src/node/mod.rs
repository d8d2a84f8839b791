//! The node: composes the machines of one transport shard, holds no protocol rule of its own.
//!
//! Handshakes make sessions, indices lead datagrams to them, timers wake them, and a ready list says
//! who may have something to send. Every input is one [`Input`] value, so a recorded list of them
//! replays a node exactly.
//!
//! Call order does not matter for safety. A driver that wants no needless wake-ups handles input,
//! then calls [`Node::poll_transmit`] until it answers `None`, then sleeps until
//! [`Node::poll_timeout`].

mod api;
mod associate;
pub mod boot;
mod config;
mod host;
mod index;
mod job;
mod lives;
mod stats;
#[cfg(test)]
mod tests;
mod trace;
mod warm;

pub use crate::session::{PathStats, PeerStats};
pub use crate::stream::{StreamStats, Taken};
pub use api::{
    Command, DialError, DownReason, Event, Input, Lost, MAX_LABEL, StreamError, Transmit, Violation,
};
pub use config::{AcceptPolicy, Config, ConfigError};
pub use host::{Host, MAX_LANES, OWN_ID};
pub use index::{Steer, steer};
pub use job::{Job, JobDone};
pub use stats::{Ceiling, Drops, NodeStats};
pub use trace::{Output, Step};
pub use warm::DEPTHS;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::entropy::Entropy;
use crate::handshake::{self, HalfOpenId, Handshakes};
use crate::identity::EntityId;
use crate::path::Path;
use crate::session::{self, Peer, Session, parse_header};
use crate::storage::Ticket;
use crate::stream::{self, Pool, StreamId};
use crate::time::{Instant, Reason, WallClock, earlier};
use crate::timers::TimerHeap;

use associate::{Dial, HalfOpen};
use index::{Indices, Target};
use lives::Lives;

/// Emptied chunks kept for ports, in bytes; further ones are freed.
const SPENT: usize = 16 << 20;
/// An association's place in the tables: slot, timer and its heap, entity id, ready and recent lists.
const PLACE: usize = size_of::<Slot>() + 64 + 2 * size_of::<(EntityId, u32)>() + 8;
/// Ended associations that are remembered.
const LIVES: usize = 4096;
/// Labels that begin with this are lanes; applications cannot open them.
pub const RESERVED: char = '\0';

struct Slot {
    generation: u32,
    session: Option<Box<Session>>,
    /// Whether the slot is in the ready list.
    ready: bool,
}

/// One shard: all associations behind one socket.
pub struct Node {
    config: Config,
    session_config: Arc<session::Config>,
    me: EntityId,
    handshakes: Handshakes,
    indices: Indices,
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_entity: BTreeMap<EntityId, u32>,
    dials: BTreeMap<EntityId, Dial>,
    half_open: BTreeMap<HalfOpenId, HalfOpen>,
    lives: Lives,
    ready: VecDeque<u32>,
    timers: TimerHeap,
    events: VecDeque<Event>,
    spent: Vec<Vec<u8>>,
    /// Their capacities, summed.
    spent_bytes: usize,
    pool: Pool,
    entropy: Entropy,
    wall: Option<WallClock>,
    /// The ledgers of associations that ended, summed.
    ended: stream::Ledger,
    /// Sent to streams that were gone.
    refused: stream::Tally,
    stopping: bool,
    /// Slots of the most recently used associations, latest first: these keep alive quickly.
    recent: VecDeque<u32>,
    next_dial: u64,
    now: Instant,
    stats: NodeStats,
}

impl Node {
    /// A node with nobody around it. `seed` feeds every random choice; equal seeds and inputs give
    /// equal outputs.
    pub fn new(config: Config, seed: [u8; 32], now: Instant) -> Result<Self, ConfigError> {
        config.check()?;
        let me = config.identity.id();
        let meshes = config.meshes.clone();
        let mut settings = handshake::Config::new(config.identity.clone(), config.incarnation, meshes);
        settings.ciphers = config.ciphers.offered();
        settings.dial_timeout = config.dial_timeout;
        settings.cookie_after = config.cookie_after;
        settings.dial_limit = config.max_dials;
        Ok(Self {
            handshakes: Handshakes::new(settings, Entropy::new(&seed, "handshakes"), now),
            indices: Indices::new(config.shard, Entropy::new(&seed, "indices")),
            entropy: Entropy::new(&seed, "sessions"),
            pool: Pool::new(config.window_pool),
            session_config: Arc::new(config.session.clone()),
            config,
            me,
            slots: Vec::new(),
            free: Vec::new(),
            by_entity: BTreeMap::new(),
            dials: BTreeMap::new(),
            half_open: BTreeMap::new(),
            lives: Lives::new(LIVES),
            ready: VecDeque::new(),
            timers: TimerHeap::new(),
            events: VecDeque::new(),
            spent: Vec::new(),
            spent_bytes: 0,
            wall: None,
            ended: stream::Ledger::default(),
            refused: stream::Tally::default(),
            stopping: false,
            recent: VecDeque::new(),
            next_dial: 0,
            now,
            stats: NodeStats::default(),
        })
    }

    /// Takes one input. Never fails: wire noise is counted, a caller's mistake comes back as an event.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        // A clock that steps back is the driver's bug; the node stays where it was.
        let now = now.max(self.now);
        self.now = now;
        match input {
            Input::Datagram { path, ecn, data } => self.handle_datagram(now, path, ecn, data),
            Input::Timeout => self.handle_timeout(now),
            Input::Job(ticket, JobDone::Handshake(done)) => {
                self.handshakes.handle_job(now, ticket, done);
                self.drain_handshakes(now);
            }
            // A plane's; a node alone has none.
            Input::Job(_, JobDone::Plane(_)) => {}
            Input::Wall(wall) => self.wall = Some(wall),
            Input::Command(command) => self.handle_command(now, command),
        }
    }

    fn handle_datagram(&mut self, now: Instant, path: Path, ecn: crate::path::Ecn, data: &mut [u8]) {
        self.stats.datagrams_received += 1;
        self.stats.bytes_received += data.len() as u64;
        if data.first() != Some(&session::DATA) {
            self.handshakes.handle_datagram(now, &path, data);
            self.drain_handshakes(now);
            return;
        }
        let Some((index, counter)) = parse_header(data) else {
            self.stats.drops.malformed += 1;
            return;
        };
        match self.indices.get(index) {
            Some(Target::Session(slot)) => {
                let pool = &mut self.pool;
                let Some(session) = self.slots.get_mut(slot as usize).and_then(|s| s.session.as_deref_mut())
                else {
                    return;
                };
                let packet = session::Arrived { index, counter, path, ecn };
                if let Err(noise) = session.handle_packet(now, &packet, data, pool) {
                    self.stats.drops.count(noise);
                }
                self.touched(now, slot);
            }
            Some(Target::HalfOpen(id)) => {
                if let Some(slot) = self.confirm(now, id, index, counter, path, data) {
                    // The association exists now; the packet is opened for good under its keys.
                    let pool = &mut self.pool;
                    if let Some(session) = self.slots[slot as usize].session.as_deref_mut() {
                        let packet = session::Arrived { index, counter, path, ecn };
                        if let Err(noise) = session.handle_packet(now, &packet, data, pool) {
                            self.stats.drops.count(noise);
                        }
                    }
                    self.touched(now, slot);
                }
            }
            Some(Target::Dial) | None => self.stats.drops.unknown_index += 1,
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.handshakes.handle_timeout(now);
        self.drain_handshakes(now);
        while let Some(slot) = self.timers.pop_due(now) {
            if let Some(session) = self.slots.get_mut(slot as usize).and_then(|s| s.session.as_deref_mut()) {
                session.handle_timeout(now);
                self.touched(now, slot);
            }
        }
    }

    fn handle_command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Dial { id, entity, paths } => self.dial(now, id, entity, paths),
            Command::CancelDial { id } => self.cancel_dial(id),
            Command::Disconnect { peer, code } => {
                self.with(now, peer, |s, _, now| s.close(now, DownReason::ClosedHere(code)));
            }
            Command::Open { id, peer, label, mode, priority } => {
                let answer = match self.session_mut(peer) {
                    _ if label.starts_with(RESERVED) => Err(StreamError::Reserved),
                    None => Err(StreamError::Gone),
                    Some(session) => session.streams.open(&label, mode, priority).map_err(StreamError::from),
                };
                match answer {
                    Err(error) => self.events.push_back(Event::StreamRefused { id, error }),
                    Ok(stream) => {
                        self.note_use(peer.slot());
                        let (limit, max_message) = self
                            .session_mut(peer)
                            .map_or((0, 0), |s| (s.streams.write_limit(stream), s.streams.max_message()));
                        self.events.push_back(Event::StreamReady { id, peer, stream, limit, max_message });
                        self.touched(now, peer.slot());
                    }
                }
            }
            Command::Send { peer, stream, chunk } => {
                let refused = match self.session_mut(peer) {
                    None => Some(chunk),
                    Some(session) => {
                        session.streams.send(stream, chunk).err().map(stream::SendError::into_chunk)
                    }
                };
                match refused {
                    None => {
                        self.note_use(peer.slot());
                        self.touched(now, peer.slot());
                    }
                    Some(chunk) => {
                        self.stats.sends_to_nobody += 1;
                        for (_, message) in stream::Messages::queued(&chunk) {
                            self.refused.messages += 1;
                            self.refused.bytes += message.len() as u64;
                        }
                    }
                }
            }
            Command::Flush { id, peer, stream } => {
                let known = self.session_mut(peer).is_some_and(|s| s.streams.flush(stream, id));
                if known {
                    self.touched(now, peer.slot());
                } else {
                    self.events.push_back(Event::StreamRefused { id, error: StreamError::Gone });
                }
            }
            // What a gone stream is told changes nothing.
            Command::Finish { peer, stream } => self.with(now, peer, |s, _, _| {
                let _ = s.streams.finish(stream);
            }),
            Command::Reset { peer, stream, code } => self.with(now, peer, |s, _, _| {
                let _ = s.streams.reset(stream, code);
            }),
            Command::Stop { peer, stream, code } => self.with(now, peer, |s, pool, _| {
                let _ = s.streams.stop(stream, code, pool);
            }),
            Command::Consumed { peer, stream, charge } => {
                self.with(now, peer, |s, pool, now| s.consumed(now, stream, charge, pool));
            }
            Command::NetworkChanged => {
                for slot in 0..self.slots.len() as u32 {
                    if let Some(session) = self.slots[slot as usize].session.as_deref_mut() {
                        session.network_changed(now);
                        self.touched(now, slot);
                    }
                }
            }
            Command::AddMesh(mesh) => {
                if self.handshakes.add_mesh(&mesh).is_err() {
                    self.stats.refused_meshes += 1;
                }
            }
            Command::RemoveMesh(id) => {
                let _ = self.handshakes.remove_mesh(&id);
            }
            Command::Shutdown => self.shutdown(now),
        }
    }

    fn shutdown(&mut self, now: Instant) {
        self.stopping = true;
        for (_, dial) in core::mem::take(&mut self.dials) {
            self.drop_dial(dial, DialError::Shutdown);
        }
        for slot in 0..self.slots.len() as u32 {
            if let Some(session) = self.slots[slot as usize].session.as_deref_mut() {
                session.close(now, DownReason::Shutdown);
                self.touched(now, slot);
            }
        }
        self.note_drained();
    }

    fn note_drained(&mut self) {
        if self.stopping && self.by_entity.is_empty() && self.stats.peers == 0 {
            self.stopping = false;
            self.events.push_back(Event::Drained);
        }
    }

    /// The application uses this association: its keep-alive becomes the quick one, and that of the
    /// least recently used beyond the limit the slow one.
    fn note_use(&mut self, slot: u32) {
        if self.recent.front() == Some(&slot) {
            return;
        }
        self.recent.retain(|s| *s != slot);
        self.recent.push_front(slot);
        let over = (self.recent.len() > self.config.max_active).then(|| self.recent.pop_back()).flatten();
        for (slot, favoured) in [(Some(slot), true), (over, false)] {
            let entry = slot.and_then(|s| self.slots.get_mut(s as usize));
            if let Some(session) = entry.and_then(|s| s.session.as_deref_mut()) {
                session.set_favoured(favoured);
            }
        }
    }

    /// Runs `f` on a live session and then looks at what it left.
    fn with(&mut self, now: Instant, peer: Peer, f: impl FnOnce(&mut Session, &mut Pool, Instant)) {
        let Some(slot) = self.slots.get_mut(peer.slot() as usize) else { return };
        if slot.generation != peer.generation() {
            return;
        }
        if let Some(session) = slot.session.as_deref_mut() {
            f(session, &mut self.pool, now);
            self.touched(now, peer.slot());
        }
    }

    fn session(&self, peer: Peer) -> Option<&Session> {
        let slot = self.slots.get(peer.slot() as usize)?;
        if slot.generation != peer.generation() {
            return None;
        }
        slot.session.as_deref()
    }

    fn session_mut(&mut self, peer: Peer) -> Option<&mut Session> {
        let slot = self.slots.get_mut(peer.slot() as usize)?;
        if slot.generation != peer.generation() {
            return None;
        }
        slot.session.as_deref_mut()
    }

    /// Takes a session's events and puts it on the ready list. Called after everything that changes one.
    fn touched(&mut self, now: Instant, slot: u32) {
        let gone = self.take_events(slot);
        let entry = &mut self.slots[slot as usize];
        if entry.session.is_some() && !entry.ready {
            entry.ready = true;
            self.ready.push_back(slot);
        }
        match gone {
            Some(reason) => self.end(slot, reason),
            None => self.dial_if_wanted(now, slot),
        }
    }

    /// Passes on what a session has to tell. `Some`: it is over.
    fn take_events(&mut self, slot: u32) -> Option<DownReason> {
        let entry = &mut self.slots[slot as usize];
        let peer = Peer::new(slot, entry.generation);
        let session = entry.session.as_deref_mut()?;
        let mut gone = None;
        let mut opened = false;
        while let Some(event) = session.poll_event() {
            match event {
                session::Event::Stream(event) => {
                    opened |= matches!(event, crate::stream::Event::Opened { .. });
                    self.events.push_back(api::stream_event(peer, event, &session.streams));
                }
                session::Event::Path(path) => self.events.push_back(Event::PathChanged { peer, path }),
                session::Event::Gone(reason) => {
                    gone = Some(reason);
                    break;
                }
            }
        }
        while let Some(index) = session.pop_retired_index() {
            self.indices.release(index);
        }
        while let Some(chunk) = session.streams.spent() {
            // A driver that never asks for them must not make them pile up.
            if self.spent_bytes.saturating_add(chunk.capacity()) <= SPENT {
                self.spent_bytes += chunk.capacity();
                self.spent.push(chunk);
            }
        }
        // What a peer does makes it favoured only while that costs nobody else its place.
        if opened && self.recent.len() < self.config.max_active {
            self.note_use(slot);
        }
        gone
    }

    /// Writes the next datagrams into `buf`: one, or several of one size for one destination.
    ///
    /// `buf` must hold at least one datagram of the largest configured size; what it holds more is
    /// room for a batch. Answers `None` when nothing can leave now.
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut [u8]) -> Option<Transmit> {
        let now = now.max(self.now);
        self.now = now;
        if let Some((path, len)) = self.handshakes.poll_transmit(now, buf) {
            self.stats.datagrams_sent += 1;
            self.stats.bytes_sent += len as u64;
            return Some(Transmit { path, ecn: crate::path::Ecn::NotEct, len, segment: None, peer: None });
        }
        // Nobody is asked twice in a row while others wait.
        for _ in 0..self.ready.len() {
            let slot = self.ready.pop_front()?;
            let entry = &mut self.slots[slot as usize];
            let Some(session) = entry.session.as_deref_mut() else {
                entry.ready = false;
                continue;
            };
            if let Some(batch) = session.poll_transmit(now, buf) {
                self.ready.push_back(slot);
                if session.streams.has_events() {
                    self.take_events(slot);
                }
                let count = batch.segment.map_or(1, |s| batch.len.div_ceil(s));
                self.stats.datagrams_sent += count as u64;
                self.stats.bytes_sent += batch.len as u64;
                return Some(batch);
            }
            entry.ready = false;
            self.timers.set(slot, session.poll_timeout(now));
            // What was sent last may have completed a flush or closed a stream.
            if let Some(reason) = self.take_events(slot) {
                self.end(slot, reason);
            }
        }
        // All that has something to say was asked: the next deadline is exact before the driver sleeps.
        self.timers.settle();
        None
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next heavy computation; its result comes back as [`Input::Job`].
    pub fn poll_job(&mut self) -> Option<(Ticket, Job)> {
        self.handshakes.poll_job().map(|(ticket, job)| (ticket, Job::Handshake(job)))
    }

    /// When to call [`Node::handle`] with [`Input::Timeout`], and why. While output is queued that can
    /// leave now, this is the time of the last input.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        if !self.ready.is_empty() || !self.events.is_empty() {
            return Some((self.now, Reason::Output));
        }
        earlier(self.handshakes.poll_timeout(), self.timers.next())
    }

    /// Takes all whole messages that a stream received; it goes on with the memory of `spare`. `None` if
    /// there are none or the stream is unknown; `spare` then stays with the caller.
    pub fn take(&mut self, peer: Peer, stream: StreamId, spare: &mut Vec<u8>) -> Option<Taken> {
        let now = self.now;
        let taken = self.session_mut(peer)?.streams.take(stream, spare);
        self.touched(now, peer.slot());
        taken
    }

    /// Whether so much of a stream waits to be sent that nothing more need be collected for it: messages
    /// gather better in its port. [`Event::Wanting`] tells when that ends, unless the stream does.
    pub fn has_plenty(&self, peer: Peer, stream: StreamId) -> bool {
        self.session(peer).is_some_and(|session| session.streams.has_plenty(stream))
    }

    /// Associations that may have something to send.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// A send chunk whose messages are all acknowledged, to be filled again.
    pub fn spent(&mut self) -> Option<Vec<u8>> {
        let chunk = self.spent.pop()?;
        self.spent_bytes -= chunk.capacity();
        Some(chunk)
    }

    /// Who this node is.
    pub const fn me(&self) -> EntityId {
        self.me
    }

    /// Counters of the node.
    pub fn stats(&self) -> NodeStats {
        NodeStats { handshake: *self.handshakes.drops(), ..self.stats }
    }

    /// Where every message of every [`Command::Send`] went, over all associations, ended ones included.
    /// What came for a stream that was gone counts as `closed`.
    pub fn ledger(&self) -> stream::Ledger {
        let mut sum = self.ended;
        self.slots.iter().filter_map(|s| s.session.as_deref()).for_each(|s| sum.add(s.streams.ledger()));
        sum.accepted.add(self.refused);
        sum.closed.add(self.refused);
        sum
    }

    /// Counters and measurements of one association.
    pub fn peer_stats(&self, peer: Peer) -> Option<PeerStats> {
        self.session(peer).map(|s| s.stats(self.now))
    }

    /// Measurements of every path of one association, the one in use first; nothing if it is gone.
    pub fn path_stats(&self, peer: Peer) -> impl Iterator<Item = PathStats> {
        self.session(peer).into_iter().flat_map(Session::path_stats)
    }

    /// Names and counters of the streams of one association; nothing if it is gone.
    pub fn streams(&self, peer: Peer) -> impl Iterator<Item = (StreamId, StreamStats)> {
        self.session(peer).into_iter().flat_map(|s| s.streams.list())
    }

    /// Counters of one stream.
    pub fn stream_stats(&self, peer: Peer, stream: StreamId) -> Option<StreamStats> {
        self.session(peer)?.streams.stats(stream)
    }

    /// The entity behind a handle.
    pub fn entity(&self, peer: Peer) -> Option<EntityId> {
        self.session(peer).map(|s| s.entity)
    }

    /// Whose packets come with this receiver index, as long as it leads to an association.
    pub fn owner(&self, index: u32) -> Option<Peer> {
        let Some(Target::Session(slot)) = self.indices.get(index) else { return None };
        Some(Peer::new(slot, self.slots.get(slot as usize)?.generation))
    }

    /// The live associations.
    pub fn peers(&self) -> impl Iterator<Item = (Peer, EntityId)> + '_ {
        self.by_entity.iter().filter_map(|(entity, slot)| {
            let generation = self.slots.get(*slot as usize)?.generation;
            Some((Peer::new(*slot, generation), *entity))
        })
    }

    /// Bytes that this node may come to hold for its present peers, in the worst case: the sum of
    /// [`Self::ceilings`].
    pub fn ceiling(&self) -> u64 {
        self.ceilings().total()
    }

    /// The same by what it is for. Walks over all associations.
    pub fn ceilings(&self) -> Ceiling {
        let sessions = || self.slots.iter().filter_map(|s| s.session.as_deref());
        let places = self.slots.capacity() * PLACE;
        let chunks: usize = self.spent.iter().map(Vec::capacity).sum();
        Ceiling {
            peers: sessions().map(Session::footprint).sum::<u64>() + places as u64,
            credit: sessions().map(Session::credit).sum(),
            pool: self.config.window_pool,
            handshakes: self.handshakes.ceiling(),
            tables: Indices::ceiling() + Lives::ceiling(LIVES) + chunks as u64,
        }
    }

    /// Checks what must hold after every step. For tests and simulations.
    #[doc(hidden)]
    pub fn invariants(&self) {
        for slot in &self.slots {
            if let Some(session) = slot.session.as_deref() {
                session.invariants();
            }
        }
        assert!(self.by_entity.len() <= self.config.max_peers, "more peers than allowed");
    }

    /// Bytes leased from the window pool; zero when nobody is connected.
    #[doc(hidden)]
    pub fn leased(&self) -> u64 {
        self.pool.leased()
    }
}
