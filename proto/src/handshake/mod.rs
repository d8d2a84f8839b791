//! Handshake: who is there, proven; and keys for an epoch.

use serde::{Deserialize, Serialize};

/// Heavy work as a value.
#[derive(Debug)]
pub struct Job;

/// What came of a [`Job`].
#[derive(Debug, Serialize, Deserialize)]
pub struct JobDone;
impl Job {
    /// Does the work.
    pub fn run(self) -> JobDone {
        JobDone
    }
}
