//! What a driver hands to a node and takes from it.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::identity::{EntityId, Mesh, MeshId};
use crate::path::{Ecn, Path};
use crate::session::Peer;
use crate::session::aead::Cipher;
use crate::storage::Ticket;
use crate::stream::{self, Mode, StreamId};
use crate::time::{Duration, WallClock};

pub use crate::session::{Batch as Transmit, DownReason, Violation};
pub use crate::stream::MAX_LABEL;

use super::job::JobDone;

/// Everything that can happen to a node. One value per step; recorded, it replays.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub enum Input<'a> {
    /// A datagram arrived. It is opened in place: the bytes are scratch afterwards.
    Datagram {
        /// Where it came from, and the local address that it came to.
        path: Path,
        /// Its ECN bits.
        ecn: Ecn,
        /// Its bytes.
        data: &'a mut [u8],
    },
    /// The instant that `poll_timeout` named has come (or passed; or not yet, which does nothing).
    Timeout,
    /// A job that `poll_job` gave out is done.
    Job(Ticket, JobDone),
    /// The wall clock was read.
    Wall(WallClock),
    /// The application wants something.
    Command(Command),
}

/// What an application can ask for. Numbers named `id` are the caller's and come back in the event.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Command {
    /// Connect to `entity` at the first of `paths` that answers. Answered by [`Event::Connected`] or
    /// [`Event::DialFailed`] with the same `id`; by the former at once if an association lives.
    Dial {
        /// The caller's number.
        id: u64,
        /// Whom.
        entity: EntityId,
        /// Where, best first.
        paths: Vec<Path>,
    },
    /// Give up a dial.
    CancelDial {
        /// The number of the dial.
        id: u64,
    },
    /// Close the association: tells the peer, then forgets it. Answered by [`Event::Disconnected`].
    Disconnect {
        /// Which.
        peer: Peer,
        /// An application code for the peer to see.
        code: u16,
    },
    /// Open a stream. Answered by [`Event::StreamReady`] or [`Event::StreamRefused`].
    Open {
        /// The caller's number.
        id: u64,
        /// To whom.
        peer: Peer,
        /// Its label, at most [`MAX_LABEL`] bytes, not beginning with [`RESERVED`](super::RESERVED).
        label: String,
        /// What it promises.
        mode: Mode,
        /// Its share of the link against other streams, 1 to 255; 16 is usual.
        priority: u8,
    },
    /// Queue messages. `chunk` is a run of messages as [`crate::stream::frame_message`] makes it. The
    /// caller respects [`Event::Writable`]; the node accepts whatever comes, so nothing admitted is lost.
    Send {
        /// Which association.
        peer: Peer,
        /// Which stream.
        stream: StreamId,
        /// The messages.
        #[serde(with = "crate::codec::bulk")]
        chunk: Vec<u8>,
    },
    /// Ask for [`Event::Flushed`] once everything queued so far is acknowledged (fire-and-forget: sent).
    Flush {
        /// The caller's number.
        id: u64,
        /// Which association.
        peer: Peer,
        /// Which stream.
        stream: StreamId,
    },
    /// No more messages will be queued; the peer reads to the end.
    Finish {
        /// Which association.
        peer: Peer,
        /// Which stream.
        stream: StreamId,
    },
    /// Drop what is queued and tell the peer why.
    Reset {
        /// Which association.
        peer: Peer,
        /// Which stream.
        stream: StreamId,
        /// An application code.
        code: u16,
    },
    /// Stop reading: what arrives is dropped, the peer is told to stop sending.
    Stop {
        /// Which association.
        peer: Peer,
        /// Which stream.
        stream: StreamId,
        /// An application code.
        code: u16,
    },
    /// The application drained messages worth `charge` bytes (see [`crate::stream::charge`]).
    Consumed {
        /// Which association.
        peer: Peer,
        /// Which stream.
        stream: StreamId,
        /// The sum of their charges.
        charge: u64,
    },
    /// The network under a socket changed: check the active paths, and dial again what is dead.
    NetworkChanged,
    /// Accept a further mesh and dial with it from now on; the others stay accepted.
    AddMesh(Mesh),
    /// Forget a mesh: its new handshakes meet silence; sessions live on until their next rekey.
    RemoveMesh(MeshId),
    /// Say goodbye to all peers. [`Event::Drained`] follows when the last one is gone.
    Shutdown,
}

impl Command {
    /// Its kind, for reports.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Dial { .. } => "dial",
            Self::CancelDial { .. } => "cancel dial",
            Self::Disconnect { .. } => "disconnect",
            Self::Open { .. } => "open",
            Self::Send { .. } => "send",
            Self::Flush { .. } => "flush",
            Self::Finish { .. } => "finish",
            Self::Reset { .. } => "reset",
            Self::Stop { .. } => "stop",
            Self::Consumed { .. } => "consumed",
            Self::NetworkChanged => "network changed",
            Self::AddMesh(_) => "add mesh",
            Self::RemoveMesh(_) => "remove mesh",
            Self::Shutdown => "shutdown",
        }
    }
}

/// What a node tells its driver. Identities in events are proven, never claimed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Event {
    /// An association is up. A new incarnation of a peer is a new association.
    Connected {
        /// Its handle.
        peer: Peer,
        /// The proven identity.
        entity: EntityId,
        /// The dial that this answers, if one does; there is one event per answered dial.
        dial: Option<u64>,
        /// Where the peer is.
        path: Path,
        /// Which data cipher was agreed.
        cipher: Cipher,
    },
    /// A dial ended without an association.
    DialFailed {
        /// The number of the dial.
        dial: u64,
        /// Why.
        error: DialError,
    },
    /// An association is gone, with everything in it.
    Disconnected {
        /// Its handle; never valid again.
        peer: Peer,
        /// Who it was.
        entity: EntityId,
        /// Why.
        reason: DownReason,
        /// What of ours the peer may not have got.
        lost: Lost,
    },
    /// A stream that this side opened can be used.
    StreamReady {
        /// The caller's number.
        id: u64,
        /// The association.
        peer: Peer,
        /// Its name.
        stream: StreamId,
        /// Bytes that a port may queue at first (see [`Event::Writable`]).
        limit: u64,
        /// Longest message that the peer takes, in bytes. A port refuses a longer one before it is queued.
        max_message: u64,
    },
    /// A stream could not be opened, or was gone before it could be flushed.
    StreamRefused {
        /// The caller's number.
        id: u64,
        /// Why.
        error: StreamError,
    },
    /// The peer opened a stream.
    StreamOpened {
        /// The association.
        peer: Peer,
        /// Its name.
        stream: StreamId,
        /// What the opener calls it.
        label: String,
        /// What it promises.
        mode: Mode,
        /// Bytes that a port may queue at first (see [`Event::Writable`]).
        limit: u64,
        /// Longest message that the peer takes, in bytes. A port refuses a longer one before it is queued.
        max_message: u64,
    },
    /// Messages wait in [`take`](super::Node::take). Not repeated until they were taken.
    Readable {
        /// The association.
        peer: Peer,
        /// The stream.
        stream: StreamId,
    },
    /// The sum of charges that a port may have queued since the stream began rose to `limit`.
    Writable {
        /// The association.
        peer: Peer,
        /// The stream.
        stream: StreamId,
        /// Cumulative, in charged bytes.
        limit: u64,
    },
    /// Everything that was queued before the flush is acknowledged (fire-and-forget: sent).
    Flushed {
        /// The caller's number.
        id: u64,
    },
    /// The peer will send no more on this stream; everything it sent was taken or is in `take`.
    Finished {
        /// The association.
        peer: Peer,
        /// The stream.
        stream: StreamId,
    },
    /// The peer dropped what it had not sent yet.
    ResetByPeer {
        /// The association.
        peer: Peer,
        /// The stream.
        stream: StreamId,
        /// The application's code.
        code: u16,
    },
    /// The peer reads no more; what is queued is dropped and counted as lost.
    StoppedByPeer {
        /// The association.
        peer: Peer,
        /// The stream.
        stream: StreamId,
        /// The application's code.
        code: u16,
    },
    /// Both directions of the stream are over; its handle means nothing any more.
    StreamClosed {
        /// The association.
        peer: Peer,
        /// The stream.
        stream: StreamId,
        /// What of ours the peer may not have got.
        lost: Lost,
    },
    /// The association uses another path.
    PathChanged {
        /// The association.
        peer: Peer,
        /// The path in use.
        path: Path,
    },
    /// After [`Command::Shutdown`]: the last association is gone.
    Drained,
    /// Of this stream, which [`has_plenty`](super::Node::has_plenty), less than a batch is unsent now.
    Wanting {
        /// The association.
        peer: Peer,
        /// The stream.
        stream: StreamId,
    },
}

/// Messages accepted from the application that the peer may not have got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// How many messages.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl From<stream::Tally> for Lost {
    fn from(tally: stream::Tally) -> Self {
        Self { messages: tally.messages, bytes: tally.bytes }
    }
}

/// Why a dial failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[non_exhaustive]
pub enum DialError {
    /// Nothing that authenticates came back in time: wrong address, wrong mesh key, wrong identity,
    /// or nobody there. The protocol does not tell them apart, on purpose.
    #[error(
        "no authenticated answer in {0:?}: check the address and that the peer runs, \
         that both hold the same mesh key, and that the ticket is the peer's own"
    )]
    TimedOut(Duration),
    /// The peer speaks none of our versions.
    #[error("no common protocol version: ours {ours:?}, the peer's {theirs:?}")]
    Version {
        /// Our lowest and highest.
        ours: (u8, u8),
        /// The peer's lowest and highest.
        theirs: (u8, u8),
    },
    /// The peer's policy refused us.
    #[error("the peer refused the connection with code {0}")]
    Refused(u16),
    /// The peer is proven and accepted, but what it says about its limits cannot be decoded: it runs
    /// something that breaks the protocol.
    #[error("the peer's answer cannot be understood: it does not keep to the protocol")]
    BadAnswer,
    /// The id is not a valid key, or it is our own.
    #[error("the entity id cannot be dialled")]
    BadEntity,
    /// No address was given.
    #[error("no address to dial")]
    NoAddress,
    /// Too many dials at once, or too many associations.
    #[error("at most {0} dials at once")]
    TooMany(usize),
    /// Given up by the caller.
    #[error("cancelled")]
    Cancelled,
    /// The node shuts down.
    #[error("the node shuts down")]
    Shutdown,
}

/// Why a stream command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The association is gone.
    #[error("the association is gone")]
    Gone,
    /// The peer allows no more streams for now.
    #[error("at most {0} streams at once")]
    TooMany(u64),
    /// The label is too long.
    #[error("the label has {0} bytes, at most {MAX_LABEL} are allowed")]
    LabelTooLong(usize),
    /// The label begins with a zero byte, or the number has the highest bit: both belong to lanes.
    #[error("labels that begin with a zero byte, and numbers with the highest bit, are reserved for lanes")]
    Reserved,
}

impl From<stream::OpenError> for StreamError {
    fn from(error: stream::OpenError) -> Self {
        match error {
            stream::OpenError::TooMany(limit) => Self::TooMany(limit),
            stream::OpenError::LabelTooLong(len) => Self::LabelTooLong(len),
        }
    }
}

/// A stream's event as the node tells it.
pub(super) fn stream_event(peer: Peer, event: stream::Event, streams: &stream::Streams) -> Event {
    match event {
        stream::Event::Opened { id, label, mode } => {
            let (limit, max_message) = (streams.write_limit(id), streams.max_message());
            Event::StreamOpened { peer, stream: id, label, mode, limit, max_message }
        }
        stream::Event::Readable(stream) => Event::Readable { peer, stream },
        stream::Event::Writable { id, limit } => Event::Writable { peer, stream: id, limit },
        stream::Event::Flushed { token } => Event::Flushed { id: token },
        stream::Event::Finished(stream) => Event::Finished { peer, stream },
        stream::Event::ResetByPeer { id, code } => Event::ResetByPeer { peer, stream: id, code },
        stream::Event::StoppedByPeer { id, code } => Event::StoppedByPeer { peer, stream: id, code },
        stream::Event::Wanting(stream) => Event::Wanting { peer, stream },
        stream::Event::Closed { id, lost } => Event::StreamClosed { peer, stream: id, lost: lost.into() },
    }
}
