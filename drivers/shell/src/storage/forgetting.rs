//! A disk in memory that forgets what was not synced when it crashes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use net_proto::storage::{Storage, StoreError, StoreOp, StoreResult, Stored, Ticket};

use super::check_name;
use crate::bell::lock;

/// A change of a file that is not durable yet.
#[derive(Clone, Debug)]
pub enum Change {
    /// Bytes at an offset; the file grows with zeros where needed.
    Write {
        /// Where.
        offset: usize,
        /// What.
        data: Vec<u8>,
    },
    /// Another length.
    Truncate(usize),
}

impl Change {
    /// Makes it.
    pub fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => {
                let end = offset + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(data);
            }
            Self::Truncate(len) => bytes.resize(*len, 0),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Inode {
    synced: Vec<u8>,
    /// Not durable yet, in order.
    changes: Vec<Change>,
}

impl Inode {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        self.changes.iter().for_each(|change| change.apply(&mut bytes));
        bytes
    }
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Inode>,
    /// Which holder has the exclusive lock.
    locks: BTreeMap<String, u64>,
    holders: u64,
    /// Rises with every crash: handles from before are dead.
    life: u64,
    fail_sync: bool,
}

/// Largest file that the disk takes, in bytes.
const MAX_FILE: u64 = 1 << 30;

/// A disk in memory. It outlives the [`Forgetting`] handles that are opened on it.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// A handle, like a process that starts.
    pub fn open(&self) -> Forgetting {
        let mut state = lock(&self.0);
        state.holders += 1;
        Forgetting {
            disk: self.clone(),
            holder: state.holders,
            life: state.life,
            open: BTreeSet::new(),
            poisoned: BTreeSet::new(),
            waiting: VecDeque::new(),
        }
    }

    /// The power fails. Of each change that was not synced `keep` says whether it reached the
    /// medium: any subset may have. All handles are dead, all locks are gone.
    pub fn crash(&self, mut keep: impl FnMut() -> bool) {
        let mut state = lock(&self.0);
        state.life += 1;
        state.locks.clear();
        for inode in state.files.values_mut() {
            for change in std::mem::take(&mut inode.changes) {
                if keep() {
                    change.apply(&mut inode.synced);
                }
            }
        }
    }

    /// From now on syncs fail, or succeed again.
    pub fn fail_sync(&self, on: bool) {
        lock(&self.0).fail_sync = on;
    }

    /// What a file holds now.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        lock(&self.0).files.get(name).map(Inode::bytes)
    }

    /// Puts a durable file there.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let inode = Inode { synced: bytes.to_vec(), changes: Vec::new() };
        lock(&self.0).files.insert(name.into(), inode);
    }
}

/// A handle on a [`Disk`]. Operations happen when their completion is polled, one at a time.
#[derive(Debug)]
pub struct Forgetting {
    disk: Disk,
    holder: u64,
    life: u64,
    open: BTreeSet<String>,
    poisoned: BTreeSet<String>,
    waiting: VecDeque<(Ticket, StoreOp)>,
}

impl Storage for Forgetting {
    fn submit(&mut self, ticket: Ticket, op: StoreOp) {
        self.waiting.push_back((ticket, op));
    }

    fn poll_done(&mut self, _cx: &mut Context<'_>) -> Poll<(Ticket, StoreResult)> {
        match self.waiting.pop_front() {
            Some((ticket, op)) => Poll::Ready((ticket, self.run(op))),
            // Only a `submit`, which has `&mut self` too, changes that.
            None => Poll::Pending,
        }
    }
}

impl Drop for Forgetting {
    fn drop(&mut self) {
        let mut state = lock(&self.disk.0);
        state.locks.retain(|_, holder| *holder != self.holder);
    }
}

impl Forgetting {
    fn run(&mut self, op: StoreOp) -> StoreResult {
        let disk = self.disk.clone();
        let mut state = lock(&disk.0);
        if state.life != self.life {
            return Err(StoreError::Io);
        }
        match op {
            StoreOp::Open { file, exclusive, .. } => {
                check_name(&file)?;
                if self.poisoned.contains(&file) {
                    return Err(StoreError::Poisoned);
                }
                if exclusive {
                    let holder = *state.locks.entry(file.clone()).or_insert(self.holder);
                    if holder != self.holder {
                        return Err(StoreError::Locked);
                    }
                }
                let len = state.files.entry(file.clone()).or_default().bytes().len() as u64;
                self.open.insert(file);
                Ok(Stored::Opened { len })
            }
            StoreOp::Write { file, offset, data } => {
                if offset.saturating_add(data.len() as u64) > MAX_FILE {
                    return Err(StoreError::Full);
                }
                let change = Change::Write { offset: offset as usize, data };
                self.inode(&mut state, &file)?.changes.push(change);
                Ok(Stored::Done)
            }
            StoreOp::Truncate { file, len } => {
                if len > MAX_FILE {
                    return Err(StoreError::Full);
                }
                self.inode(&mut state, &file)?.changes.push(Change::Truncate(len as usize));
                Ok(Stored::Done)
            }
            StoreOp::Sync { file } => {
                let fail = state.fail_sync;
                let inode = self.inode(&mut state, &file)?;
                if fail {
                    self.poisoned.insert(file);
                    return Err(StoreError::Io);
                }
                inode.synced = inode.bytes();
                inode.changes.clear();
                Ok(Stored::Done)
            }
            StoreOp::Read { file, offset, len } => {
                let bytes = self.inode(&mut state, &file)?.bytes();
                let start = (offset as usize).min(bytes.len());
                let end = start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX)).min(bytes.len());
                Ok(Stored::Data(bytes[start..end].to_vec()))
            }
            StoreOp::Rename { from, to } => {
                check_name(&from)?;
                check_name(&to)?;
                if self.poisoned.contains(&from) {
                    return Err(StoreError::Poisoned);
                }
                let inode = state.files.remove(&from).ok_or(StoreError::NotFound)?;
                state.files.insert(to.clone(), inode);
                self.open.remove(&to);
                if self.open.remove(&from) {
                    self.open.insert(to);
                }
                Ok(Stored::Done)
            }
            StoreOp::Remove { file } => {
                check_name(&file)?;
                state.files.remove(&file).ok_or(StoreError::NotFound)?;
                self.open.remove(&file);
                Ok(Stored::Done)
            }
            StoreOp::List => Ok(Stored::Names(state.files.keys().cloned().collect())),
            _ => Err(StoreError::Io),
        }
    }

    fn inode<'a>(&self, state: &'a mut State, name: &str) -> Result<&'a mut Inode, StoreError> {
        check_name(name)?;
        if self.poisoned.contains(name) {
            return Err(StoreError::Poisoned);
        }
        if !self.open.contains(name) {
            return Err(StoreError::NotFound);
        }
        state.files.get_mut(name).ok_or(StoreError::NotFound)
    }
}
