//! A core's inputs as owned values, so that they can be stored, and a core can live them again.
//!
//! Everything that changes a node, or a host with its planes, is in here: the inputs proper, and the
//! calls that take output and thereby move it on. Replaying the steps of a record into a core with the
//! same configuration and seed gives the same outputs.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::{Command, Event, Host, Input, Job, JobDone, Node};
use crate::lane::Plane;
use crate::path::{Ecn, Path};
use crate::session::Peer;
use crate::storage::{StoreResult, Ticket};
use crate::stream::StreamId;
use crate::time::{Instant, WallClock};

/// One step of a core's life. A node without planes ignores those that are about planes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Step {
    /// See [`Input::Datagram`].
    Datagram {
        /// Where it came from.
        path: Path,
        /// Its ECN bits.
        ecn: Ecn,
        /// Its bytes, as they arrived.
        #[serde(with = "crate::codec::bulk")]
        data: Vec<u8>,
    },
    /// See [`Input::Timeout`].
    Timeout,
    /// See [`Input::Job`].
    Job(Ticket, JobDone),
    /// See [`Input::Wall`].
    Wall(WallClock),
    /// See [`Input::Command`].
    Command(Command),
    /// [`Node::poll_transmit`] with a buffer of this many bytes.
    Transmit(usize),
    /// [`Node::take`].
    Take(Peer, StreamId),
    /// [`Node::poll_job`].
    Jobs,
    /// [`Host::command`] with these bytes; see [`Step::plane`].
    Plane(#[serde(with = "crate::codec::bulk")] Vec<u8>),
    /// [`Host::drain`].
    Drain,
    /// [`Host::handle_stored`].
    Stored(Ticket, StoreResult),
    /// [`Host::poll_store`].
    Store,
    /// [`Host::poll_plane_event`].
    Told,
}

impl Step {
    /// A command to a plane. It is kept as bytes, so that a step has one type whatever the planes are.
    pub fn plane<P: Plane>(command: &P::Cmd) -> Self {
        Self::Plane(encoded(command))
    }

    /// Whether something comes from outside with it. The others move the core on or take output.
    pub const fn is_input(&self) -> bool {
        match self {
            Self::Datagram { .. } | Self::Timeout | Self::Job(..) | Self::Wall(_) | Self::Command(_) => true,
            Self::Plane(_) | Self::Stored(..) => true,
            Self::Drain | Self::Transmit(_) | Self::Take(..) | Self::Jobs | Self::Store | Self::Told => false,
        }
    }

    /// Its kind. What it holds may be secret; this is not.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Datagram { .. } => "datagram",
            Self::Timeout => "timeout",
            Self::Job(..) => "job done",
            Self::Wall(_) => "wall clock",
            Self::Command(command) => command.name(),
            Self::Transmit(_) => "transmit",
            Self::Take(..) => "take",
            Self::Jobs => "job",
            Self::Plane(_) => "plane command",
            Self::Drain => "plane drain",
            Self::Stored(..) => "stored",
            Self::Store => "store",
            Self::Told => "plane event",
        }
    }
}

/// What cannot be encoded leaves nothing, and the replay differs there.
fn encoded(value: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).unwrap_or_default()
}

impl From<&Input<'_>> for Step {
    fn from(input: &Input<'_>) -> Self {
        match input {
            Input::Datagram { path, ecn, data } => {
                Self::Datagram { path: *path, ecn: *ecn, data: data.to_vec() }
            }
            Input::Timeout => Self::Timeout,
            Input::Job(ticket, done) => Self::Job(*ticket, done.clone()),
            Input::Wall(wall) => Self::Wall(*wall),
            Input::Command(command) => Self::Command(command.clone()),
        }
    }
}

/// What a step brought out: a hash of the datagrams or bytes, and the events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// BLAKE3 of the bytes that left or were taken, cut to 8 bytes; zero if there were none.
    pub bytes: u64,
    /// The events.
    pub events: Vec<Event>,
}

impl Output {
    /// Adds bytes that left.
    pub fn add(&mut self, bytes: &[u8]) {
        let hash = blake3::hash(bytes);
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        self.bytes = self.bytes.rotate_left(1) ^ u64::from_le_bytes(first);
    }

    /// Adds a job that left, if it is a plane's; a handshake's follows from the input before it.
    pub fn add_job(&mut self, ticket: Ticket, job: &Job) {
        if let Job::Plane(job) = job {
            self.add_value(&(ticket, job));
        }
    }

    /// Adds a value that left: a storage operation, or what a plane tells.
    pub fn add_value(&mut self, value: &impl Serialize) {
        self.add(&encoded(value));
    }
}

impl<P: Plane> Host<P> {
    /// Lives one recorded step and tells what came of it, as [`Node::replay`] does. `scratch` is kept from
    /// step to step: datagrams are written there.
    pub fn replay(&mut self, at: Instant, step: Step, scratch: &mut Vec<u8>) -> Output {
        let mut output = Output::default();
        match step {
            Step::Datagram { path, ecn, mut data } => {
                self.handle(at, Input::Datagram { path, ecn, data: &mut data });
            }
            Step::Timeout => self.handle(at, Input::Timeout),
            Step::Job(ticket, done) => self.handle(at, Input::Job(ticket, done)),
            Step::Wall(wall) => self.handle(at, Input::Wall(wall)),
            Step::Command(command) => self.handle(at, Input::Command(command)),
            // A command that this build does not know is left out, and what it did is missed.
            Step::Plane(bytes) => {
                if let Ok(command) = postcard::from_bytes(&bytes) {
                    self.command(at, command);
                }
            }
            Step::Drain => self.drain(at),
            Step::Stored(ticket, result) => self.handle_stored(at, ticket, result),
            Step::Transmit(room) => {
                if scratch.len() < room {
                    scratch.resize(room, 0);
                }
                if let Some(t) = self.poll_transmit(at, &mut scratch[..room]) {
                    output.add(&scratch[..t.len]);
                }
            }
            Step::Take(peer, stream) => {
                if let Some(taken) = self.take(peer, stream, &mut Vec::new()) {
                    output.add(&taken.chunk);
                }
            }
            Step::Jobs => {
                if let Some((ticket, job)) = self.poll_job() {
                    output.add_job(ticket, &job);
                }
            }
            Step::Store => {
                if let Some(store) = self.poll_store() {
                    output.add_value(&store);
                }
            }
            Step::Told => {
                if let Some(event) = self.poll_plane_event() {
                    output.add_value(&event);
                }
            }
        }
        while let Some(event) = self.poll_event() {
            output.events.push(event);
        }
        output
    }

    /// A hash of the counters: what an input did that brought nothing out, such as a datagram that was
    /// dropped, shows in it at once.
    pub fn fingerprint(&self) -> u64 {
        let mut output = Output::default();
        output.add_value(&(self.stats(), self.committed()));
        output.bytes
    }
}

impl Node {
    /// Seals `frames`, whatever they say, as this node's next packet to `peer`; its length in `out`. For
    /// tests that play a hostile peer with real keys: the node itself does not know of the packet.
    #[doc(hidden)]
    pub fn forge_packet(&mut self, peer: Peer, frames: &[u8], out: &mut [u8]) -> Option<usize> {
        self.session_mut(peer)?.forge_packet(frames, out)
    }

    /// Why an association that still has its handle is closing, if it is.
    #[doc(hidden)]
    pub fn closing(&self, peer: Peer) -> Option<crate::session::DownReason> {
        self.session(peer)?.closing()
    }

    /// Lives one recorded step and tells what came of it.
    pub fn replay(&mut self, at: Instant, step: Step) -> Output {
        let mut output = Output::default();
        match step {
            Step::Datagram { path, ecn, mut data } => {
                self.handle(at, Input::Datagram { path, ecn, data: &mut data });
            }
            Step::Timeout => self.handle(at, Input::Timeout),
            Step::Job(ticket, done) => self.handle(at, Input::Job(ticket, done)),
            Step::Wall(wall) => self.handle(at, Input::Wall(wall)),
            Step::Command(command) => self.handle(at, Input::Command(command)),
            Step::Transmit(room) => {
                let mut buf = alloc::vec![0; room];
                if let Some(t) = self.poll_transmit(at, &mut buf) {
                    output.add(&buf[..t.len]);
                }
            }
            Step::Take(peer, stream) => {
                if let Some(taken) = self.take(peer, stream, &mut Vec::new()) {
                    output.add(&taken.chunk);
                }
            }
            Step::Jobs => {
                let _ = self.poll_job();
            }
            Step::Plane(_) | Step::Drain | Step::Stored(..) | Step::Store | Step::Told => {}
        }
        while let Some(event) = self.poll_event() {
            output.events.push(event);
        }
        output
    }
}
