//! Heavy work that planes ask for: values with a pure `run`, each above about 20 µs.

use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize, Serializer};

use crate::identity::{EntityId, IdentityError};

/// Work of a plane. Runs anywhere, and twice with the same outcome. A trace holds a hash of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Job {
    /// Check a signature; answered by [`JobDone::Verified`].
    Verify(Verify),
}

/// A signature to check: about 40 µs, and 28 µs more with `admit`.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Verify {
    /// Who is said to have signed.
    pub signer: EntityId,
    /// Whether to check that the id itself is admissible. Needed once for an id that came from the wire.
    pub admit: bool,
    /// What kind of object it is, as in [`Identity::sign`](crate::identity::Identity::sign).
    pub label: &'static str,
    /// What was signed, as it was received.
    pub message: Vec<u8>,
    /// The signature.
    #[serde(serialize_with = "bytes")]
    pub signature: [u8; 64],
}

fn bytes<S: Serializer>(bytes: &[u8; 64], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bytes(bytes)
}

impl fmt::Debug for Verify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verify({} of {:?}, {} bytes)", self.label, self.signer, self.message.len())
    }
}

/// What came of a [`Job`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum JobDone {
    /// Of [`Job::Verify`].
    Verified(Verdict),
}

/// What a check of a signature found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Verdict {
    /// The signer signed exactly this message under this label.
    Valid,
    /// The id is no key that may be used.
    BadSigner,
    /// The signature is not the signer's, or not of this message, or not under this label.
    BadSignature,
}

impl Job {
    /// Does the work. Blocks for that long; never panics.
    pub fn run(self) -> JobDone {
        match self {
            Self::Verify(v) => JobDone::Verified(v.run()),
        }
    }
}

impl Verify {
    fn run(&self) -> Verdict {
        if self.admit && self.signer.admit().is_err() {
            return Verdict::BadSigner;
        }
        match self.signer.verify(self.label, &self.message, &self.signature) {
            Ok(()) => Verdict::Valid,
            Err(IdentityError::BadSignature) => Verdict::BadSignature,
            Err(_) => Verdict::BadSigner,
        }
    }
}
