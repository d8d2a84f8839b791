//! Paths: where datagrams go, which of several ways is used, and how large a datagram may be.
//!
//! One association has one active path and at most two candidates:
//!
//! ```text
//! highest packet from a new tuple        it answered, and the active one is silent
//! ─────────────────────────────▶ trial ───────── or: MIGRATE ─────────▶ active
//!                                │   │ both answered                      │ another took over
//!            no answer in 3 PTO  ▼   ▼                                    ▼
//!                              gone  rests (10 s unheard: gone) ◀──────────
//! ```
//!
//! Both the newcomer and the active path are challenged, data stays where it was, and of two that
//! answer the incumbent stays: whoever copies packets and delivers the copies first gains nothing.
//! `docs/protocol/paths.md` has the rules, [`Paths`] the calls. RTT and congestion state live in loss
//! recovery under the same [`PathId`].

mod address;
mod paths;
mod size;
#[cfg(test)]
mod tests;

pub use address::{Ecn, Path, Remote};
pub use paths::{Config, MAX_CANDIDATES, PathEvent, PathFrame, PathId, PathState, Paths};
