//! What the tests of the workspace share: reading our own sources as tokens, seeds for the fuzzers
//! and small mutations of them, and the conformance suite of runtimes.

pub mod blocking_runtime;
pub mod conformance;
pub mod corpus;
pub mod figures;
pub mod kills;
pub mod lab;
pub mod live;
pub mod servers;
pub mod source;

use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the root").to_path_buf()
}
