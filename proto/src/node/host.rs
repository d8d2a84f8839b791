//! A node with a plane on top: lanes over real associations.
//!
//! A lane is a stream whose label begins with a zero byte, which applications cannot open. The plane
//! (one, or several composed by `planes!`) sees the lanes, the application sees everything else.
//! `docs/LANES.md` has the wire form.

#[cfg(test)]
mod tests;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

use super::{
    Command, DownReason, Event, Input, Job, JobDone, Node, NodeStats, RESERVED, StreamError, Taken, Transmit,
};
use crate::identity::EntityId;
use crate::lane::{self, Effects, Ended, Gone, In, Lane, LaneSpec, MAX_HEAD, Plane, Refusal};
use crate::session::Peer;
use crate::storage::{StoreOp, StoreResult, Ticket};
use crate::stream::{Messages, Mode, StreamId, charge, frame_message};
use crate::time::{Instant, Reason, earlier};

/// Lanes that may live at once; more are refused.
pub const MAX_LANES: usize = 1 << 16;
/// Numbers of [`Command::Open`] and [`Command::Flush`] with this bit are the host's own.
pub const OWN_ID: u64 = 1 << 63;
/// Questions for acknowledgement that one lane has under way; further ones wait for the first answer.
const MAX_FLUSHES: usize = 8;
/// Rounds of events and draining per input. What is left stays dirty, and the timeout says so.
const ROUNDS: usize = 4;
/// No stream has this name: what an application says about a lane goes there.
const NOWHERE: StreamId = StreamId(u64::MAX);

/// RESET codes of a refused lane; the STOP beside it carries the number.
mod refusal {
    pub const UNKNOWN_KIND: u16 = 0;
    pub const FULL: u16 = 1;
    pub const PLANE: u16 = 2;
}

/// The label of a lane. Labels are text, so each byte of the head becomes the character of its number.
fn label(kind: u8, head: &[u8]) -> String {
    [0, kind].iter().chain(head).map(|b| char::from(*b)).collect()
}

/// Kind and head in a lane's label. `Err`: no plane can have opened it.
fn parse_label(label: &str) -> Result<(u8, Vec<u8>), Refusal> {
    let mut chars = label.chars().skip(1).map(u8::try_from);
    let kind = chars.next().and_then(Result::ok).unwrap_or(0);
    if !(1..64).contains(&kind) {
        return Err(Refusal::UnknownKind(kind));
    }
    match chars.collect() {
        Ok(head) => Ok((kind, head)),
        Err(_) => Err(Refusal::UnknownKind(kind)),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// The peer finished: all it sent was taken.
    All,
    /// The peer reset it, with this code.
    Reset(u16),
}

#[derive(Debug)]
struct State {
    handle: Lane,
    peer: Peer,
    stream: StreamId,
    mode: Mode,
    /// Committed and not handed to the stream yet.
    stage: Vec<u8>,
    /// Number of the next message, and the charge of all before it.
    next: u64,
    queued: u64,
    /// What the charge may rise to, and what it could rise to at first.
    limit: u64,
    buffer: u64,
    max_message: u64,
    /// `reserve` was refused for want of room.
    wants: bool,
    /// One more than the last number of each question under way.
    flushes: VecDeque<u64>,
    asked: u64,
    acked: u64,
    /// What `acked` has to reach before a shutdown says goodbye.
    goal: u64,
    /// The plane knows nothing of it (any more): it closed the lane, was told its end, or refused it.
    hidden: bool,
    /// How the peer ended: the code of its STOP, and what became of its sending direction.
    stopped: Option<u16>,
    sent: Option<Sent>,
}

#[derive(Debug, Default)]
struct Lanes {
    slots: Vec<(u32, Option<State>)>,
    free: Vec<u32>,
    by_stream: BTreeMap<(Peer, StreamId), u32>,
}

impl Lanes {
    fn add(&mut self, peer: Peer, stream: StreamId, kind: u8, mode: Mode, limit: u64, max: u64) -> Lane {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            self.slots.len() as u32 - 1
        });
        let generation = self.slots.get(slot as usize).map_or(0, |s| s.0);
        let handle = Lane::new(slot, generation, kind);
        let state = State {
            handle,
            peer,
            stream,
            mode,
            stage: Vec::new(),
            next: 0,
            queued: 0,
            limit,
            buffer: limit,
            max_message: max,
            wants: false,
            flushes: VecDeque::new(),
            asked: 0,
            acked: 0,
            goal: 0,
            hidden: false,
            stopped: None,
            sent: None,
        };
        if let Some(place) = self.slots.get_mut(slot as usize) {
            place.1 = Some(state);
        }
        self.by_stream.insert((peer, stream), slot);
        handle
    }

    fn at(&mut self, slot: u32) -> Option<&mut State> {
        self.slots.get_mut(slot as usize)?.1.as_mut()
    }

    fn look(&self, lane: Lane) -> Option<&State> {
        self.slots.get(lane.slot() as usize)?.1.as_ref().filter(|s| s.handle == lane && !s.hidden)
    }

    /// The lane of a handle, as long as the plane may use it.
    fn get(&mut self, lane: Lane) -> Option<&mut State> {
        self.at(lane.slot()).filter(|s| s.handle == lane && !s.hidden)
    }

    fn of(&mut self, peer: Peer, stream: StreamId) -> Option<&mut State> {
        let slot = *self.by_stream.get(&(peer, stream))?;
        self.at(slot)
    }

    fn remove(&mut self, peer: Peer, stream: StreamId) -> Option<State> {
        let slot = self.by_stream.remove(&(peer, stream))?;
        let place = self.slots.get_mut(slot as usize)?;
        place.0 = place.0.wrapping_add(1);
        self.free.push(slot);
        place.1.take()
    }

    fn count(&self) -> usize {
        self.by_stream.len()
    }
}

/// Hands what was committed to the stream, and asks when it will have been acknowledged.
fn send(node: &mut Node, now: Instant, s: &mut State) {
    if !s.stage.is_empty() {
        let next = node.spent().unwrap_or_default();
        let chunk = core::mem::replace(&mut s.stage, next);
        s.stage.clear();
        node.handle(now, Input::Command(Command::Send { peer: s.peer, stream: s.stream, chunk }));
    }
    if s.asked < s.next && s.flushes.len() < MAX_FLUSHES {
        s.asked = s.next;
        s.flushes.push_back(s.next);
        let id = OWN_ID | u64::from(s.handle.slot());
        node.handle(now, Input::Command(Command::Flush { id, peer: s.peer, stream: s.stream }));
    }
}

/// Effects of the plane, over the node.
struct Fx<'a> {
    node: &'a mut Node,
    lanes: &'a mut Lanes,
    now: Instant,
    room: &'a mut Vec<u8>,
    reserved: Option<(Lane, usize)>,
    staged: &'a mut Vec<u32>,
    stores: &'a mut VecDeque<(Ticket, StoreOp)>,
    jobs: &'a mut VecDeque<(Ticket, lane::Job)>,
    committed: &'a mut u64,
}

impl Effects for Fx<'_> {
    fn entity(&self, peer: Peer) -> Option<EntityId> {
        self.node.entity(peer)
    }

    fn open(&mut self, peer: Peer, spec: &LaneSpec<'_>) -> Option<Lane> {
        let fits = spec.head.len() <= MAX_HEAD && (1..64).contains(&spec.kind);
        if !fits || self.lanes.count() >= MAX_LANES {
            return None;
        }
        let streams = &mut self.node.session_mut(peer)?.streams;
        let stream = streams.open(&label(spec.kind, spec.head), spec.mode, spec.priority).ok()?;
        let (limit, max) = (streams.write_limit(stream), streams.max_message());
        self.node.note_use(peer.slot());
        self.node.touched(self.now, peer.slot());
        Some(self.lanes.add(peer, stream, spec.kind, spec.mode, limit, max))
    }

    fn largest(&self, lane: Lane) -> Option<usize> {
        Some(usize::try_from(self.lanes.look(lane)?.max_message).unwrap_or(usize::MAX))
    }

    fn reserve(&mut self, lane: Lane, len: usize) -> Option<&mut [u8]> {
        self.reserved = None;
        let s = self.lanes.get(lane)?;
        if s.stopped.is_some() || len as u64 > s.max_message {
            return None;
        }
        // A message above the whole buffer goes alone.
        let idle = s.limit.saturating_sub(s.queued) >= s.buffer;
        if s.queued + charge(len) > s.limit && !idle {
            s.wants = true;
            return None;
        }
        self.reserved = Some((lane, len));
        self.room.clear();
        self.room.resize(len, 0);
        Some(self.room)
    }

    fn commit(&mut self, lane: Lane, used: usize) -> u64 {
        let reserved = self.reserved.take().filter(|(l, _)| *l == lane);
        let (Some(_), Some(s)) = (reserved, self.lanes.get(lane)) else { return 0 };
        let message = self.room.get(..used).unwrap_or(self.room);
        if s.stage.is_empty() {
            self.staged.push(lane.slot());
        }
        frame_message(&mut s.stage, message);
        s.queued += charge(message.len());
        s.next += 1;
        *self.committed += 1;
        s.next - 1
    }

    fn close(&mut self, lane: Lane, why: u16) {
        let Some(s) = self.lanes.get(lane) else { return };
        s.hidden = true;
        send(self.node, self.now, s);
        // FIN ends what was committed; the STOP says why, and that nothing is read any more.
        let (peer, stream) = (s.peer, s.stream);
        self.node.handle(self.now, Input::Command(Command::Finish { peer, stream }));
        self.node.handle(self.now, Input::Command(Command::Stop { peer, stream, code: why }));
    }

    fn store(&mut self, ticket: Ticket, op: StoreOp) {
        self.stores.push_back((ticket, op));
    }

    fn job(&mut self, ticket: Ticket, job: lane::Job) {
        self.jobs.push_back((ticket, job));
    }
}

/// A node and the plane that speaks on its lanes. To a driver it looks like the [`Node`].
pub struct Host<P: Plane> {
    node: Node,
    plane: P,
    lanes: Lanes,
    up: BTreeSet<Peer>,
    /// Something happened to the plane since it was last drained.
    dirty: bool,
    events: VecDeque<Event>,
    staged: Vec<u32>,
    room: Vec<u8>,
    spare: Vec<u8>,
    stores: VecDeque<(Ticket, StoreOp)>,
    jobs: VecDeque<(Ticket, lane::Job)>,
    /// Lanes of peers that no plane took.
    refused: u64,
    /// Messages that the plane committed, ever.
    committed: u64,
    now: Instant,
}

impl<P: Plane> Host<P> {
    /// A node nobody is connected to yet, and its plane.
    pub fn new(node: Node, plane: P) -> Self {
        let now = node.now;
        Self {
            node,
            plane,
            lanes: Lanes::default(),
            up: BTreeSet::new(),
            dirty: true,
            events: VecDeque::new(),
            staged: Vec::new(),
            room: Vec::new(),
            spare: Vec::new(),
            stores: VecDeque::new(),
            jobs: VecDeque::new(),
            refused: 0,
            committed: 0,
            now,
        }
    }

    /// The time of the last input.
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// The node, for its figures.
    pub const fn node(&self) -> &Node {
        &self.node
    }

    /// The plane, for its figures.
    pub const fn plane(&self) -> &P {
        &self.plane
    }

    /// See [`Node::handle`]. An application cannot name a lane: an open with a reserved label or a
    /// number of the host's is refused, and for everything else a lane is a stream that is not there.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        let now = self.clock(now);
        match input {
            Input::Command(command) => {
                if let Some(command) = self.screen(command) {
                    self.node.handle(now, Input::Command(command));
                }
            }
            Input::Wall(wall) => {
                self.node.handle(now, Input::Wall(wall));
                self.give(In::Wall(wall));
            }
            Input::Job(ticket, JobDone::Plane(done)) => self.give(In::Job(ticket, done)),
            Input::Timeout => {
                self.node.handle(now, Input::Timeout);
                if self.plane.poll_timeout().is_some_and(|(at, _)| at <= now) {
                    self.plane.handle_timeout(now);
                    self.dirty = true;
                }
            }
            other => self.node.handle(now, other),
        }
        self.turn();
    }

    /// The application asks the plane. Several commands and then one [`Self::drain`] share datagrams.
    pub fn command(&mut self, now: Instant, command: P::Cmd) {
        let now = self.clock(now);
        self.plane.command(now, command);
        self.dirty = true;
    }

    /// Has the plane act on its commands.
    pub fn drain(&mut self, now: Instant) {
        self.clock(now);
        self.turn();
    }

    /// See [`Plane::takes`].
    pub fn takes(&self, port: usize) -> bool {
        self.plane.takes(port)
    }

    /// An operation of [`Self::poll_store`] is done.
    pub fn handle_stored(&mut self, now: Instant, ticket: Ticket, result: StoreResult) {
        self.clock(now);
        self.give(In::Stored(ticket, result));
        self.turn();
    }

    /// See [`Node::poll_transmit`].
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut [u8]) -> Option<Transmit> {
        let now = self.clock(now);
        let sent = self.node.poll_transmit(now, buf);
        // What left may have made room on a lane, and so something more to send.
        let more = self.turn();
        match sent {
            None if more => self.node.poll_transmit(now, buf),
            sent => sent,
        }
    }

    /// The next event for the application. Lanes are not in it.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next event of the plane.
    pub fn poll_plane_event(&mut self) -> Option<P::Event> {
        self.plane.poll_event()
    }

    /// The next computation of the node or the plane; its result comes back as [`Input::Job`].
    pub fn poll_job(&mut self) -> Option<(Ticket, Job)> {
        // The node's first: a handshake waits for it.
        let plane = |(ticket, job)| (ticket, Job::Plane(job));
        self.node.poll_job().or_else(|| self.jobs.pop_front().map(plane))
    }

    /// The plane's next storage operation; its result goes to [`Self::handle_stored`].
    pub fn poll_store(&mut self) -> Option<(Ticket, StoreOp)> {
        self.stores.pop_front()
    }

    /// When to call [`Self::handle`] with [`Input::Timeout`], and why. The time of the last input while
    /// there is output that can leave now, of the node, the plane, or for the application.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let waiting = !self.events.is_empty() || !self.stores.is_empty() || !self.jobs.is_empty();
        if self.dirty || waiting {
            return Some((self.now, Reason::Output));
        }
        earlier(self.node.poll_timeout(), self.plane.poll_timeout())
    }

    /// See [`Node::take`]. `None` for lanes: the plane reads those.
    pub fn take(&mut self, peer: Peer, stream: StreamId, spare: &mut Vec<u8>) -> Option<Taken> {
        if self.lanes.by_stream.contains_key(&(peer, stream)) {
            return None;
        }
        let taken = self.node.take(peer, stream, spare);
        self.turn();
        taken
    }

    /// See [`Node::spent`].
    pub fn spent(&mut self) -> Option<Vec<u8>> {
        self.node.spent()
    }

    /// Most bytes that node and plane may hold for their present peers. What lanes have committed is
    /// handed to their streams within the same call, and counts there.
    pub fn ceiling(&self) -> u64 {
        let table = self.lanes.slots.len() * (size_of::<(u32, Option<State>)>() + 128);
        self.node.ceiling().saturating_add(self.plane.ceiling()).saturating_add(table as u64)
    }

    /// Counters of the node, and of the lanes on it.
    pub fn stats(&self) -> NodeStats {
        NodeStats { lanes_refused: self.refused, ..self.node.stats() }
    }

    /// Messages that the plane committed to lanes, ever. They are part of [`Node::ledger`].
    pub const fn committed(&self) -> u64 {
        self.committed
    }

    /// Notes what lanes have committed by now; [`Self::lanes_pending`] tells when it is acknowledged.
    pub fn mark_lanes(&mut self) {
        self.lanes.slots.iter_mut().filter_map(|(_, s)| s.as_mut()).for_each(|s| s.goal = s.next);
    }

    /// Whether something that was committed before [`Self::mark_lanes`] may still be acknowledged.
    pub fn lanes_pending(&self) -> bool {
        let mut live = self.lanes.slots.iter().filter_map(|(_, s)| s.as_ref());
        live.any(|s| s.acked < s.goal && s.stopped.is_none())
    }

    /// A clock that steps back is the driver's bug; the host stays where it was.
    fn clock(&mut self, now: Instant) -> Instant {
        self.now = self.now.max(now);
        self.now
    }

    fn give(&mut self, input: In<'_>) {
        self.plane.handle(self.now, input);
        self.dirty = true;
    }

    /// An application's command as the node may see it.
    fn screen(&mut self, mut command: Command) -> Option<Command> {
        match &mut command {
            Command::Open { id, .. } | Command::Flush { id, .. } if *id & OWN_ID != 0 => {
                let (id, error) = (*id, StreamError::Reserved);
                self.events.push_back(Event::StreamRefused { id, error });
                return None;
            }
            Command::Send { peer, stream, .. }
            | Command::Flush { peer, stream, .. }
            | Command::Finish { peer, stream }
            | Command::Reset { peer, stream, .. }
            | Command::Stop { peer, stream, .. }
            | Command::Consumed { peer, stream, .. }
                if self.lanes.by_stream.contains_key(&(*peer, *stream)) =>
            {
                *stream = NOWHERE;
            }
            _ => {}
        }
        Some(command)
    }

    /// Sorts the node's events and drains the plane if something happened to it. Whether it was drained.
    fn turn(&mut self) -> bool {
        let mut drained = false;
        for _ in 0..ROUNDS {
            while let Some(event) = self.node.poll_event() {
                self.route(event);
            }
            if !core::mem::take(&mut self.dirty) {
                break;
            }
            drained = true;
            let mut fx = Fx {
                node: &mut self.node,
                lanes: &mut self.lanes,
                now: self.now,
                room: &mut self.room,
                reserved: None,
                staged: &mut self.staged,
                stores: &mut self.stores,
                jobs: &mut self.jobs,
                committed: &mut self.committed,
            };
            self.plane.drain(&mut fx);
            for slot in self.staged.drain(..) {
                if let Some(s) = self.lanes.at(slot) {
                    send(&mut self.node, self.now, s);
                }
            }
        }
        // Also after the last round: the node's events are ours to sort, never the driver's.
        while let Some(event) = self.node.poll_event() {
            self.route(event);
        }
        drained
    }

    /// Gives an event to the plane if it is about a lane, to the application otherwise.
    fn route(&mut self, event: Event) {
        let own = |id: &u64| *id & OWN_ID != 0;
        match event {
            Event::Connected { peer, .. } => {
                // A dial of a living association is answered by a second event.
                if self.up.insert(peer) {
                    self.give(In::Up(peer));
                }
                self.events.push_back(event);
            }
            Event::Disconnected { peer, reason, .. } => {
                self.down(peer, reason);
                self.events.push_back(event);
            }
            Event::StreamOpened { peer, stream, ref label, mode, limit, max_message }
                if label.starts_with(RESERVED) =>
            {
                self.opened(peer, stream, label, mode, limit, max_message);
            }
            Event::Flushed { id } if own(&id) => self.flushed(id as u32),
            // A question about a lane that is over.
            Event::StreamRefused { id, .. } if own(&id) => {}
            Event::Readable { peer, stream } if self.lanes.of(peer, stream).is_some() => {
                self.read(peer, stream);
            }
            Event::Writable { peer, stream, limit } => match self.lanes.of(peer, stream) {
                None => self.events.push_back(event),
                Some(s) => {
                    s.limit = s.limit.max(limit);
                    if core::mem::take(&mut s.wants) && !s.hidden {
                        let lane = s.handle;
                        self.give(In::Writable(lane));
                    }
                }
            },
            // Lanes hold nothing back.
            Event::Wanting { peer, stream } if self.lanes.of(peer, stream).is_some() => {}
            Event::Finished { peer, stream } if self.lanes.of(peer, stream).is_some() => {
                self.read(peer, stream);
                self.ended(peer, stream, |s| s.sent = Some(Sent::All));
            }
            Event::ResetByPeer { peer, stream, code } if self.lanes.of(peer, stream).is_some() => {
                self.ended(peer, stream, |s| s.sent = Some(Sent::Reset(code)));
            }
            Event::StoppedByPeer { peer, stream, code } if self.lanes.of(peer, stream).is_some() => {
                self.ended(peer, stream, |s| s.stopped = Some(code));
            }
            Event::StreamClosed { peer, stream, .. } if self.lanes.of(peer, stream).is_some() => {
                self.ended(peer, stream, |s| {
                    s.stopped = s.stopped.or(Some(0));
                    s.sent = s.sent.or(Some(Sent::All));
                });
                self.lanes.remove(peer, stream);
            }
            other => self.events.push_back(other),
        }
    }

    fn down(&mut self, peer: Peer, reason: DownReason) {
        let range = (peer, StreamId(0))..=(peer, StreamId(u64::MAX));
        while let Some((_, stream)) = self.lanes.by_stream.range(range.clone()).next().map(|(key, _)| *key) {
            self.lanes.remove(peer, stream);
        }
        if self.up.remove(&peer) {
            let why = match reason {
                DownReason::ClosedHere(_) | DownReason::ClosedByPeer(_) | DownReason::Shutdown => {
                    Gone::Closed
                }
                DownReason::Unreachable => Gone::Unreachable,
                DownReason::Restarted => Gone::Restarted,
                DownReason::Violation(_) => Gone::Violation,
            };
            self.give(In::Down(peer, why));
        }
    }

    fn opened(&mut self, peer: Peer, stream: StreamId, label: &str, mode: Mode, limit: u64, max: u64) {
        let full = self.lanes.count() >= MAX_LANES;
        let parsed = parse_label(label);
        let kind = parsed.as_ref().map_or(0, |(kind, _)| *kind);
        let lane = self.lanes.add(peer, stream, kind, mode, limit, max);
        let admitted = parsed.and_then(|(kind, head)| {
            if full {
                return Err(Refusal::Full);
            }
            self.plane.admit(kind).map(|()| head)
        });
        let refusal = match admitted {
            Ok(head) => return self.give(In::Opened(peer, lane, &head)),
            Err(refusal) => refusal,
        };
        self.refused += 1;
        let (why, number) = match refusal {
            Refusal::UnknownKind(kind) => (refusal::UNKNOWN_KIND, u16::from(kind)),
            Refusal::Full => (refusal::FULL, 0),
            Refusal::Plane(number) => (refusal::PLANE, number),
        };
        // It stays in the table, hidden, until the stream is over: the application hears nothing of it.
        if let Some(s) = self.lanes.get(lane) {
            s.hidden = true;
        }
        self.node.handle(self.now, Input::Command(Command::Reset { peer, stream, code: why }));
        self.node.handle(self.now, Input::Command(Command::Stop { peer, stream, code: number }));
    }

    fn read(&mut self, peer: Peer, stream: StreamId) {
        let Some(s) = self.lanes.of(peer, stream) else { return };
        let (lane, hidden) = (s.handle, s.hidden);
        let Some(taken) = self.node.take(peer, stream, &mut self.spare) else { return };
        let mut total = 0;
        for (number, message) in Messages::received(&taken.chunk, taken.mode, taken.first) {
            total += charge(message.len());
            if !hidden {
                self.give(In::Msg(peer, lane, number, message));
            }
        }
        self.spare = taken.chunk;
        self.spare.clear();
        let consumed = Command::Consumed { peer, stream, charge: total };
        self.node.handle(self.now, Input::Command(consumed));
    }

    fn flushed(&mut self, slot: u32) {
        // The slot is the stream's still: a stream's answers come before its end.
        let Some(s) = self.lanes.at(slot) else { return };
        let Some(next) = s.flushes.pop_front() else { return };
        let (lane, mode) = (s.handle, s.mode);
        let first = core::mem::replace(&mut s.acked, next);
        send(&mut self.node, self.now, s);
        let first = if mode == Mode::Reliable { next.saturating_sub(1) } else { first };
        for number in first..next {
            self.give(In::Acked(lane, number));
        }
    }

    /// Notes how the peer ended a direction; with both known, the plane is told once.
    fn ended(&mut self, peer: Peer, stream: StreamId, note: impl FnOnce(&mut State)) {
        let Some(s) = self.lanes.of(peer, stream) else { return };
        note(s);
        let (Some(number), Some(sent)) = (s.stopped, s.sent) else { return };
        let lane = s.handle;
        if core::mem::replace(&mut s.hidden, true) {
            return;
        }
        let why = match sent {
            Sent::All => Ended::ByPeer(number),
            Sent::Reset(refusal::UNKNOWN_KIND) => Ended::Refused(Refusal::UnknownKind(lane.kind())),
            Sent::Reset(refusal::FULL) => Ended::Refused(Refusal::Full),
            Sent::Reset(_) => Ended::Refused(Refusal::Plane(number)),
        };
        self.give(In::Closed(lane, why));
    }
}
