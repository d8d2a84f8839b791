//! Small secrets in the state directory, each a file of its own.
//!
//! Layout: `net ` and the name cut or filled with zeros to four bytes, version 1, length of the
//! payload (u32, little-endian), the payload, and the first 16 bytes of SHA-256 over all before.

use std::future::poll_fn;

use net_proto::identity::Incarnation;
use net_proto::node::boot::{Boot, BootError};
use net_proto::storage::{Storage, StoreError, StoreOp, StoreResult, Stored, Ticket};
use ring::digest::{SHA256, digest};

/// Why the state directory cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The storage failed.
    #[error("file `{0}`: {1}")]
    Store(String, StoreError),
    /// A file is not whole; it is left untouched.
    #[error("file `{0}` is damaged; it is left untouched")]
    Damaged(String),
    /// The boot epoch cannot be raised.
    #[error(transparent)]
    Boot(#[from] BootError),
}

/// Files that belong to the node and not to its planes, with their temporary forms.
const RESERVED: [&str; 4] = ["lock", "boot", "identity", "mesh"];

/// Whether an operation touches a file of the node. Planes may list these names, no more: what is in them
/// is secret, and what locks the directory stays locked.
pub fn is_reserved(op: &StoreOp) -> bool {
    let held = |name: &str| RESERVED.contains(&name.strip_suffix(".tmp").unwrap_or(name));
    match op {
        StoreOp::Open { file, .. }
        | StoreOp::Write { file, .. }
        | StoreOp::Sync { file }
        | StoreOp::Read { file, .. }
        | StoreOp::Truncate { file, .. }
        | StoreOp::Remove { file } => held(file),
        StoreOp::Rename { from, to } => held(from) || held(to),
        StoreOp::List => false,
        // A newer operation than this program knows.
        _ => true,
    }
}

const VERSION: u8 = 1;
const HEAD: usize = 13;
const CHECK: usize = 16;
/// Longest payload, in bytes.
const MAX: u64 = 4096;

/// Runs operations one after the other.
pub struct Files<'a> {
    storage: &'a mut dyn Storage,
    next: u64,
}

impl<'a> Files<'a> {
    /// On this storage, which nobody else uses meanwhile.
    pub fn new(storage: &'a mut dyn Storage) -> Self {
        // Above the tickets of the boot machine.
        Self { storage, next: 1000 }
    }

    async fn complete(&mut self, ticket: Ticket, op: StoreOp) -> StoreResult {
        self.storage.submit(ticket, op);
        loop {
            // A result under another ticket belongs to a call that was dropped half-way.
            let (done, result) = poll_fn(|cx| self.storage.poll_done(cx)).await;
            if done == ticket {
                return result;
            }
        }
    }

    async fn run(&mut self, name: &str, op: StoreOp) -> Result<Stored, StateError> {
        self.next += 1;
        self.complete(Ticket(self.next), op).await.map_err(|e| StateError::Store(name.into(), e))
    }

    /// Raises the boot epoch and locks the directory for as long as the storage lives.
    pub async fn boot(&mut self, floor: u64, random: u64) -> Result<Incarnation, StateError> {
        let mut boot = Boot::new(floor, random);
        loop {
            if let Some(answer) = boot.poll_event() {
                return Ok(answer?);
            }
            let Some((ticket, op)) = boot.poll_store() else {
                return Err(BootError::Store(StoreError::Io).into());
            };
            let result = self.complete(ticket, op).await;
            boot.handle_stored(ticket, result);
        }
    }

    /// The payload of a file; `None` if there is no such file.
    pub async fn load(&mut self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let Stored::Names(names) = self.run(name, StoreOp::List).await? else {
            return Err(StateError::Store(name.into(), StoreError::Io));
        };
        if !names.iter().any(|held| held == name) {
            return Ok(None);
        }
        self.run(name, open(name)).await?;
        let len = MAX + (HEAD + CHECK) as u64 + 1;
        let Stored::Data(bytes) = self.run(name, StoreOp::Read { file: name.into(), offset: 0, len }).await?
        else {
            return Err(StateError::Store(name.into(), StoreError::Io));
        };
        decode(name, &bytes).map(Some).ok_or_else(|| StateError::Damaged(name.into()))
    }

    /// Replaces a file; when this returns, the new content is durable. After a crash either the old
    /// or the new one is there, whole.
    pub async fn save(&mut self, name: &str, payload: &[u8]) -> Result<(), StateError> {
        let temp = format!("{name}.tmp");
        let data = encode(name, payload);
        self.run(name, open(&temp)).await?;
        self.run(name, StoreOp::Truncate { file: temp.clone(), len: 0 }).await?;
        self.run(name, StoreOp::Write { file: temp.clone(), offset: 0, data }).await?;
        self.run(name, StoreOp::Sync { file: temp.clone() }).await?;
        self.run(name, StoreOp::Rename { from: temp, to: name.into() }).await?;
        Ok(())
    }
}

fn open(file: &str) -> StoreOp {
    StoreOp::Open { file: file.into(), exclusive: false }
}

fn head(name: &str, len: usize) -> [u8; HEAD] {
    let mut head = *b"net \0\0\0\0\x01\0\0\0\0";
    for (to, from) in head[4..8].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    head[8] = VERSION;
    head[9..].copy_from_slice(&(len as u32).to_le_bytes());
    head
}

fn encode(name: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = head(name, payload.len()).to_vec();
    bytes.extend_from_slice(payload);
    let check = digest(&SHA256, &bytes);
    bytes.extend_from_slice(&check.as_ref()[..CHECK]);
    bytes
}

fn decode(name: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let payload = bytes.get(HEAD..bytes.len().checked_sub(CHECK)?)?;
    (encode(name, payload) == bytes).then(|| payload.to_vec())
}
