//! Paths: where datagrams go, which of several ways is used, and how large a datagram may be.

mod address;
mod ecn;
mod paths;
mod size;
#[cfg(test)]
mod tests;

pub use address::{Ecn, Path, Remote};
pub use ecn::{EcnCounts, EcnVerdict};
pub use paths::{Config, MAX_CANDIDATES, PathEvent, PathFrame, PathId, PathState, Paths};
