//! The runtime-neutral driver: everything that touches the world except readiness, timers and
//! tasks, which a runtime brings ([`runtime`]).
#![deny(unsafe_code)] // allowed in `aead`, `prefetch` and `short_lock`, with its argument

pub mod aead;
mod apart;
pub mod bell;
pub mod bus;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod driver;
pub mod hub;
pub mod keys;
pub mod mailbox;
pub mod ports;
mod prefetch;
pub mod qlog;
pub mod runtime;
mod short_lock;
pub mod storage;
mod sync;
#[cfg(test)]
mod tests;
pub mod trace;
pub mod udp;
mod wait;
