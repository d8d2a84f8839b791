//! Durable files: the thread that writes them, a version that forgets, and what both must keep.
//!
//! `docs/STORAGE.md` is the contract; [`conformance`] runs it against any implementation.

mod conformance;
mod file;
mod forgetting;
pub mod state;

pub use conformance::{Reopen, conformance, conforms};
pub use file::FileStorage;
pub use forgetting::{Change, Disk, Forgetting};

use net_proto::storage::StoreError;

/// Longest file name, in bytes.
pub const MAX_NAME: usize = 100;

/// Checks a file name: letters, digits, `.`, `_` and `-`, not beginning with a dot, at most
/// [`MAX_NAME`] bytes. The same on every system, so that no name works on one and not on another.
pub fn check_name(name: &str) -> Result<(), StoreError> {
    let plain = name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'));
    if name.is_empty() || name.len() > MAX_NAME || name.starts_with('.') || !plain {
        return Err(StoreError::BadName);
    }
    Ok(())
}
