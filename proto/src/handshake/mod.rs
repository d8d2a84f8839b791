//! Handshake: who is there, proven; and keys for an epoch.
//!
//! One machine plays both roles for all peers. It speaks Noise IK with two pre-shared keys under the
//! mesh key; `docs/protocol/handshake.md` holds layouts, keys and rules.
//!
//! ```text
//! initiator   dial -> Preparing ..job..> Waiting -- message 2 --> Finishing ..job..> Completed
//!                                           ^------- it was bad ------+
//!                     any state -- deadline, refusal, no common version --> Failed
//!
//! responder   message 1 -> Reading ..job..> Asking -- answer --> Answering ..job..> Answered
//!                     Answered -- first packet opened --> confirmed;  any state -- 5 s --> Expired
//! ```
//!
//! Every step with Diffie-Hellman operations is a [`Job`]: a driver runs it where it likes. Until the
//! initiator's first packet opens, its first message has no effect but an answer, since it may be a
//! replay. Strangers meet silence and a counter in [`Drops`].
//!
//! Bounds: dials by `dial_limit` (new ones refused); half-open handshakes by `half_open_limit` and two
//! per entity, jobs by `job_limit` (cookies from half on, then silence); the output queue by 1,024
//! datagrams (newest dropped); confirmed numbers by `confirmed_limit` (longest unused forgotten).

mod api;
mod confirmed;
mod cookie;
mod dial;
mod fuzz;
mod job;
mod keys;
mod machine;
mod noise;
mod respond;
mod wire;

pub use api::{
    Answer, Config, DialFailure, DialId, DialRefused, DialRequest, Drops, Event, HalfOpenId, MAX_MESHES,
    MAX_PATHS, MeshRefused, PathToken, Secrets,
};
#[doc(hidden)]
pub use fuzz::{Lab as FuzzLab, Tally as FuzzTally};
pub use job::{Job, JobDone};
pub use machine::Handshakes;
pub(crate) use wire::{COOKIE_REPLY, HEADER2, MESSAGE2, VERSIONS_REPLY};
pub use wire::{Hello, Outcome, Welcome};

#[cfg(test)]
mod primitive_tests;
#[cfg(test)]
mod tests;
