//! Handshake: who is there, proven; and keys for an epoch.

mod api;
mod confirmed;
mod cookie;
mod dial;
mod job;
mod keys;
mod machine;
mod noise;
mod respond;
mod wire;

pub use api::{
    Answer, Config, DialFailure, DialId, DialRefused, DialRequest, Drops, Event, HalfOpenId, MAX_MESHES,
    MAX_PATHS, MeshRefused, Secrets,
};
pub use job::{Job, JobDone};
pub use machine::Handshakes;
pub use wire::{Hello, Outcome, Welcome};
