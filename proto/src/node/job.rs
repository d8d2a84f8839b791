//! Heavy work of a node and of its plane, as one type for the driver.

use serde::{Deserialize, Serialize};

use crate::{handshake, lane};

/// Work above about 20 µs, as a value that runs anywhere. May hold secrets.
#[derive(Debug)]
#[non_exhaustive]
pub enum Job {
    /// A step of a handshake.
    Handshake(handshake::Job),
    /// Work of the plane.
    Plane(lane::Job),
}

/// What came of a [`Job`]; goes back as [`Input::Job`](super::Input::Job). May hold secrets: a trace with
/// it belongs in a file of mode 0600.
// Few live at a time, and they move once: a box would cost more than the bytes.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum JobDone {
    /// Of a step of a handshake.
    Handshake(handshake::JobDone),
    /// Of the plane's work.
    Plane(lane::JobDone),
}

impl Job {
    /// Does the work. Blocks for that long; never panics.
    pub fn run(self) -> JobDone {
        match self {
            Self::Handshake(job) => JobDone::Handshake(job.run()),
            Self::Plane(job) => JobDone::Plane(job.run()),
        }
    }
}
