//! Durable storage as an effect: a machine emits a [`StoreOp`] under a ticket and goes on only when
//! the matching [`StoreResult`] arrives. `docs/STORAGE.md` states the contract that every
//! implementation keeps.

pub mod renew;

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Names one outstanding effect; chosen by the machine that asked, echoed in the completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket(pub u64);

/// An operation on a file of the storage directory. `file` is a plain name: no separators.
///
/// Operations on one file happen in the order of submission. `Sync` covers every earlier write of
/// its file. Completion of an `Open` that created, of `Rename` and of `Remove` includes the sync of
/// the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StoreOp {
    /// Opens or creates a file.
    Open {
        /// File name.
        file: String,
        /// Take the advisory lock; fails with [`StoreError::Locked`] while another holder lives.
        exclusive: bool,
    },
    /// Writes `data` at `offset`, extending the file with zeros where needed.
    Write {
        /// File name.
        file: String,
        /// Byte offset.
        offset: u64,
        /// What to write.
        data: Vec<u8>,
    },
    /// Makes every earlier write of the file durable.
    Sync {
        /// File name.
        file: String,
    },
    /// Reads up to `len` bytes at `offset`; shorter at the end of the file.
    Read {
        /// File name.
        file: String,
        /// Byte offset.
        offset: u64,
        /// Most bytes to read.
        len: u64,
    },
    /// Cuts or extends the file to `len` bytes.
    Truncate {
        /// File name.
        file: String,
        /// New length.
        len: u64,
    },
    /// Renames a file, replacing the target atomically.
    Rename {
        /// Old name.
        from: String,
        /// New name.
        to: String,
    },
    /// Removes a file.
    Remove {
        /// File name.
        file: String,
    },
    /// Lists the names in the directory, sorted.
    List,
}

/// What came of a [`StoreOp`].
pub type StoreResult = Result<Stored, StoreError>;

/// A completed operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Stored {
    /// The file is open; its length in bytes.
    Opened {
        /// Length of the file, in bytes.
        len: u64,
    },
    /// Done, with nothing to report.
    Done,
    /// What was read.
    Data(Vec<u8>),
    /// The names in the directory.
    Names(Vec<String>),
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StoreError {
    /// No such file.
    #[error("no such file")]
    NotFound,
    /// Another process or handle holds the exclusive lock.
    #[error("the file is locked by another holder")]
    Locked,
    /// The name is empty, has a separator, or is reserved.
    #[error("the file name is not allowed")]
    BadName,
    /// The device is full.
    #[error("the device is full")]
    Full,
    /// Permission was denied.
    #[error("permission was denied")]
    Denied,
    /// An input or output error.
    #[error("input or output error")]
    Io,
    /// The node was started without a directory.
    #[error("this node has no storage directory")]
    NoDirectory,
    /// An earlier sync of this file failed; nothing about it can be promised any more.
    #[error("an earlier sync of this file failed")]
    Poisoned,
}

/// An implementation of the storage effect, driven from outside by polling.
pub trait Storage: Send {
    /// Starts an operation. Never blocks.
    fn submit(&mut self, ticket: Ticket, op: StoreOp);
    /// The next completed operation, if any.
    fn poll_done(&mut self, cx: &mut core::task::Context<'_>) -> core::task::Poll<(Ticket, StoreResult)>;
    /// For a task that has a thread of its own: from now on [`Storage::poll_done`] carries out what was submitted,
    /// and blocks for as long as that takes. False, and nothing changed, where there is no such choice. Only before
    /// the first operation or when every result was taken.
    fn inline(&mut self) -> bool {
        false
    }
}
