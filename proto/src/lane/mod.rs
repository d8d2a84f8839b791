//! Lanes: what the transport offers to everything above it, and what a plane is.
//!
//! A lane carries messages to one peer. In the reliable modes each is delivered **exactly once within
//! a generation** of the association, fire-and-forget at most once. After [`In::Closed`] or
//! [`In::Down`] the fate of the unacknowledged suffix is unknown, and a plane resumes by its own ids.
//! What arrives on a lane comes from the proven [`Peer`] beside it; a plane believes no sender named
//! in a payload. `docs/LANES.md` has the contract, `planes!` composes planes into one.

mod compose;
#[cfg(any(test, feature = "testing"))]
pub mod forge;
mod job;
mod none;
#[cfg(test)]
mod tests;

use crate::identity::EntityId;
use crate::session::Peer;
use crate::storage::{StoreOp, StoreResult, Ticket};
use crate::stream::Mode;
use crate::time::{Instant, Reason, WallClock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use compose::{QUANTUM, Scoped, TICKET_BITS, owner, turn_from};
pub use job::{Job, JobDone, Verdict, Verify};
pub use none::{Never, NoPlanes};
/// For the code that `planes!` makes.
#[doc(hidden)]
pub use serde;

/// Longest head of a lane, in bytes. It travels in the label, where a byte takes up to two.
pub const MAX_HEAD: usize = 127;

/// A generation-checked handle to a lane, unique within its core. The kind is a part of it, so that
/// everything that happens on a lane finds its plane without a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lane {
    slot: u32,
    generation: u32,
    kind: u8,
}

impl Lane {
    pub(crate) const fn new(slot: u32, generation: u32, kind: u8) -> Self {
        Self { slot, generation, kind }
    }

    /// Index into the core's table; small, reused after the generation moved on.
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// Which use of the slot.
    pub const fn generation(self) -> u32 {
        self.generation
    }

    /// Which plane speaks on it, 1 to 63.
    pub const fn kind(self) -> u8 {
        self.kind
    }
}

/// What to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneSpec<'a> {
    /// Which plane speaks on it, 1 to 63. Inside a composition the plane's own number, whatever stands here.
    pub kind: u8,
    /// What it promises.
    pub mode: Mode,
    /// Its share of the link against other lanes, 1 to 255; 16 is usual.
    pub priority: u8,
    /// What the other side's plane reads in [`In::Opened`], at most [`MAX_HEAD`] bytes.
    pub head: &'a [u8],
}

/// Why a lane was not accepted. The number goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Refusal {
    /// No plane of this number is here: not known, or not built in.
    #[error("no plane of kind {0} is here")]
    UnknownKind(u8),
    /// There are too many lanes.
    #[error("too many lanes")]
    Full,
    /// The plane does not want it; the number is the plane's.
    #[error("refused by the plane with code {0}")]
    Plane(u16),
}

/// Why a lane ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Ended {
    /// The other side closed it, with its plane's number.
    ByPeer(u16),
    /// The other side did not accept it.
    Refused(Refusal),
}

/// Why a peer is gone, as far as planes act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Gone {
    /// One of the two sides closed the association.
    Closed,
    /// It could not be reached any more.
    Unreachable,
    /// It restarted, and forgot what was not durable.
    Restarted,
    /// It broke the protocol.
    Violation,
}

/// What can happen to a plane.
#[derive(Debug)]
#[non_exhaustive]
pub enum In<'a> {
    /// An association with a proven peer is up.
    Up(Peer),
    /// It is gone, and every lane of it; there is no `Closed` for each.
    Down(Peer, Gone),
    /// The peer opened a lane; with the head of its [`LaneSpec`].
    Opened(Peer, Lane, &'a [u8]),
    /// A message and its number, which the sender got from `commit`.
    Msg(Peer, Lane, u64, &'a [u8]),
    /// `reserve` refused on this lane, and may succeed now.
    Writable(Lane),
    /// Every message up to this number is acknowledged (unordered: this one).
    Acked(Lane, u64),
    /// The lane is over; nothing more comes and nothing can be sent.
    Closed(Lane, Ended),
    /// A storage operation is done.
    Stored(Ticket, StoreResult),
    /// A job is done.
    Job(Ticket, JobDone),
    /// The wall clock was read.
    Wall(WallClock),
}

/// A machine above the transport: pure, pulled, bounded.
///
/// The last five items say how applications reach it through a driver (`docs/PORTS.md`); a plane of one
/// port that takes every command at once and answers no calls needs none of them.
pub trait Plane {
    /// What applications ask for. Serialisable, because a trace holds it.
    type Cmd: Serialize + DeserializeOwned;
    /// What it tells applications.
    type Event: Serialize;

    /// Something happened. Unknown handles and numbers are ignored.
    fn handle(&mut self, now: Instant, input: In<'_>);
    /// An application asks.
    fn command(&mut self, now: Instant, command: Self::Cmd);
    /// Time has passed.
    fn handle_timeout(&mut self, now: Instant);
    /// Writes what can leave. A plane keeps its queue until `reserve` gives room.
    fn drain(&mut self, fx: &mut dyn Effects);
    /// The next event.
    #[must_use]
    fn poll_event(&mut self) -> Option<Self::Event>;
    /// When to call [`Self::handle_timeout`]. The last input's instant while output can leave now;
    /// output that waits for room, storage or a job does not count.
    #[must_use]
    fn poll_timeout(&self) -> Option<(Instant, Reason)>;
    /// Most bytes it may ever hold.
    fn ceiling(&self) -> u64;
    /// Whether a lane of this kind finds a plane here. Asked before [`In::Opened`].
    ///
    /// # Errors
    ///
    /// [`Refusal`], which goes back to the opener.
    fn admit(&self, kind: u8) -> Result<(), Refusal>;

    /// How many ports there are: queues of commands with their own bounds. A composition has one for each
    /// plane, so that none waits for another.
    const PORTS: usize = 1;

    /// The port that a command comes through, below [`Self::PORTS`].
    fn port(_command: &Self::Cmd) -> usize {
        0
    }

    /// Bytes that a command holds beside its own size: what it costs in its port.
    fn weight(_command: &Self::Cmd) -> usize {
        0
    }

    /// Whether the plane takes commands of this port now. While not, they wait in the port, and their
    /// callers with them. This is a plane's back-pressure, and what keeps its queues bounded.
    fn takes(&self, _port: usize) -> bool {
        true
    }

    /// The number of the call or subscription that an event is for; the command brought it. `None`: for
    /// whoever reads the plane's events.
    fn addressee(_event: &Self::Event) -> Option<u64> {
        None
    }
}

/// What a plane can do to the world while it drains.
pub trait Effects {
    /// Who a peer is, proven: the identity that planes key what outlives an association by. `None` if the
    /// peer is gone.
    fn entity(&self, peer: Peer) -> Option<EntityId>;
    /// Opens a lane; `None` if the peer is gone or there are too many.
    fn open(&mut self, peer: Peer, spec: &LaneSpec<'_>) -> Option<Lane>;
    /// Longest message that the peer takes on a lane, in bytes; `None` if the lane is gone.
    fn largest(&self, lane: Lane) -> Option<usize>;
    /// Room for a message of up to `len` bytes. `None`: wait for [`In::Writable`], or, if the turn's
    /// share is used up, for the next `drain`; or the lane is gone. A message longer than the peer
    /// takes never gets room. A second `reserve` forgets the first.
    fn reserve(&mut self, lane: Lane, len: usize) -> Option<&mut [u8]>;
    /// Sends the first `used` bytes of the room. Answers the message's number on this lane.
    fn commit(&mut self, lane: Lane, used: usize) -> u64;
    /// Ends a lane after what was committed. No message and no [`In::Closed`] of it follows.
    fn close(&mut self, lane: Lane, why: u16);
    /// Starts a storage operation; [`In::Stored`] follows.
    fn store(&mut self, ticket: Ticket, op: StoreOp);
    /// Starts a job; [`In::Job`] follows.
    fn job(&mut self, ticket: Ticket, job: Job);
}
