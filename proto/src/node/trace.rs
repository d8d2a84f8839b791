//! A node's inputs as owned values, so that they can be stored, and a node can live them again.
//!
//! Everything that changes a node is in here: the inputs proper, and the two calls that take output
//! and thereby move it on. Replaying the steps of a record into a node with the same configuration
//! and seed gives the same outputs.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::{Command, Event, Input, JobDone, Node};
use crate::path::{Ecn, Path};
use crate::session::Peer;
use crate::storage::Ticket;
use crate::stream::StreamId;
use crate::time::{Instant, WallClock};

/// One step of a node's life.
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
                if let Some(taken) = self.take(peer, stream, Vec::new()) {
                    output.add(&taken.chunk);
                }
            }
            Step::Jobs => {
                let _ = self.poll_job();
            }
        }
        while let Some(event) = self.poll_event() {
            output.events.push(event);
        }
        output
    }
}
