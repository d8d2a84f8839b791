//! Who a producer is, over restarts: an id that stays and an incarnation that rises.
//!
//! The incarnation is durable before anybody uses it ([`Renew`]), and the file is locked while the producer
//! lives. So no two lives ever name different events alike. A file that is not ours is refused as well.

use alloc::string::String;
use alloc::vec::Vec;
use thiserror::Error;

use super::crc::crc32c;
use super::id::ProducerId;
use crate::codec::{Reader, Writer};
use crate::storage::renew::{Content, Names, Renew};
use crate::storage::{StoreError, StoreOp, StoreResult, Ticket};

const MAGIC: &[u8; 8] = b"net prod";
const VERSION: u8 = 1;
/// Magic, version, producer, incarnation, CRC-32C of all before.
const LEN: usize = 8 + 1 + 8 + 8 + 4;

/// Why a producer may not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProducerError {
    /// Another bus uses the file.
    #[error("another bus uses this identity file")]
    InUse,
    /// The file is not whole, or something else.
    #[error("the identity file {0}; it is left untouched")]
    Damaged(&'static str),
    /// A newer program wrote the file.
    #[error("the identity file has version {0}, this program knows version {VERSION}")]
    Version(u8),
    /// The counter is at its end.
    #[error("the incarnations are used up")]
    Exhausted,
    /// The storage failed.
    #[error("storage: {0}")]
    Store(#[from] StoreError),
}

/// Who the producer is, and what its next incarnation has to respect.
#[derive(Debug)]
struct Life {
    floor: u64,
    producer: ProducerId,
    incarnation: u64,
}

impl Content for Life {
    type Error = ProducerError;
    const LEN: usize = LEN;
    const IN_USE: ProducerError = ProducerError::InUse;

    fn next(&mut self, last: Option<&[u8]>) -> Result<Vec<u8>, ProducerError> {
        let next = match last {
            Some(bytes) => {
                let (producer, last) = decode_producer(bytes)?;
                self.producer = producer;
                if planted!(IncarnationReused) {
                    self.incarnation = last;
                    return Ok(record(producer, last));
                }
                last.checked_add(1).ok_or(ProducerError::Exhausted)?
            }
            None => 1,
        };
        self.incarnation = next.max(self.floor);
        Ok(record(self.producer, self.incarnation))
    }
}

/// Raises the incarnation. A machine: take an operation, hand back its result, until it answers.
#[derive(Debug)]
pub struct ProducerFile(Renew<Life>);

impl ProducerFile {
    /// `fresh`: the id if there is no file yet. `floor`: the incarnation is at least this (the wall
    /// clock in µs, so that a file restored from a backup still rises).
    pub fn new(file: String, fresh: ProducerId, floor: u64) -> Self {
        let with = |end: &str| alloc::format!("{file}{end}");
        let names = Names { lock: with(".lock"), temp: with(".tmp"), file };
        Self(Renew::new(names, Life { floor, producer: fresh, incarnation: 0 }))
    }

    /// The next operation, if one is due. There is never more than one under way.
    #[must_use]
    pub fn poll_store(&mut self) -> Option<(Ticket, StoreOp)> {
        self.0.poll_store()
    }

    /// The result of the operation under `ticket`. Results of others are ignored.
    pub fn handle_stored(&mut self, ticket: Ticket, result: StoreResult) {
        self.0.handle_stored(ticket, result);
    }

    /// The answer, once: the id and this life's incarnation. The file stays locked for as long as
    /// the storage lives.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Result<(ProducerId, u64), ProducerError>> {
        let life = self.0.content();
        let answer = (life.producer, life.incarnation);
        Some(self.0.poll_event()?.map(|()| answer))
    }
}

/// The content of an identity file.
#[doc(hidden)]
pub fn record(producer: ProducerId, incarnation: u64) -> Vec<u8> {
    let mut bytes = alloc::vec![0; LEN];
    let mut w = Writer::new(&mut bytes);
    // The buffer has the right size; a failure would leave zeros, which no reader accepts.
    let _ = w
        .put(MAGIC)
        .and_then(|()| w.u8(VERSION))
        .and_then(|()| w.u64(producer.0))
        .and_then(|()| w.u64(incarnation));
    let (body, check) = bytes.split_at_mut(LEN - 4);
    check.copy_from_slice(&crc32c(body).to_le_bytes());
    bytes
}

/// Reads an identity file.
pub fn decode_producer(bytes: &[u8]) -> Result<(ProducerId, u64), ProducerError> {
    let damaged = ProducerError::Damaged;
    let short = |_| damaged("is too short");
    let mut r = Reader::new(bytes);
    if &r.array::<8>("magic").map_err(short)? != MAGIC {
        return Err(damaged("is something else"));
    }
    let version = r.u8("version").map_err(short)?;
    if version != VERSION {
        return Err(ProducerError::Version(version));
    }
    let (producer, incarnation) = (r.u64("producer").map_err(short)?, r.u64("incarnation").map_err(short)?);
    let check = r.u32("check").map_err(short)?;
    if !r.is_empty() {
        return Err(damaged("is too long"));
    }
    if bytes.get(..LEN - 4).is_none_or(|body| crc32c(body) != check) {
        return Err(damaged("is damaged: its checksum does not match"));
    }
    Ok((ProducerId(producer), incarnation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_and_every_damage_is_seen() {
        let good = record(ProducerId(0x0102), 7);
        assert_eq!(&good[..25], b"net prod\x01\x02\x01\0\0\0\0\0\0\x07\0\0\0\0\0\0\0");
        assert_eq!(decode_producer(&good), Ok((ProducerId(0x0102), 7)));
        for cut in 0..good.len() {
            assert!(decode_producer(&good[..cut]).is_err());
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_producer(&bad).is_err(), "bit {bit}");
        }
        assert!(decode_producer(&[good, alloc::vec![0]].concat()).is_err());
    }
}
