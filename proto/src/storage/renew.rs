//! A small file that is locked, read, and replaced by its next content before anybody goes on: counters
//! that may never hand out a number twice.
//!
//! ```text
//! Lock ─▶ List ─▶ (Open ─▶ Read)? ─▶ OpenTemp ─▶ Cut ─▶ Write ─▶ Sync ─▶ Rename ─▶ Done
//!   └───────┴────────┴───────┴──────────┴─────────┴───────┴───────┴───────┴─────▶ Failed
//! ```
//!
//! The next content is durable under its final name *before* the answer. A crash at any point leaves
//! either the old file or the new one, whose content nobody used yet. What cannot be read is refused and
//! left as it is: a guess could repeat a number.

use alloc::string::String;
use alloc::vec::Vec;

use super::{StoreError, StoreOp, StoreResult, Stored, Ticket};

/// What the file holds.
pub trait Content {
    /// Why the file cannot be renewed.
    type Error: From<StoreError>;
    /// Length of a whole file, in bytes.
    const LEN: usize;
    /// Somebody else holds the lock.
    const IN_USE: Self::Error;

    /// The next content; `last` is `None` if there is no file yet.
    fn next(&mut self, last: Option<&[u8]>) -> Result<Vec<u8>, Self::Error>;
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

/// Names of the files that take part.
#[derive(Clone, Debug)]
pub struct Names {
    /// With the content.
    pub file: String,
    /// Locked for as long as the storage lives; may be the file of something larger.
    pub lock: String,
    /// Where the next content is built.
    pub temp: String,
}

/// Renews a file. A machine: take an operation, hand back its result, until it answers.
#[derive(Debug)]
pub struct Renew<C: Content> {
    names: Names,
    state: State,
    /// The operation of this state was given out.
    asked: bool,
    content: C,
    next: Vec<u8>,
    answer: Option<Result<(), C::Error>>,
}

impl<C: Content> Renew<C> {
    /// Nothing is done before the first [`Self::poll_store`].
    pub const fn new(names: Names, content: C) -> Self {
        Self { names, state: State::Lock, asked: false, content, next: Vec::new(), answer: None }
    }

    /// The content as [`Content::next`] left it.
    pub const fn content(&self) -> &C {
        &self.content
    }

    /// The next operation, if one is due. There is never more than one under way.
    #[must_use]
    pub fn poll_store(&mut self) -> Option<(Ticket, StoreOp)> {
        if self.asked || self.state == State::Over {
            return None;
        }
        self.asked = true;
        let open = |file: &String, exclusive| StoreOp::Open { file: file.clone(), exclusive };
        let Names { file, lock, temp } = &self.names;
        let op = match self.state {
            State::Lock => open(lock, true),
            State::List => StoreOp::List,
            State::Open => open(file, false),
            // One byte more than a whole file, to notice a longer one.
            State::Read => StoreOp::Read { file: file.clone(), offset: 0, len: C::LEN as u64 + 1 },
            State::OpenTemp => open(temp, false),
            State::Cut => StoreOp::Truncate { file: temp.clone(), len: 0 },
            State::Write => {
                StoreOp::Write { file: temp.clone(), offset: 0, data: core::mem::take(&mut self.next) }
            }
            State::Sync => StoreOp::Sync { file: temp.clone() },
            State::Rename => StoreOp::Rename { from: temp.clone(), to: file.clone() },
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
            Ok(stored) => self.step(stored),
            Err(StoreError::Locked) if self.state == State::Lock => Err(C::IN_USE),
            Err(error) => Err(error.into()),
        };
        self.state = next.unwrap_or_else(|error| {
            self.answer = Some(Err(error));
            State::Over
        });
    }

    fn step(&mut self, stored: Stored) -> Result<State, C::Error> {
        Ok(match (self.state, stored) {
            (State::Lock, _) => State::List,
            (State::List, Stored::Names(names)) if names.contains(&self.names.file) => State::Open,
            (State::List, Stored::Names(_)) => {
                self.next = self.content.next(None)?;
                State::OpenTemp
            }
            (State::Open, _) => State::Read,
            (State::Read, Stored::Data(bytes)) => {
                self.next = self.content.next(Some(&bytes))?;
                State::OpenTemp
            }
            (State::OpenTemp, _) => State::Cut,
            (State::Cut, _) => State::Write,
            (State::Write, _) => State::Sync,
            (State::Sync, _) => State::Rename,
            (State::Rename | State::Over, _) => {
                self.answer = Some(Ok(()));
                State::Over
            }
            // The storage answered something else than was asked.
            (State::List | State::Read, _) => return Err(StoreError::Io.into()),
        })
    }

    /// The answer, once: the next content is durable. The lock stays for as long as the storage lives.
    #[must_use]
    pub const fn poll_event(&mut self) -> Option<Result<(), C::Error>> {
        self.answer.take()
    }
}
