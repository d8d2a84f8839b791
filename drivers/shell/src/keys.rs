//! Export of keys for capture tools: opt-in, and as dangerous as it sounds.
//!
//! Each epoch of keys adds two lines to a file of mode 0600:
//!
//! ```text
//! NET_RECV_KEY <receiver index> <cipher> <key>     packets that come with this index
//! NET_SEND_KEY <receiver index> <cipher> <key>     packets that leave with this index
//! ```
//!
//! The index is the 32-bit number in a packet's clear header, as 8 hexadecimal digits; the key is 32
//! bytes in hexadecimal. A packet opens with the nonce of [`net_proto::session::aead::nonce`] and its
//! first 13 bytes as associated data (`docs/protocol/session.md`).

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex};

use net_proto::session::aead::{Aead, Cipher, CipherSuite, EpochKeys};

use crate::bell::lock;
use crate::trace::create_secret;

/// A suite that writes every key of an epoch down before it is used.
pub struct Exporting {
    suite: Arc<dyn CipherSuite>,
    file: Mutex<Option<File>>,
}

impl Exporting {
    /// Creates the file, which may not exist yet: an old one could have a wider mode.
    pub fn create(path: &Path, suite: Arc<dyn CipherSuite>) -> io::Result<Self> {
        let file = create_secret(path)?;
        tracing::warn!(
            path = %path.display(),
            "KEYS ARE EXPORTED: whoever reads this file reads everything that this node says and hears"
        );
        Ok(Self { suite, file: Mutex::new(Some(file)) })
    }
}

impl std::fmt::Debug for Exporting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporting").finish_non_exhaustive()
    }
}

impl CipherSuite for Exporting {
    fn offered(&self) -> u8 {
        self.suite.offered()
    }

    fn key(&self, cipher: Cipher, key: &[u8; 32]) -> Box<dyn Aead> {
        self.suite.key(cipher, key)
    }

    fn export(&self, keys: &EpochKeys<'_>) {
        let mut lines = zeroize::Zeroizing::new(String::with_capacity(256));
        for (label, index, key) in
            [("NET_RECV_KEY", keys.local_index, keys.recv), ("NET_SEND_KEY", keys.remote_index, keys.send)]
        {
            let _ = write!(lines, "{label} {index:08x} {} ", keys.cipher.name());
            key.iter().for_each(|byte| _ = write!(lines, "{byte:02x}"));
            lines.push('\n');
        }
        let mut file = lock(&self.file);
        // At once and in one piece: the capture that it is for may be read while the node runs.
        if let Some(Err(error)) = file.as_mut().map(|file| file.write_all(lines.as_bytes())) {
            tracing::warn!(%error, "the export of keys ends here");
            *file = None;
        }
    }
}
