//! The receiving end, as a machine of messages and files: no network, so that tests drive it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use blake3::Hasher;

use super::manifest::{self, Manifest, NameError};
use super::part::{self, Part};
use super::wire::{Entry, Hash, Have, Kind, MAX_BATCH, Reason, Reply, Request};

/// Why a transfer ends early.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The message is none of the protocol's, or comes at the wrong time.
    #[error("the sender broke the transfer protocol: {0}")]
    Protocol(&'static str),
    /// The manifest has names that are not accepted.
    #[error("the sender named something that is not accepted: {0}")]
    Name(#[from] NameError),
}

impl From<net_proto::codec::DecodeError> for Broken {
    fn from(_: net_proto::codec::DecodeError) -> Self {
        Self::Protocol("a malformed message")
    }
}

enum Stage {
    Hello,
    Entries(u64),
    /// Between files.
    Content,
    /// In the middle of one.
    File {
        index: usize,
        part: Box<Part>,
    },
    /// The file failed here; its content is dropped until the next.
    Skip,
    Over,
}

/// What is told to the one who watches.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// The manifest is complete: files, bytes in all, bytes that are here already.
    Begins {
        /// Files.
        files: u64,
        /// Bytes of all files.
        bytes: u64,
        /// Of those, here already.
        here: u64,
    },
    /// So many bytes arrived.
    Bytes(u64),
    /// A file is complete.
    Verified(usize),
    /// A file is not.
    Failed(usize, Reason, String),
    /// The sender said everything; so many entries are verified.
    Over(u64),
}

/// The receiving end.
pub struct Receiver {
    root: PathBuf,
    keep: bool,
    manifest: Manifest,
    stage: Stage,
    /// Which entries are verified.
    done: Vec<bool>,
    /// Which were answered with a failure.
    failed: Vec<bool>,
}

impl Receiver {
    /// Receives into `root`, which exists. `keep` leaves other content alone.
    pub fn new(root: &Path, keep: bool) -> Self {
        Self {
            root: root.to_path_buf(),
            keep,
            manifest: Manifest::default(),
            stage: Stage::Hello,
            done: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// The entries named so far.
    pub fn entries(&self) -> &[Entry] {
        self.manifest.entries()
    }

    /// Whether the sender said everything, and was told what came of it.
    pub const fn over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// Whether every entry is there.
    pub fn complete(&self) -> bool {
        self.over() && self.done.iter().all(|done| *done)
    }

    /// Takes in a message; `reply` and `see` are called with what follows from it.
    pub fn handle(
        &mut self,
        message: &[u8],
        reply: &mut dyn FnMut(Reply),
        see: &mut dyn FnMut(Seen),
    ) -> Result<(), Broken> {
        let request = Request::decode(message)?;
        match (std::mem::replace(&mut self.stage, Stage::Over), request) {
            (Stage::Hello, Request::Hello(count)) => {
                if count > manifest::MAX_ENTRIES {
                    return Err(NameError::TooMany.into());
                }
                self.expect(count, reply, see);
            }
            (Stage::Entries(left), Request::Entries(entries)) => {
                let count = entries.len() as u64;
                if count == 0 || count > left {
                    return Err(Broken::Protocol("not as many entries as it said"));
                }
                entries.into_iter().try_for_each(|entry| self.manifest.push(entry))?;
                self.expect(left - count, reply, see);
            }
            (Stage::Content | Stage::Skip, Request::File { index, from }) => {
                self.begin(index, from, reply, see)?;
            }
            (Stage::File { index, mut part }, Request::Data(bytes)) => {
                let (size, _) = self.file(index).ok_or(Broken::Protocol("no such file"))?;
                if bytes.is_empty() || bytes.len() as u64 > size - part.len() {
                    return Err(Broken::Protocol("content beyond the end of a file"));
                }
                match part.write(bytes) {
                    Ok(()) => {
                        see(Seen::Bytes(bytes.len() as u64));
                        self.advance(index, part, reply, see);
                    }
                    Err(error) => self.fail(index, Reason::Storage, &error.to_string(), reply, see),
                }
            }
            (Stage::File { index, part }, Request::Broken) => {
                part.discard();
                self.fail(index, Reason::Changed, "the sender could not read it to its end", reply, see);
            }
            (Stage::Skip, Request::Data(_) | Request::Broken) => self.stage = Stage::Skip,
            (Stage::Content | Stage::Skip, Request::Done) => {
                let verified = self.done.iter().filter(|done| **done).count() as u64;
                part::tidy(&self.root);
                reply(Reply::End(verified));
                see(Seen::Over(verified));
            }
            _ => return Err(Broken::Protocol("a message at the wrong time")),
        }
        Ok(())
    }

    /// The sender is gone: keeps what arrived for the next attempt.
    pub fn interrupt(&mut self) {
        if let Stage::File { part, .. } = &mut self.stage {
            _ = part.checkpoint();
        }
    }

    fn file(&self, index: usize) -> Option<(u64, Hash)> {
        self.entries().get(index).and_then(Entry::file)
    }

    fn expect(&mut self, left: u64, reply: &mut dyn FnMut(Reply), see: &mut dyn FnMut(Seen)) {
        if left > 0 {
            self.stage = Stage::Entries(left);
            return;
        }
        self.stage = Stage::Content;
        self.survey(reply, see);
    }

    /// Says what is here already, and makes what needs no content.
    fn survey(&mut self, reply: &mut dyn FnMut(Reply), see: &mut dyn FnMut(Seen)) {
        let count = self.entries().len();
        self.done = vec![false; count];
        self.failed = vec![false; count];
        let (mut files, mut bytes, mut here) = (0, 0, 0);
        let mut have = Vec::new();
        for index in 0..count {
            let Some((size, hash)) = self.file(index) else {
                let made = manifest::place(&self.root, &self.entries()[index].path)
                    .and_then(|at| manifest::folder(&at));
                match made {
                    Ok(()) => self.verified(index, reply, see),
                    Err(error) => self.fail(index, Reason::Occupied, &error.to_string(), reply, see),
                }
                continue;
            };
            files += 1;
            bytes += size;
            match self.found(index, size, &hash) {
                Ok(Found::Whole) => {
                    here += size;
                    self.verified(index, reply, see);
                }
                Ok(Found::Part(0, _)) => {}
                Ok(Found::Part(len, hash)) => {
                    here += len;
                    have.push(Have { index: index as u64, len, hash });
                    if have.len() == MAX_BATCH {
                        reply(Reply::Have(std::mem::take(&mut have)));
                    }
                }
                Err((reason, why)) => self.fail(index, reason, &why, reply, see),
            }
        }
        if !have.is_empty() {
            reply(Reply::Have(have));
        }
        see(Seen::Begins { files, bytes, here });
        reply(Reply::Ready);
        self.stage = Stage::Content;
    }

    fn found(&self, index: usize, size: u64, hash: &Hash) -> Result<Found, (Reason, String)> {
        let entry = &self.entries()[index];
        let occupied = |why: &str| (Reason::Occupied, why.to_string());
        let storage = |e: io::Error| (Reason::Storage, e.to_string());
        let at = manifest::place(&self.root, &entry.path).map_err(|e| occupied(&e.to_string()))?;
        match fs::symlink_metadata(&at) {
            Ok(there) if there.is_dir() => return Err(occupied("a folder is in its place")),
            Ok(there)
                if there.is_file() && there.len() == size && same(&at, size, hash).map_err(storage)? =>
            {
                let executable = matches!(entry.kind, Kind::File { executable: true, .. });
                File::open(&at).and_then(|file| part::set_executable(&file, executable)).map_err(storage)?;
                return Ok(Found::Whole);
            }
            Ok(_) if self.keep => return Err(occupied("other content is in its place, and is to be kept")),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(storage(e)),
            _ => {}
        }
        let (len, hash) = Part::look(&self.root, hash).map_err(storage)?;
        Ok(Found::Part(if len > size { 0 } else { len }, hash))
    }

    fn begin(
        &mut self,
        index: u64,
        from: u64,
        reply: &mut dyn FnMut(Reply),
        see: &mut dyn FnMut(Seen),
    ) -> Result<(), Broken> {
        let index = usize::try_from(index).map_err(|_| Broken::Protocol("no such file"))?;
        let (_, hash) = self.file(index).ok_or(Broken::Protocol("no such file"))?;
        if self.done[index] || self.failed[index] {
            return Err(Broken::Protocol("a file that is settled"));
        }
        let open = || {
            let mut part = Box::new(Part::open(&self.root, &hash)?);
            if from == 0 {
                part.restart()?;
            }
            Ok(part)
        };
        match open() {
            Ok(part) if part.len() == from => self.advance(index, part, reply, see),
            Ok(_) => return Err(Broken::Protocol("content from where it was not asked for")),
            Err(error) => {
                let error: io::Error = error;
                self.fail(index, Reason::Storage, &error.to_string(), reply, see);
            }
        }
        Ok(())
    }

    /// Goes on with a file, or finishes it.
    fn advance(
        &mut self,
        index: usize,
        part: Box<Part>,
        reply: &mut dyn FnMut(Reply),
        see: &mut dyn FnMut(Seen),
    ) {
        let entry = &self.entries()[index];
        let Kind::File { size, hash, executable } = entry.kind else { return };
        if part.len() < size {
            self.stage = Stage::File { index, part };
            return;
        }
        if part.hash() != hash {
            part.discard();
            return self.fail(
                index,
                Reason::Changed,
                "the content has another hash than was said",
                reply,
                see,
            );
        }
        match manifest::place(&self.root, &entry.path).and_then(|at| part.finish(&at, executable)) {
            Ok(()) => {
                self.stage = Stage::Content;
                self.verified(index, reply, see);
            }
            Err(error) => self.fail(index, Reason::Storage, &error.to_string(), reply, see),
        }
    }

    fn verified(&mut self, index: usize, reply: &mut dyn FnMut(Reply), see: &mut dyn FnMut(Seen)) {
        self.done[index] = true;
        reply(Reply::Verified(index as u64));
        see(Seen::Verified(index));
    }

    fn fail(
        &mut self,
        index: usize,
        reason: Reason,
        why: &str,
        reply: &mut dyn FnMut(Reply),
        see: &mut dyn FnMut(Seen),
    ) {
        self.failed[index] = true;
        self.stage = Stage::Skip;
        reply(Reply::Failed(index as u64, reason));
        see(Seen::Failed(index, reason, why.to_string()));
    }
}

enum Found {
    Whole,
    Part(u64, Hash),
}

fn same(at: &Path, size: u64, hash: &Hash) -> io::Result<bool> {
    let mut hasher = Hasher::new();
    part::hash_next(&mut File::open(at)?, size, &mut hasher, |_| {})?;
    Ok(hasher.finalize() == *hash)
}
