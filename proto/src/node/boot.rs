//! Which life of a node this is: a durable counter that never hands out the same number twice.
//!
//! ```text
//! Lock ─▶ List ─▶ (Open ─▶ Read)? ─▶ OpenTemp ─▶ Cut ─▶ Write ─▶ Sync ─▶ Rename ─▶ Done
//!   └───────┴────────┴───────┴──────────┴─────────┴───────┴───────┴───────┴─────▶ Failed
//! ```
//!
//! The new epoch is durable under its final name *before* it is given out. A crash at any point
//! leaves either the old file or the new one, whose epoch nobody used yet. A file that is not whole
//! is refused and left as it is: guessing an epoch could repeat one.

use alloc::string::String;
use alloc::vec::Vec;
use thiserror::Error;

use crate::codec::{Reader, Writer};
use crate::identity::Incarnation;
use crate::storage::{StoreError, StoreOp, StoreResult, Stored, Ticket};

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Lock,
    List,
    Open,
    Read,
    OpenTemp,
    Cut,
    Write,
    Sync,
    Rename,
    Over,
}

/// Raises the boot epoch. A machine: take an operation, hand back its result, until it answers.
#[derive(Debug)]
pub struct Boot {
    state: State,
    /// The operation of this state was given out.
    asked: bool,
    floor: u64,
    random: u64,
    epoch: u64,
    answer: Option<Result<Incarnation, BootError>>,
}

impl Boot {
    /// `floor`: the epoch is at least this (the wall clock in µs, so that a directory restored from
    /// a backup, or made after lives without one, still rises). `random`: 64 fresh random bits.
    pub const fn new(floor: u64, random: u64) -> Self {
        Self { state: State::Lock, asked: false, floor, random, epoch: 0, answer: None }
    }

    /// The next operation, if one is due. There is never more than one under way.
    #[must_use]
    pub fn poll_store(&mut self) -> Option<(Ticket, StoreOp)> {
        if self.asked || self.state == State::Over {
            return None;
        }
        self.asked = true;
        let open = |file: &str, exclusive| StoreOp::Open { file: file.into(), exclusive, preallocate: 0 };
        let op = match self.state {
            State::Lock => open(LOCK, true),
            State::List => StoreOp::List,
            State::Open => open(FILE, false),
            // One byte more than a whole file, to notice a longer one.
            State::Read => StoreOp::Read { file: FILE.into(), offset: 0, len: LEN as u64 + 1 },
            State::OpenTemp => open(TEMP, false),
            State::Cut => StoreOp::Truncate { file: TEMP.into(), len: 0 },
            State::Write => StoreOp::Write { file: TEMP.into(), offset: 0, data: encode(self.epoch) },
            State::Sync => StoreOp::Sync { file: TEMP.into() },
            State::Rename => StoreOp::Rename { from: TEMP.into(), to: FILE.into() },
            State::Over => return None,
        };
        Some((self.ticket(), op))
    }

    const fn ticket(&self) -> Ticket {
        Ticket(self.state as u64)
    }

    /// The result of the operation under `ticket`. Results of others are ignored.
    pub fn handle_stored(&mut self, ticket: Ticket, result: StoreResult) {
        if !self.asked || ticket != self.ticket() {
            return;
        }
        self.asked = false;
        let next = match result {
            Ok(stored) => self.next(stored),
            Err(StoreError::Locked) if self.state == State::Lock => Err(BootError::InUse),
            Err(error) => Err(error.into()),
        };
        self.state = match next {
            Ok(State::Over) => {
                self.answer = Some(Ok(Incarnation { epoch: self.epoch, random: self.random }));
                State::Over
            }
            Ok(state) => state,
            Err(error) => {
                self.answer = Some(Err(error));
                State::Over
            }
        };
    }

    fn next(&mut self, stored: Stored) -> Result<State, BootError> {
        Ok(match (self.state, stored) {
            (State::Lock, _) => State::List,
            (State::List, Stored::Names(names)) if names.iter().any(|name| name == FILE) => State::Open,
            (State::List, Stored::Names(_)) => {
                self.epoch = self.floor.max(1);
                State::OpenTemp
            }
            (State::Open, _) => State::Read,
            (State::Read, Stored::Data(bytes)) => {
                let last = decode(&bytes)?;
                self.epoch = last.checked_add(1).ok_or(BootError::Exhausted)?.max(self.floor);
                State::OpenTemp
            }
            (State::OpenTemp, _) => State::Cut,
            (State::Cut, _) => State::Write,
            (State::Write, _) => State::Sync,
            (State::Sync, _) => State::Rename,
            (State::Rename | State::Over, _) => State::Over,
            // The storage answered something else than was asked.
            (State::List | State::Read, _) => return Err(BootError::Store(StoreError::Io)),
        })
    }

    /// The answer, once. The directory stays locked for as long as the storage lives.
    #[must_use]
    pub const fn poll_event(&mut self) -> Option<Result<Incarnation, BootError>> {
        self.answer.take()
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
