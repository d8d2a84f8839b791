//! What events are called: their producer's number for deduplication, their place for reading.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::codec::{BufferTooSmall, DecodeError, Reader, Wire, Writer};

/// Index of a shard.
pub type Shard = u16;

/// Most shards that a bus may have.
pub const MAX_SHARDS: u16 = 1024;

/// The name under which a producer numbers its events. Random, kept in its identity file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProducerId(pub u64);

impl fmt::Display for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Names one event for ever. The same event sent again, by this life of its producer or by a later
/// one, carries the same id; no other event ever does.
///
/// Printed as `producer:incarnation:shard:seq`, the first in 16 hexadecimal digits, the rest decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventId {
    /// Who produced it.
    pub producer: ProducerId,
    /// Which life of the producer accepted it.
    pub incarnation: u64,
    /// The shard it was routed to.
    pub shard: Shard,
    /// Its number within producer, incarnation and shard; rises from 1, with gaps where events were
    /// dropped before they were sent.
    pub seq: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.producer, self.incarnation, self.shard, self.seq)
    }
}

/// A text is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a valid {0}")]
pub struct BadText(pub &'static str);

/// A decimal number in its only form: no sign, no leading zero.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|c| c.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

impl FromStr for EventId {
    type Err = BadText;

    fn from_str(text: &str) -> Result<Self, BadText> {
        let parse = || {
            let mut parts = text.trim().split(':');
            let hex = parts.next()?;
            let lower = hex.len() == 16 && hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
            let producer = ProducerId(u64::from_str_radix(hex, 16).ok().filter(|_| lower)?);
            let incarnation = decimal(parts.next()?)?;
            let shard = u16::try_from(decimal(parts.next()?)?).ok()?;
            let seq = decimal(parts.next()?)?;
            parts.next().is_none().then_some(Self { producer, incarnation, shard, seq })
        };
        parse().ok_or(BadText("event id"))
    }
}

impl Wire for EventId {
    const NAME: &'static str = "event-id";

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            producer: ProducerId(r.u64("producer")?),
            incarnation: r.u64("incarnation")?,
            shard: r.u16("shard")?,
            seq: r.u64("sequence")?,
        })
    }

    fn encode(&self, w: &mut Writer<'_>) -> Result<(), BufferTooSmall> {
        w.u64(self.producer.0)?;
        w.u64(self.incarnation)?;
        w.u16(self.shard)?;
        w.u64(self.seq)
    }
}

/// Where an event lies in its shard, by the numbers of the transport that holds it. Ordered; later
/// events have larger ones. A reader that stands *at* a position has read everything up to and
/// including it.
///
/// | Transport | `major` | `minor` |
/// |---|---|---|
/// | memory | incarnation of the bus | number of the event, from 1 |
/// | Redis Streams | milliseconds of the entry id | sequence of the entry id |
/// | JetStream | nanoseconds since 1970 when the stream was created | stream sequence |
/// | mesh | incarnation of the serving bus | number of the event, from 1 |
///
/// Printed as `major-minor`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The coarse part.
    pub major: u64,
    /// The fine part.
    pub minor: u64,
}

impl Position {
    /// Before everything.
    pub const START: Self = Self { major: 0, minor: 0 };

    /// A position of these parts.
    pub const fn new(major: u64, minor: u64) -> Self {
        Self { major, minor }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.major, self.minor)
    }
}

impl FromStr for Position {
    type Err = BadText;

    fn from_str(text: &str) -> Result<Self, BadText> {
        let parse = || {
            let (major, minor) = text.split_once('-')?;
            Some(Self { major: decimal(major)?, minor: decimal(minor)? })
        };
        parse().ok_or(BadText("position"))
    }
}
