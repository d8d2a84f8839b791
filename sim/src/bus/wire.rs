//! What an adapter and the engine say to each other: one message a datagram, with a checksum, because
//! links here damage what they carry.

use net_proto::bus::{EventId, Position, Shard, crc32c};
use serde::{Deserialize, Serialize};

/// Most bytes of bodies in a batch or a page, so that either fits into a datagram.
pub const ROOM: usize = 600;
/// Most events in a batch or a page.
pub const MOST: usize = 12;

/// An event on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub id: EventId,
    /// When it was accepted, nanoseconds since 1970.
    pub stamp: u64,
    /// The body.
    pub raw: Vec<u8>,
}

/// What a reader gets of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub shard: Shard,
    pub lost: Option<(Position, Position)>,
    pub events: Vec<(Position, Entry)>,
    pub more: bool,
}

/// A question that changes nothing; it may be asked again under its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Whether the engine is there.
    Ping,
    /// The shards that it holds.
    Shards,
    /// Where they end.
    Tail(Vec<Shard>),
    /// What comes behind these positions; waits for some so many milliseconds.
    Read { from: Vec<(Shard, Option<Position>)>, limit: u32, wait: u32 },
}

/// Its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Pong,
    Shards(Vec<Shard>),
    Tail(Vec<(Shard, Position)>),
    Page(Vec<Part>),
}

/// All messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Opens a connection that writes.
    Open {
        conn: u64,
        shard: Shard,
    },
    /// It is open.
    Opened {
        conn: u64,
    },
    /// The batch of this number on a connection, from 0.
    Batch {
        conn: u64,
        n: u64,
        events: Vec<Entry>,
    },
    /// The engine has all batches of a connection below this number.
    Taken {
        conn: u64,
        below: u64,
    },
    /// No such connection, or not any more.
    Reset {
        conn: u64,
    },
    Ask {
        call: u64,
        ask: Ask,
    },
    Answer {
        call: u64,
        answer: Answer,
    },
}

impl Message {
    /// As a datagram.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; 4];
        let body = postcard::to_allocvec(self).unwrap_or_default();
        out.extend_from_slice(&body);
        let check = crc32c(&body);
        out[..4].copy_from_slice(&check.to_le_bytes());
        out
    }

    /// Reads a datagram; `None` if it is damaged.
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let (check, body) = datagram.split_first_chunk::<4>()?;
        (crc32c(body) == u32::from_le_bytes(*check)).then(|| postcard::from_bytes(body).ok())?
    }
}
