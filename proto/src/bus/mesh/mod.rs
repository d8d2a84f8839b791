//! Events over the mesh: a node keeps the events of a name, other nodes write and read them.
//! `docs/protocol/bus-mesh.md` has frames and states.
//!
//! ```text
//! writer:  Link ─▶ Append* ─▶ (Acked | Broken)*        reader:  Read ─▶ Page, Refused
//! keeper:  Host ─▶ per lane: Append ─▶ store ─▶ Appended;  Read ─▶ Part* ─▶ Done, as the lane has room
//! ```
//!
//! A node may do all of it at once, and use what it keeps itself without a lane.

mod client;
mod serving;
mod store;
mod wire;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::id::{Position, Shard};
use crate::codec::{Wire, Writer};
use crate::identity::EntityId;
use crate::lane::{Effects, Ended, In, Lane, LaneSpec, MAX_HEAD, Plane, Refusal};
use crate::session::Peer;
use crate::stream::Mode;
use crate::time::{Instant, Reason};

use client::{Client, Route};
use serving::Serving;
pub use store::{Access, Limits, MAX_LIVES, MAX_WRITERS};
#[doc(hidden)]
pub use wire::samples as frame_samples;
pub use wire::{Frame, From, MAX_RUN, Run, RunBuilder, RunEvent, RunEvents, Why};

/// The plane's number on the wire. Compositions give it the same.
pub const KIND: u8 = 1;
/// Longest name of kept events, in bytes of UTF-8.
pub const MAX_NAME: usize = 64;
/// Bytes of entries in one frame, unless a single event is longer.
pub const PART: usize = 48 << 10;
/// Bytes of events that wait to be sent before commands wait in their port.
pub const MAX_QUEUED: usize = 4 << 20;
/// What a part of an answer costs beside its entries, of the bytes that a reader asks for.
pub const EACH: usize = 64;
/// First byte of a lane's head.
const VERSION: u8 = 1;

/// What a lane is for. Writing and reading do not wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Write = 1,
    Read = 2,
}

/// How frames travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// Between the halves of this node.
    Local(u32),
    Lane(Lane),
}

/// How a node keeps the events of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosting {
    /// How much.
    pub limits: Limits,
    /// Who may write.
    pub writers: Access,
    /// Who may read.
    pub readers: Access,
}

/// What applications ask of the plane. `call` and `link` are numbers under which answers come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Keep events under a name. Answered by [`Event::Hosted`].
    Host {
        /// The caller's number.
        call: u64,
        /// 1 to [`MAX_NAME`] bytes.
        name: String,
        /// How.
        hosting: Hosting,
    },
    /// Forget the events of a name.
    Unhost {
        /// Which.
        name: String,
    },
    /// What is kept under a name. Answered by [`Event::Counts`].
    Count {
        /// The caller's number.
        call: u64,
        /// Which.
        name: String,
    },
    /// Write to events that `to` keeps. Then [`Event::Acked`], at last perhaps [`Event::Broken`].
    Link {
        /// The writer's number.
        link: u64,
        /// Who keeps them; this node itself is fine.
        to: EntityId,
        /// Their name.
        name: String,
    },
    /// Send a run on a link, behind all earlier ones.
    Append {
        /// The link.
        link: u64,
        /// The shard.
        shard: Shard,
        /// Number of the first event, by which the link's acknowledgements count.
        first: u64,
        /// The events.
        run: Run,
    },
    /// Forget a link.
    Unlink {
        /// Which.
        link: u64,
    },
    /// Read events. Answered by [`Event::Page`] or [`Event::Refused`].
    Read {
        /// The caller's number.
        call: u64,
        /// Who keeps them.
        to: EntityId,
        /// Their name.
        name: String,
        /// Most events of a shard.
        events: u32,
        /// Most bytes, all shards together; the event that passes it is the last.
        bytes: u32,
        /// Whether to wait until there are any.
        wait: bool,
        /// Where the reader stands, by ascending shard.
        from: Vec<From>,
    },
    /// Where shards end. Answered by [`Event::Ends`] or [`Event::Refused`].
    Ask {
        /// The caller's number.
        call: u64,
        /// Who keeps them.
        to: EntityId,
        /// Their name.
        name: String,
        /// For a writer, who may not be allowed to read.
        write: bool,
    },
    /// The caller waits no more.
    Cancel {
        /// Its number.
        call: u64,
    },
    /// Close lanes to events that nobody here uses any more.
    Leave {
        /// Who keeps them.
        to: EntityId,
        /// Their name.
        name: String,
    },
}

/// What the plane tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Event {
    /// Events are kept from now on, or why not.
    Hosted {
        /// The call.
        call: u64,
        /// Why not.
        refused: Option<Why>,
    },
    /// What is kept: events, bytes, and events that came twice. `None`: nothing of that name.
    Counts {
        /// The call.
        call: u64,
        /// Those three.
        counts: Option<(u64, u64, u64)>,
    },
    /// Everything that was appended up to this number is kept.
    Acked {
        /// The link.
        link: u64,
        /// Number of the last event.
        upto: u64,
    },
    /// The link is over. What was not acknowledged may be kept or not.
    Broken {
        /// The link.
        link: u64,
        /// Why.
        why: Why,
    },
    /// Events, in order within each shard.
    Page {
        /// The call.
        call: u64,
        /// By shard.
        parts: Vec<Part>,
    },
    /// Ends of shards.
    Ends {
        /// The call.
        call: u64,
        /// Position of the newest event of each shard that has, or had, any.
        ends: Vec<(Shard, Position)>,
    },
    /// No answer.
    Refused {
        /// The call.
        call: u64,
        /// Why.
        why: Why,
    },
}

/// Events of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// The shard.
    pub shard: Shard,
    /// Events that are gone, before `runs`: after the first position, up to the second.
    pub lost: Option<(Position, Position)>,
    /// More are there already.
    pub more: bool,
    /// Runs with the position of their first event.
    pub runs: Vec<(Position, Run)>,
}

/// The plane. Starts empty: it keeps and uses nothing until commands say so.
#[derive(Debug)]
pub struct BusPlane {
    me: EntityId,
    serving: Serving,
    client: Client,
    peers: BTreeMap<EntityId, Peer>,
    /// Peers whose name was not looked up yet.
    unknown: Vec<Peer>,
    /// Lanes that are to be closed.
    closing: BTreeMap<Lane, Why>,
    /// Lanes without room.
    blocked: BTreeSet<Lane>,
    locals: u32,
    now: Instant,
}

impl BusPlane {
    /// Of the node `me` in its life `epoch`, which rises with every start: the major part of positions rises with it.
    pub fn new(me: EntityId, epoch: u64) -> Self {
        Self {
            me,
            serving: Serving::new(epoch),
            client: Client::default(),
            peers: BTreeMap::new(),
            unknown: Vec::new(),
            closing: BTreeMap::new(),
            blocked: BTreeSet::new(),
            locals: 0,
            now: Instant::ZERO,
        }
    }

    fn route(&self, to: EntityId, role: Role, name: String) -> Result<Route, Why> {
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(Why::Limit);
        }
        let here = to == self.me || self.peers.contains_key(&to);
        if here { Ok((to, role, name)) } else { Err(Why::NotConnected) }
    }

    fn call(&mut self, call: u64, route: Result<Route, Why>, frame: Frame) {
        match route {
            Ok(route) => self.client.call(call, route, frame),
            Err(why) => self.client.events.push_back(Event::Refused { call, why }),
        }
    }

    /// Opens the way of a route. `None`: there is no room for a lane, or the node is gone.
    fn open(&mut self, fx: &mut dyn Effects, route: &Route) -> Option<Way> {
        let (to, role, name) = route;
        let mut peer_of_way = None;
        let way = if *to == self.me {
            self.locals = self.locals.wrapping_add(1);
            let way = Way::Local(self.locals);
            self.serving.opened_here(way, self.me, *role, name);
            way
        } else {
            let mut head = [0; MAX_HEAD];
            head[..2].copy_from_slice(&[VERSION, *role as u8]);
            let end = 2 + name.len();
            head[2..end].copy_from_slice(name.as_bytes());
            // Reads are answered as they can be; a lane keeps them apart by number, not by order.
            let spec = LaneSpec { kind: KIND, mode: Mode::Reliable, priority: 16, head: &head[..end] };
            let peer = *self.peers.get(to)?;
            peer_of_way = Some(peer);
            Way::Lane(fx.open(peer, &spec)?)
        };
        self.client.opened(route, way, peer_of_way);
        Some(way)
    }

    /// Sends what routes have.
    fn send(&mut self, fx: &mut dyn Effects) {
        for route in self.client.busy() {
            let Some(way) = self.client.way(&route).or_else(|| self.open(fx, &route)) else {
                self.client.end(&route, Why::Full);
                continue;
            };
            while let Some(frame) = self.client.peek(&route) {
                match way {
                    Way::Lane(lane) if fx.largest(lane).is_some_and(|most| frame.size() > most) => {
                        self.client.end(&route, Why::Limit);
                        self.closing.insert(lane, Why::Limit);
                        break;
                    }
                    Way::Lane(lane) if !put(fx, &mut self.blocked, lane, frame) => break,
                    Way::Lane(_) => _ = self.client.pop(&route),
                    Way::Local(_) => {
                        let frame = self.client.pop(&route);
                        self.serving.received(way, frame);
                    }
                }
            }
        }
    }

    /// Gives what is asked of this node.
    fn serve(&mut self, fx: &mut dyn Effects) {
        for way in self.serving.busy() {
            self.serving.resolve(way, |peer| fx.entity(peer));
            while let Some(frame) = self.serving.poll(way) {
                match way {
                    Way::Lane(lane) => {
                        if fx.largest(lane).is_some_and(|most| frame.size() > most) {
                            self.serving.closed(way);
                            self.closing.insert(lane, Why::Limit);
                            break;
                        }
                        if !put(fx, &mut self.blocked, lane, &frame) {
                            self.serving.unpoll(way, frame);
                            break;
                        }
                    }
                    Way::Local(_) => {
                        self.client.received(way, Some(frame));
                    }
                }
            }
            if let Some(why) = self.serving.poll_close(way) {
                match way {
                    Way::Lane(lane) => _ = self.closing.insert(lane, why),
                    Way::Local(_) => self.client.closed(way, why),
                }
            }
        }
    }
}

/// Sends a frame; false if there is no room now.
fn put(fx: &mut dyn Effects, blocked: &mut BTreeSet<Lane>, lane: Lane, frame: &Frame) -> bool {
    let size = frame.size();
    let Some(room) = fx.reserve(lane, size) else {
        blocked.insert(lane);
        return false;
    };
    let mut w = Writer::new(room);
    let fits = frame.encode(&mut w).is_ok() && w.used() == size;
    debug_assert!(fits, "a frame knows its size");
    fx.commit(lane, size);
    blocked.remove(&lane);
    true
}

impl Plane for BusPlane {
    type Cmd = Command;
    type Event = Event;

    fn handle(&mut self, now: Instant, input: In<'_>) {
        self.now = now;
        match input {
            In::Up(peer) => self.unknown.push(peer),
            In::Down(peer, _) => {
                self.unknown.retain(|other| *other != peer);
                self.serving.down(peer);
                let entity = self.peers.iter().find(|(_, p)| **p == peer).map(|(id, _)| *id);
                entity.map(|entity| self.peers.remove(&entity));
                self.client.down(peer, entity.as_ref());
            }
            In::Opened(peer, lane, head) => {
                let way = Way::Lane(lane);
                let role = match head.get(..2) {
                    Some([VERSION, 1]) => Some(Role::Write),
                    Some([VERSION, 2]) => Some(Role::Read),
                    _ => None,
                };
                let name = head.get(2..).and_then(|name| core::str::from_utf8(name).ok());
                match (role, name) {
                    (Some(role), Some(name)) => self.serving.opened(way, peer, role, name),
                    _ => self.serving.opened_badly(way, peer),
                }
            }
            In::Msg(_, lane, _, data) => {
                let (way, frame) = (Way::Lane(lane), Frame::decode_exact(data).ok());
                if self.serving.has(way) {
                    self.serving.received(way, frame);
                } else if self.client.has(way) && !self.client.received(way, frame) {
                    self.client.closed(way, Why::Violation);
                    self.closing.insert(lane, Why::Violation);
                }
            }
            In::Writable(lane) => {
                self.blocked.remove(&lane);
                self.serving.writable(Way::Lane(lane));
                self.client.writable(Way::Lane(lane));
            }
            In::Closed(lane, ended) => {
                let why = match ended {
                    Ended::ByPeer(code) => Why::from_code(code),
                    Ended::Refused(Refusal::Full) => Why::Full,
                    Ended::Refused(_) => Why::NoPlane,
                };
                self.blocked.remove(&lane);
                self.serving.closed(Way::Lane(lane));
                self.client.closed(Way::Lane(lane), why);
            }
            In::Acked(..) | In::Stored(..) | In::Job(..) | In::Wall(_) => {}
        }
    }

    fn command(&mut self, now: Instant, command: Command) {
        self.now = now;
        match command {
            Command::Host { call, name, hosting } => {
                let fits = !name.is_empty() && name.len() <= MAX_NAME;
                let done = if fits { self.serving.host(name, hosting) } else { Err(Why::Limit) };
                self.client.events.push_back(Event::Hosted { call, refused: done.err() });
            }
            Command::Unhost { name } => self.serving.unhost(&name),
            Command::Count { call, name } => {
                let counts = self.serving.counts(&name);
                self.client.events.push_back(Event::Counts { call, counts });
            }
            Command::Link { link, to, name } => match self.route(to, Role::Write, name) {
                Ok(route) => self.client.link(link, route),
                Err(why) => self.client.events.push_back(Event::Broken { link, why }),
            },
            Command::Append { link, shard, first, run } => {
                self.client.append(Frame::Append { link, shard, first, run });
            }
            Command::Unlink { link } => self.client.unlink(link),
            Command::Read { call, to, name, events, bytes, wait, from } => {
                let route = self.route(to, Role::Read, name);
                self.call(call, route, Frame::Read { call, events, bytes, wait, from });
            }
            Command::Ask { call, to, name, write } => {
                let route = self.route(to, if write { Role::Write } else { Role::Read }, name);
                self.call(call, route, Frame::Ask { call });
            }
            Command::Cancel { call } => self.client.cancel(call),
            Command::Leave { to, name } => {
                for way in self.client.unused(&to, &name) {
                    match way {
                        Way::Lane(lane) => _ = self.closing.insert(lane, Why::NoTopic),
                        Way::Local(_) => self.serving.closed(way),
                    }
                }
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
    }

    fn drain(&mut self, fx: &mut dyn Effects) {
        for peer in core::mem::take(&mut self.unknown) {
            if let Some(entity) = fx.entity(peer) {
                self.peers.insert(entity, peer);
            }
        }
        self.send(fx);
        self.serve(fx);
        for (lane, why) in core::mem::take(&mut self.closing) {
            self.blocked.remove(&lane);
            fx.close(lane, why.code());
        }
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.client.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        // Lanes without room are told when they have some.
        let lane_free = |way: Way| !matches!(way, Way::Lane(lane) if self.blocked.contains(&lane));
        let out = self.client.any_busy(lane_free)
            || self.serving.any_busy(lane_free)
            || !self.unknown.is_empty()
            || !self.closing.is_empty();
        (out || !self.client.events.is_empty()).then_some((self.now, Reason::Output))
    }

    fn ceiling(&self) -> u64 {
        size_of::<Self>() as u64 + self.serving.ceiling() + self.client.ceiling()
    }

    fn admit(&self, kind: u8) -> Result<(), Refusal> {
        if kind == KIND { Ok(()) } else { Err(Refusal::UnknownKind(kind)) }
    }

    fn weight(command: &Command) -> usize {
        match command {
            Command::Append { run, .. } => run.bytes(),
            Command::Read { from, name, .. } => from.len() * size_of::<From>() + name.len(),
            _ => 0,
        }
    }

    fn takes(&self, _: usize) -> bool {
        self.client.queued() < MAX_QUEUED
    }

    fn addressee(event: &Event) -> Option<u64> {
        Some(match event {
            Event::Hosted { call, .. }
            | Event::Counts { call, .. }
            | Event::Page { call, .. }
            | Event::Ends { call, .. }
            | Event::Refused { call, .. } => *call,
            Event::Acked { link, .. } | Event::Broken { link, .. } => *link,
        })
    }
}
