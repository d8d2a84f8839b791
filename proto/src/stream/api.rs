//! What the streams machine is told and what it answers.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::stream::{Mode, StreamId};

/// Messages and their payload bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many messages.
    pub messages: u64,
    /// Their payload bytes.
    pub bytes: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }

    pub(crate) fn sub(&mut self, other: Self) {
        self.messages = self.messages.saturating_sub(other.messages);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// Where everything went that `send` accepted. Balances after every call:
/// `accepted = delivered + queued + reset + stopped + closed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Taken from ports.
    pub accepted: Tally,
    /// Acknowledged by the peer (fire-and-forget: sent).
    pub delivered: Tally,
    /// Waiting, or sent and not acknowledged.
    pub queued: Tally,
    /// Dropped by our `reset`.
    pub reset: Tally,
    /// Dropped because the peer reads no more.
    pub stopped: Tally,
    /// Dropped because the association ended.
    pub closed: Tally,
}

impl Ledger {
    /// Adds another one.
    pub(crate) fn add(&mut self, other: Self) {
        self.accepted.add(other.accepted);
        self.delivered.add(other.delivered);
        self.queued.add(other.queued);
        self.reset.add(other.reset);
        self.stopped.add(other.stopped);
        self.closed.add(other.closed);
    }

    /// Whether nothing is missing.
    pub fn balances(&self) -> bool {
        let mut sum = self.delivered;
        for part in [self.queued, self.reset, self.stopped, self.closed] {
            sum.add(part);
        }
        sum == self.accepted
    }
}

/// How an authenticated peer broke the rules of streams. The association is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Violation {
    /// A frame could not be decoded, or contradicts an earlier one.
    #[error("a malformed frame")]
    Frame,
    /// More data than the window allowed.
    #[error("more than the window allowed")]
    FlowControl,
    /// More streams than allowed, or a stream id of the wrong side.
    #[error("a stream that may not exist")]
    StreamLimit,
    /// Data behind the end of a stream, or two different ends.
    #[error("a stream that does not end where it said")]
    FinalSize,
    /// A message longer than allowed.
    #[error("a message above the limit")]
    MessageTooLarge,
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// No fault of the peer; the packet is not to be acknowledged, so that its frames come again.
    #[error("no room for the frame now")]
    Drop,
    /// The peer broke the protocol.
    #[error("{0}")]
    Violation(#[from] Violation),
}

/// Why a stream cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The peer allows no more streams for now.
    #[error("the peer allows {0} streams so far")]
    TooMany(u64),
    /// The label is too long.
    #[error("the label has {0} bytes, too many")]
    LabelTooLong(usize),
}

/// Why a chunk was not accepted; it comes back unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// There is no such stream, or its sending direction is over. Nobody counted the messages.
    #[error("the stream takes no more messages")]
    Gone(Vec<u8>),
    /// A message is above what the peer takes ([`Streams::max_message`](super::Streams::max_message)).
    #[error("a message is larger than the peer takes")]
    TooLarge(Vec<u8>),
    /// The chunk is not a run of whole messages.
    #[error("the chunk is not a run of messages")]
    Malformed(Vec<u8>),
}

impl SendError {
    /// The chunk.
    pub fn into_chunk(self) -> Vec<u8> {
        match self {
            Self::Gone(chunk) | Self::TooLarge(chunk) | Self::Malformed(chunk) => chunk,
        }
    }
}

/// What [`Streams::take`](super::Streams::take) gives out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Whole messages, to be read with [`Messages::received`](super::Messages::received).
    pub chunk: Vec<u8>,
    /// The number of the first message, where the mode is ordered.
    pub first: u64,
    /// The mode of the stream.
    pub mode: Mode,
}

/// What happened to streams.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The peer opened a stream.
    Opened {
        /// Its name.
        id: StreamId,
        /// What the opener calls it.
        label: String,
        /// What it promises.
        mode: Mode,
    },
    /// Messages wait in `take`. Not repeated until they were taken.
    Readable(StreamId),
    /// The sum of charges that a port may have queued since the stream began rose to `limit`.
    Writable {
        /// The stream.
        id: StreamId,
        /// Cumulative, in charged bytes.
        limit: u64,
    },
    /// Everything that was queued before the flush is acknowledged (fire-and-forget: sent).
    Flushed {
        /// The caller's number.
        token: u64,
    },
    /// The peer sends no more; everything it sent was taken or is in `take`.
    Finished(StreamId),
    /// The peer dropped what it had not sent yet; what was not taken is dropped here.
    ResetByPeer {
        /// The stream.
        id: StreamId,
        /// The application's code.
        code: u16,
    },
    /// The peer reads no more; what was queued is dropped and counted as lost.
    StoppedByPeer {
        /// The stream.
        id: StreamId,
        /// The application's code.
        code: u16,
    },
    /// Less than [`PLENTY`](super::PLENTY) is queued and unsent, where [`Streams::has_plenty`] was true.
    ///
    /// [`Streams::has_plenty`]: super::Streams::has_plenty
    Wanting(StreamId),
    /// Both directions are over.
    Closed {
        /// The stream.
        id: StreamId,
        /// What of ours the peer may not have got.
        lost: Tally,
    },
}

/// What one written frame covers. Recovery keeps it and hands it back when its packet is
/// acknowledged or lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SentFrame {
    /// Bytes of a stream that are sent again until they are acknowledged.
    Data {
        /// The stream.
        id: u64,
        /// First byte, as an offset into everything queued on the stream.
        start: u64,
        /// How many.
        len: u32,
    },
    /// Fire-and-forget messages, whole or in part; never sent again.
    Once {
        /// The stream.
        id: u64,
        /// One more than the number of the last message.
        next: u64,
        /// Sum of the charges of all messages below `next`.
        charge: u64,
    },
    /// OPEN.
    Open(u64),
    /// SYNC, with its message number.
    Sync(u64, u64),
    /// FIN.
    Fin(u64),
    /// RESET.
    Reset(u64),
    /// STOP.
    Stop(u64),
    /// MAX_STREAM_DATA, with its limit.
    MaxStreamData(u64, u64),
    /// STREAM_BLOCKED, with what is needed.
    StreamBlocked(u64, u64),
    /// MAX_DATA, with its limit.
    MaxData(u64),
    /// MAX_STREAMS, with its limit.
    MaxStreams(u64),
    /// DATA_BLOCKED, with what is needed.
    DataBlocked(u64),
}

/// Figures of one stream, since it began. *Bytes* are payload; *charged bytes* count each message as
/// [`charge`](super::charge) does, in which windows and credit are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StreamStats {
    /// What it promises.
    pub mode: Mode,
    /// Messages that left for the first time.
    pub tx_seq: u64,
    /// Messages that arrived whole, late and lost ones aside.
    pub rx_seq: u64,
    /// The same with their bytes.
    pub received: Tally,
    /// Payload and length bytes that left for the first time.
    pub sent_bytes: u64,
    /// Charged bytes that arrived, less what the port said was drained; it says so at a quarter of the window.
    pub inbound_pending: u64,
    /// Charged bytes that may still be sent.
    pub tx_credit_remaining: u64,
    /// Charged bytes that this side lets the peer have under way or undrained.
    pub rx_window: u64,
    /// How often sending stopped for want of credit.
    pub backpressure_events: u64,
    /// Credit updates that came.
    pub credit_grants_received: u64,
    /// Credit updates that went, without repetitions.
    pub credit_grants_sent: u64,
    /// Payload and length bytes sent again.
    pub retransmitted: u64,
    /// Fire-and-forget messages known not to have arrived here, or dropped for want of room.
    pub missed: u64,
    /// What was accepted and is not delivered yet.
    pub queued: Tally,
    /// What was accepted and delivered.
    pub delivered: Tally,
    /// What was accepted and lost.
    pub lost: Tally,
}
