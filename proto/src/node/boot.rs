//! Which life of a node this is: a durable counter that never hands out the same number twice.
//!
//! [`Renew`] makes the new epoch durable before it is given out.

use alloc::string::String;
use alloc::vec::Vec;
use thiserror::Error;

use crate::codec::{Reader, Writer};
use crate::identity::Incarnation;
use crate::storage::renew::{Content, Names, Renew};
use crate::storage::{StoreError, StoreOp, StoreResult, Ticket};

/// Name of the file with the epoch.
pub const FILE: &str = "boot";
/// Name of the file that is locked while a node lives.
pub const LOCK: &str = "lock";
/// Where the next content is built.
const TEMP: &str = "boot.tmp";
const MAGIC: &[u8; 8] = b"net boot";
const VERSION: u8 = 1;
/// Magic, version, epoch, check.
const LEN: usize = 8 + 1 + 8 + 16;

/// Why a node may not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BootError {
    /// Another node lives in this directory.
    #[error("another node uses this directory")]
    InUse,
    /// The file is not whole. Restore it, or start under a new identity.
    #[error("the file `boot` is damaged: {0}; it is left untouched")]
    Damaged(&'static str),
    /// A newer program wrote the file.
    #[error("the file `boot` has version {0}, this program knows version {VERSION}")]
    Version(u8),
    /// The counter is at its end.
    #[error("the boot epoch is used up")]
    Exhausted,
    /// The storage failed.
    #[error("storage: {0}")]
    Store(#[from] StoreError),
}

/// The last epoch, and what the next one has to respect.
#[derive(Debug)]
struct Epoch {
    floor: u64,
    epoch: u64,
}

impl Content for Epoch {
    type Error = BootError;
    const LEN: usize = LEN;
    const IN_USE: BootError = BootError::InUse;

    fn next(&mut self, last: Option<&[u8]>) -> Result<Vec<u8>, BootError> {
        let next = match last {
            Some(bytes) => decode(bytes)?.checked_add(1).ok_or(BootError::Exhausted)?,
            None => 1,
        };
        self.epoch = next.max(self.floor);
        Ok(encode(self.epoch))
    }
}

/// Raises the boot epoch. A machine: take an operation, hand back its result, until it answers.
#[derive(Debug)]
pub struct Boot {
    file: Renew<Epoch>,
    random: u64,
}

impl Boot {
    /// `floor`: the epoch is at least this (the wall clock in µs, so that a directory restored from
    /// a backup, or made after lives without one, still rises). `random`: 64 fresh random bits.
    pub fn new(floor: u64, random: u64) -> Self {
        let names = Names { file: FILE.into(), lock: LOCK.into(), temp: TEMP.into() };
        Self { file: Renew::new(names, Epoch { floor, epoch: 0 }), random }
    }

    /// The next operation, if one is due. There is never more than one under way.
    #[must_use]
    pub fn poll_store(&mut self) -> Option<(Ticket, StoreOp)> {
        self.file.poll_store()
    }

    /// The result of the operation under `ticket`. Results of others are ignored.
    pub fn handle_stored(&mut self, ticket: Ticket, result: StoreResult) {
        self.file.handle_stored(ticket, result);
    }

    /// The answer, once. The directory stays locked for as long as the storage lives.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Result<Incarnation, BootError>> {
        let (epoch, random) = (self.file.content().epoch, self.random);
        Some(self.file.poll_event()?.map(|()| Incarnation { epoch, random }))
    }
}

pub(crate) fn encode(epoch: u64) -> Vec<u8> {
    let mut bytes = alloc::vec![0; LEN];
    let mut w = Writer::new(&mut bytes);
    // The buffer has the right size; a failure would leave zeros, which no reader accepts.
    let _ = w.put(MAGIC).and_then(|()| w.u8(VERSION)).and_then(|()| w.put(&epoch.to_le_bytes()));
    let check = check(&bytes);
    if let Some(end) = bytes.get_mut(LEN - 16..) {
        end.copy_from_slice(&check);
    }
    bytes
}

fn check(bytes: &[u8]) -> [u8; 16] {
    let hash = blake3::hash(bytes.get(..LEN - 16).unwrap_or(&[]));
    let mut out = [0; 16];
    out.copy_from_slice(&hash.as_bytes()[..16]);
    out
}

pub(crate) fn decode(bytes: &[u8]) -> Result<u64, BootError> {
    let damaged = BootError::Damaged;
    let mut r = Reader::new(bytes);
    let magic: [u8; 8] = r.array("magic").map_err(|_| damaged("it is too short"))?;
    if &magic != MAGIC {
        return Err(damaged("it does not begin as it should"));
    }
    let version = r.u8("version").map_err(|_| damaged("it is too short"))?;
    if version != VERSION {
        return Err(BootError::Version(version));
    }
    if bytes.len() != LEN {
        return Err(damaged("its length is wrong"));
    }
    let epoch = r.array("epoch").map_err(|_| damaged("it is too short"))?;
    if r.rest() != check(bytes) {
        return Err(damaged("its checksum does not match"));
    }
    Ok(u64::from_le_bytes(epoch))
}

/// The record of a start, as the fuzzers' seeds need it.
#[doc(hidden)]
pub fn record(epoch: u64) -> Vec<u8> {
    encode(epoch)
}

/// Names that a boot uses in its directory.
pub fn files() -> [String; 3] {
    [FILE.into(), LOCK.into(), TEMP.into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Stored;
    use alloc::collections::BTreeMap;

    /// Just enough of a disk; the crash tests are where the real stores are.
    fn run(files: &mut BTreeMap<String, Vec<u8>>, floor: u64) -> Result<Incarnation, BootError> {
        let mut boot = Boot::new(floor, 7);
        while let Some((ticket, op)) = boot.poll_store() {
            assert!(boot.poll_store().is_none(), "one at a time");
            let result = match op {
                StoreOp::Open { file, .. } => {
                    Ok(Stored::Opened { len: files.entry(file).or_default().len() as u64 })
                }
                StoreOp::List => Ok(Stored::Names(files.keys().cloned().collect())),
                StoreOp::Read { file, len, .. } => {
                    Ok(Stored::Data(files[&file].iter().take(len as usize).copied().collect()))
                }
                StoreOp::Write { file, data, .. } => {
                    files.insert(file, data);
                    Ok(Stored::Done)
                }
                StoreOp::Truncate { .. } | StoreOp::Sync { .. } => Ok(Stored::Done),
                StoreOp::Rename { from, to } => {
                    let data = files.remove(&from).unwrap();
                    files.insert(to, data);
                    Ok(Stored::Done)
                }
                StoreOp::Remove { .. } => Err(StoreError::NotFound),
            };
            boot.handle_stored(ticket, result);
        }
        boot.poll_event().unwrap()
    }

    #[test]
    fn golden() {
        let want = "6e657420626f6f740107000000000000006c6da94d6a128f243a2da93941e130e6";
        let mut hex = String::new();
        for byte in encode(7) {
            hex.push_str(&alloc::format!("{byte:02x}"));
        }
        assert_eq!(hex, want);
        assert_eq!(decode(&encode(u64::MAX)), Ok(u64::MAX));
    }

    #[test]
    fn epochs_rise() {
        let mut files = BTreeMap::new();
        assert_eq!(run(&mut files, 0), Ok(Incarnation { epoch: 1, random: 7 }));
        assert_eq!(run(&mut files, 0).unwrap().epoch, 2);
        assert_eq!(run(&mut files, 1000).unwrap().epoch, 1000, "the floor lifts");
        assert_eq!(run(&mut files, 5).unwrap().epoch, 1001, "and a clock set back does not lower");
    }

    #[test]
    fn a_damaged_file_is_refused_and_left_alone() {
        let good = encode(9);
        for cut in 0..good.len() {
            assert!(decode(&good[..cut]).is_err(), "{cut} bytes");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut files = BTreeMap::from([(String::from(FILE), bad.clone())]);
            assert!(run(&mut files, 0).is_err(), "bit {bit}");
            assert_eq!(files[FILE], bad);
        }
        let mut long = good;
        long.push(0);
        assert!(decode(&long).is_err());
        assert_eq!(run(&mut BTreeMap::from([(FILE.into(), encode(u64::MAX))]), 0), Err(BootError::Exhausted));
    }

    #[test]
    fn a_stray_result_changes_nothing() {
        let mut boot = Boot::new(0, 0);
        boot.handle_stored(Ticket(0), Ok(Stored::Done));
        let (ticket, _) = boot.poll_store().unwrap();
        boot.handle_stored(Ticket(99), Err(StoreError::Io));
        assert!(boot.poll_event().is_none());
        boot.handle_stored(ticket, Err(StoreError::Locked));
        assert_eq!(boot.poll_event(), Some(Err(BootError::InUse)));
        assert!(boot.poll_store().is_none());
    }
}
