//! Loss recovery after RFC 9002, and the receiver's side of acknowledgements.
//!
//! One packet-number space per association; packets remember their path, and round-trip time,
//! congestion, pacing and timers are per path. `docs/protocol/recovery.md` has the rules.

mod ack;
mod path;
mod sent;
mod tracker;

pub use crate::congestion::{Algorithm, Controller, MAX_ACK_DELAY, Rtt};
pub use ack::{Ack, AckView, EcnCounts, FRAME_ACK, FRAME_ACK_ECN, MAX_RANGES_ACCEPTED, MAX_RANGES_SENT};
pub use path::{Blocked, EcnState, PathRecovery};
pub use sent::{AckSummary, AckedUnsent, Fate, Loss, Recovery, Sent, Timeout};
pub use tracker::{AckTracker, Noted};

#[cfg(test)]
mod sim_tests;
#[cfg(test)]
mod tests;
