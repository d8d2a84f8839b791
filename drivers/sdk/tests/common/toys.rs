//! Two small planes, for tests on every runtime and in the simulator: one speaks in lanes, one stores.
#![allow(dead_code)] // each test uses its part

use std::collections::{BTreeMap, VecDeque};

use net_proto::identity::{EntityId, Identity};
use net_proto::lane::{Effects, Ended, In, Job, JobDone, Lane, LaneSpec, Plane, Refusal, Verdict, Verify};
use net_proto::session::Peer;
use net_proto::storage::{StoreError, StoreOp, Stored, Ticket};
use net_proto::stream::Mode;
use net_proto::time::{Instant, Reason};
use net_sdk::PlaneStart;
use serde::{Deserialize, Serialize};

net_proto::planes! {
    /// Both.
    pub struct Toys, commands ToyCommand, events ToyEvent;
    1 ping: Ping,
    2 notes: Notes,
}

pub fn toys(start: PlaneStart) -> Toys {
    Toys::new(Ping::default(), Notes { me: Some(start.identity), ..Notes::default() })
}

/// Pings under way that the plane takes; more wait in its port.
const MAX_PINGS: usize = 16;

#[derive(Debug, Serialize, Deserialize)]
pub enum PingCommand {
    /// Have a peer add one to a number.
    Ping { call: u64, to: EntityId, n: u64 },
    /// Hear of pings that are served here.
    Watch { feed: u64 },
    /// Never answered.
    Ignore { call: u64 },
}

#[derive(Debug, PartialEq, Serialize)]
pub enum PingEvent {
    Pong { call: u64, n: u64 },
    Gone { call: u64 },
    Served { feed: Option<u64>, n: u64 },
}

#[derive(Debug, Default)]
pub struct Ping {
    up: Vec<Peer>,
    lanes: BTreeMap<Peer, Lane>,
    asked: VecDeque<(u64, EntityId, u64)>,
    /// By call: whom it was sent to.
    waiting: BTreeMap<u64, Peer>,
    answers: VecDeque<(Lane, u64, u64)>,
    feed: Option<u64>,
    events: VecDeque<PingEvent>,
    blocked: bool,
    now: Option<Instant>,
}

impl Ping {
    fn forget(&mut self, peer: Peer) {
        self.lanes.remove(&peer);
        let gone: Vec<u64> =
            self.waiting.iter().filter(|(_, p)| **p == peer).map(|(call, _)| *call).collect();
        for call in gone {
            self.waiting.remove(&call);
            self.events.push_back(PingEvent::Gone { call });
        }
    }
}

impl Plane for Ping {
    type Cmd = PingCommand;
    type Event = PingEvent;

    fn handle(&mut self, now: Instant, input: In<'_>) {
        self.now = Some(now);
        match input {
            In::Up(peer) => self.up.push(peer),
            In::Down(peer, _) => {
                self.up.retain(|p| *p != peer);
                self.forget(peer);
                self.blocked = false;
            }
            In::Msg(peer, lane, _, data) if data.len() == 16 => {
                let (call, n) = data.split_at(8);
                let [call, n] = [call, n].map(|b| u64::from_le_bytes(b.try_into().unwrap_or_default()));
                if self.lanes.get(&peer) == Some(&lane) {
                    self.waiting.remove(&call);
                    self.events.push_back(PingEvent::Pong { call, n });
                } else {
                    self.events.push_back(PingEvent::Served { feed: self.feed, n });
                    self.answers.push_back((lane, call, n + 1));
                }
            }
            In::Closed(lane, Ended::Refused(_)) => {
                let peer = self.lanes.iter().find(|(_, l)| **l == lane).map(|(peer, _)| *peer);
                if let Some(peer) = peer {
                    self.forget(peer);
                }
            }
            In::Writable(_) => self.blocked = false,
            _ => {}
        }
    }

    fn command(&mut self, now: Instant, command: PingCommand) {
        self.now = Some(now);
        match command {
            PingCommand::Ping { call, to, n } => self.asked.push_back((call, to, n)),
            PingCommand::Watch { feed } => self.feed = Some(feed),
            PingCommand::Ignore { .. } => {}
        }
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn drain(&mut self, fx: &mut dyn Effects) {
        while let Some(&(call, to, n)) = self.asked.front() {
            let peer = self.up.iter().copied().find(|peer| fx.entity(*peer) == Some(to));
            let lane = peer.and_then(|peer| {
                let spec = LaneSpec { kind: 1, mode: Mode::Unordered, priority: 16, head: b"ping" };
                let open = self.lanes.get(&peer).copied().or_else(|| fx.open(peer, &spec))?;
                self.lanes.insert(peer, open);
                Some((peer, open))
            });
            let Some((peer, lane)) = lane else {
                self.asked.pop_front();
                self.events.push_back(PingEvent::Gone { call });
                continue;
            };
            let Some(room) = fx.reserve(lane, 16) else {
                self.blocked = true;
                return;
            };
            room[..8].copy_from_slice(&call.to_le_bytes());
            room[8..].copy_from_slice(&n.to_le_bytes());
            fx.commit(lane, 16);
            self.waiting.insert(call, peer);
            self.asked.pop_front();
        }
        while let Some(&(lane, call, n)) = self.answers.front() {
            let Some(room) = fx.reserve(lane, 16) else {
                self.blocked = true;
                return;
            };
            room[..8].copy_from_slice(&call.to_le_bytes());
            room[8..].copy_from_slice(&n.to_le_bytes());
            fx.commit(lane, 16);
            self.answers.pop_front();
        }
    }

    fn poll_event(&mut self) -> Option<PingEvent> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let out = !(self.blocked || self.asked.is_empty() && self.answers.is_empty());
        (out || !self.events.is_empty()).then_some((self.now.unwrap_or(Instant::ZERO), Reason::Output))
    }

    fn ceiling(&self) -> u64 {
        64 << 10
    }

    fn admit(&self, _: u8) -> Result<(), Refusal> {
        Ok(())
    }

    fn takes(&self, _: usize) -> bool {
        self.asked.len() + self.waiting.len() < MAX_PINGS
    }

    fn addressee(event: &PingEvent) -> Option<u64> {
        match event {
            PingEvent::Pong { call, .. } | PingEvent::Gone { call } => Some(*call),
            PingEvent::Served { feed, .. } => *feed,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub enum NotesCommand {
    /// Check that this node signed the line, then keep it durably.
    Add { call: u64, line: Vec<u8>, forged: bool },
    /// What is kept.
    Read { call: u64 },
    /// Tries to open a file.
    Open { call: u64, file: String },
}

#[derive(Debug, PartialEq, Serialize)]
pub enum NotesEvent {
    /// Durable.
    Added {
        call: u64,
    },
    Forged {
        call: u64,
    },
    Failed {
        call: u64,
        why: StoreError,
    },
    Text {
        call: u64,
        text: Vec<u8>,
    },
    Opened {
        call: u64,
    },
}

impl NotesEvent {
    fn call(&self) -> u64 {
        match self {
            Self::Added { call }
            | Self::Forged { call }
            | Self::Failed { call, .. }
            | Self::Text { call, .. }
            | Self::Opened { call } => *call,
        }
    }
}

#[derive(Debug)]
enum Doing {
    Opening,
    Checking(u64, Vec<u8>),
    Writing,
    Syncing(u64),
    Reading(u64),
    Trying(u64),
}

/// Keeps lines in a file. Nothing is said before it is durable.
#[derive(Default)]
pub struct Notes {
    me: Option<Identity>,
    len: u64,
    opened: bool,
    doing: BTreeMap<u64, Doing>,
    next: u64,
    stores: VecDeque<(u64, StoreOp)>,
    jobs: VecDeque<(u64, Job)>,
    held: VecDeque<NotesCommand>,
    events: VecDeque<NotesEvent>,
    now: Option<Instant>,
}

const FILE: &str = "notes";

impl Notes {
    fn start(&mut self, doing: Doing) -> u64 {
        self.next += 1;
        self.doing.insert(self.next, doing);
        self.next
    }

    fn store(&mut self, doing: Doing, op: StoreOp) {
        let ticket = self.start(doing);
        self.stores.push_back((ticket, op));
    }

    fn act(&mut self, command: NotesCommand) {
        match command {
            NotesCommand::Add { call, line, forged } => {
                let Some(me) = &self.me else { return };
                let mut signature = me.sign("note", &line);
                signature[3] ^= u8::from(forged);
                let check =
                    Verify { signer: me.id(), admit: false, label: "note", message: line.clone(), signature };
                let ticket = self.start(Doing::Checking(call, line));
                self.jobs.push_back((ticket, Job::Verify(check)));
            }
            NotesCommand::Read { call } => {
                let op = StoreOp::Read { file: FILE.into(), offset: 0, len: 1 << 20 };
                self.store(Doing::Reading(call), op);
            }
            NotesCommand::Open { call, file } => {
                let op = StoreOp::Open { file, exclusive: false };
                self.store(Doing::Trying(call), op);
            }
        }
    }
}

impl Plane for Notes {
    type Cmd = NotesCommand;
    type Event = NotesEvent;

    fn handle(&mut self, now: Instant, input: In<'_>) {
        self.now = Some(now);
        match input {
            In::Stored(Ticket(ticket), result) => match (self.doing.remove(&ticket), result) {
                (Some(Doing::Opening), Ok(Stored::Opened { len })) => {
                    self.len = len;
                    for command in std::mem::take(&mut self.held) {
                        self.act(command);
                    }
                }
                (Some(Doing::Opening), Err(why)) => {
                    for command in std::mem::take(&mut self.held) {
                        let (NotesCommand::Add { call, .. }
                        | NotesCommand::Read { call }
                        | NotesCommand::Open { call, .. }) = command;
                        self.events.push_back(NotesEvent::Failed { call, why });
                    }
                    self.opened = false;
                }
                (Some(Doing::Syncing(call)), Ok(_)) => self.events.push_back(NotesEvent::Added { call }),
                (Some(Doing::Reading(call)), Ok(Stored::Data(text))) => {
                    self.events.push_back(NotesEvent::Text { call, text });
                }
                (Some(Doing::Trying(call)), Ok(_)) => self.events.push_back(NotesEvent::Opened { call }),
                (Some(Doing::Syncing(call) | Doing::Reading(call) | Doing::Trying(call)), Err(why)) => {
                    self.events.push_back(NotesEvent::Failed { call, why });
                }
                _ => {}
            },
            In::Job(Ticket(ticket), JobDone::Verified(verdict)) => {
                let Some(Doing::Checking(call, line)) = self.doing.remove(&ticket) else { return };
                if verdict != Verdict::Valid {
                    self.events.push_back(NotesEvent::Forged { call });
                    return;
                }
                let offset = self.len;
                self.len += line.len() as u64;
                self.store(Doing::Writing, StoreOp::Write { file: FILE.into(), offset, data: line });
                self.store(Doing::Syncing(call), StoreOp::Sync { file: FILE.into() });
            }
            _ => {}
        }
    }

    fn command(&mut self, now: Instant, command: NotesCommand) {
        self.now = Some(now);
        if !self.opened {
            self.opened = true;
            let op = StoreOp::Open { file: FILE.into(), exclusive: false };
            self.store(Doing::Opening, op);
        }
        if self.doing.values().any(|doing| matches!(doing, Doing::Opening)) {
            self.held.push_back(command);
        } else {
            self.act(command);
        }
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn drain(&mut self, fx: &mut dyn Effects) {
        self.stores.drain(..).for_each(|(ticket, op)| fx.store(Ticket(ticket), op));
        self.jobs.drain(..).for_each(|(ticket, job)| fx.job(Ticket(ticket), job));
    }

    fn poll_event(&mut self) -> Option<NotesEvent> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let more = !self.stores.is_empty() || !self.jobs.is_empty() || !self.events.is_empty();
        more.then_some((self.now.unwrap_or(Instant::ZERO), Reason::Output))
    }

    fn ceiling(&self) -> u64 {
        64 << 10
    }

    fn admit(&self, kind: u8) -> Result<(), Refusal> {
        Err(Refusal::UnknownKind(kind))
    }

    fn addressee(event: &NotesEvent) -> Option<u64> {
        Some(event.call())
    }
}

pub type Ports = net_sdk::Planes<Toys>;

/// A number that the peer added one to; `None`: the peer is gone, or has no such plane.
pub async fn ping(ports: &Ports, to: EntityId, n: u64) -> Result<Option<u64>, net_sdk::Stopped> {
    let event = ports.call(|call| ToyCommand::Ping(PingCommand::Ping { call, to, n })).await?;
    Ok(match event {
        ToyEvent::Ping(PingEvent::Pong { n, .. }) => Some(n),
        _ => None,
    })
}

/// What a command to the notes came to.
pub async fn note(
    ports: &Ports,
    make: impl FnOnce(u64) -> NotesCommand,
) -> Result<NotesEvent, net_sdk::Stopped> {
    match ports.call(|call| ToyCommand::Notes(make(call))).await? {
        ToyEvent::Notes(event) => Ok(event),
        other => panic!("{}", matches!(other, ToyEvent::Ping(_))),
    }
}
