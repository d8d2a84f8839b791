//! The sending end without the network: which files go, from where, as messages.

use std::fs::File;
use std::io::{self, Read};

use blake3::Hasher;

use super::BLOCK;
use super::part::hash_next;
use super::scan::Plan;
use super::wire::{DATA, Have, MAX_BATCH, Reason, Reply, Request};

/// What is known about the entries at the receiver.
#[derive(Debug)]
pub struct Ledger {
    verified: Vec<bool>,
    failed: Vec<Option<Reason>>,
    have: Vec<Have>,
    /// Bytes of whole and partly received files that need not be sent.
    pub here: u64,
}

/// What a reply means.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Go on listening.
    Listen,
    /// Send what [`Ledger::wants`] says.
    Ready,
    /// Everything is said.
    End,
}

/// The receiver broke the protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the receiver broke the transfer protocol")]
pub struct BadReply;

impl Ledger {
    /// Nothing is known.
    pub fn new(plan: &Plan) -> Self {
        let count = plan.entries.len();
        Self { verified: vec![false; count], failed: vec![None; count], have: Vec::new(), here: 0 }
    }

    /// Takes in a reply.
    pub fn handle(&mut self, plan: &Plan, message: &[u8]) -> Result<Step, BadReply> {
        let slot =
            |index: u64| usize::try_from(index).ok().filter(|i| *i < plan.entries.len()).ok_or(BadReply);
        let size = |index: usize| plan.entries[index].file().map_or(0, |(size, _)| size);
        match Reply::decode(message).map_err(|_| BadReply)? {
            Reply::Have(list) => {
                for have in list {
                    let index = slot(have.index)?;
                    if have.len > size(index) || self.have.last().is_some_and(|last| last.index >= have.index)
                    {
                        return Err(BadReply);
                    }
                    self.here += have.len;
                    self.have.push(have);
                }
            }
            Reply::Ready => return Ok(Step::Ready),
            Reply::Verified(index) => self.verified[slot(index)?] = true,
            Reply::Failed(index, reason) => self.failed[slot(index)?] = Some(reason),
            Reply::End(verified) if verified == self.verified.iter().filter(|v| **v).count() as u64 => {
                return Ok(Step::End);
            }
            Reply::End(_) => return Err(BadReply),
        }
        Ok(Step::Listen)
    }

    /// Counts the files that are whole as here; for the time of [`Step::Ready`].
    pub fn whole(&self, plan: &Plan) -> u64 {
        let files = plan.entries.iter().zip(&self.verified).filter(|(_, verified)| **verified);
        files.filter_map(|(entry, _)| entry.file()).map(|(size, _)| size).sum()
    }

    /// The files to send, with what the receiver has of each.
    pub fn wants(&self, plan: &Plan) -> Vec<(usize, Option<Have>)> {
        let mut have = self.have.iter().peekable();
        let mut wants = Vec::new();
        for (index, entry) in plan.entries.iter().enumerate() {
            let part = have.next_if(|have| have.index == index as u64);
            if entry.file().is_some() && !self.verified[index] && self.failed[index].is_none() {
                wants.push((index, part.copied()));
            }
        }
        wants
    }

    /// How many entries are verified.
    pub fn verified(&self) -> usize {
        self.verified.iter().filter(|v| **v).count()
    }

    /// Entries that are not there, and why.
    pub fn failures(&self) -> impl Iterator<Item = (usize, Option<Reason>)> + '_ {
        let missing = self.verified.iter().enumerate().filter(|(_, verified)| !**verified);
        missing.map(|(index, _)| (index, self.failed[index]))
    }
}

/// The messages that begin a transfer.
pub fn manifest(plan: &Plan) -> impl Iterator<Item = Vec<u8>> + '_ {
    let batches = plan.entries.chunks(MAX_BATCH / 4).map(|batch| Request::Entries(batch.to_vec()).message());
    std::iter::once(Request::Hello(plan.entries.len() as u64).message()).chain(batches)
}

/// What happens while content is sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    /// So many bytes were handed over.
    Bytes(u64),
    /// So many bytes that the receiver has are not those of the file any more.
    Again(u64),
    /// A file could not be read to the length that it had.
    Broken(usize, String),
}

/// Calls `put` with the messages that carry the content of `wants`, and the last message.
pub fn content<E>(
    plan: &Plan,
    wants: &[(usize, Option<Have>)],
    mut put: impl FnMut(&[u8]) -> Result<(), E>,
    mut see: impl FnMut(Sent),
) -> Result<(), E> {
    let mut buf = vec![0; BLOCK + 1];
    buf[0] = DATA;
    for (index, have) in wants {
        let Some((size, _)) = plan.entries[*index].file() else { continue };
        let (mut file, from) = match open(plan, *index, have.as_ref()) {
            Ok(opened) => opened,
            Err(error) => {
                put(&Request::File { index: *index as u64, from: 0 }.message())?;
                // An empty file is complete for the receiver already.
                if size > 0 {
                    put(&Request::Broken.message())?;
                }
                see(Sent::Broken(*index, error.to_string()));
                continue;
            }
        };
        if let Some(have) = have.filter(|have| have.len != from) {
            see(Sent::Again(have.len));
        }
        put(&Request::File { index: *index as u64, from }.message())?;
        let mut left = size - from;
        while left > 0 {
            let want = left.min(BLOCK as u64) as usize;
            if let Err(error) = file.read_exact(&mut buf[1..=want]) {
                put(&Request::Broken.message())?;
                see(Sent::Broken(*index, error.to_string()));
                break;
            }
            put(&buf[..=want])?;
            see(Sent::Bytes(want as u64));
            left -= want as u64;
        }
    }
    put(&Request::Done.message())
}

/// The file, positioned behind what the receiver has, if that is how the file begins.
fn open(plan: &Plan, index: usize, have: Option<&Have>) -> io::Result<(File, u64)> {
    let mut file = File::open(&plan.sources[index])?;
    let Some(have) = have else { return Ok((file, 0)) };
    let mut hasher = Hasher::new();
    hash_next(&mut file, have.len, &mut hasher, |_| {})?;
    if hasher.finalize() == have.hash {
        return Ok((file, have.len));
    }
    Ok((File::open(&plan.sources[index])?, 0))
}
