//! The runtime-neutral driver: everything that touches the world except readiness, timers and
//! tasks, which a runtime brings ([`runtime`]).
#![deny(unsafe_code)] // allowed in `aead` and `prefetch`, with its argument

/// Whether a bug was planted here. Never, but in builds for testing the tests.
#[cfg(feature = "planted")]
macro_rules! planted {
    ($bug:ident) => {
        net_proto::planted::is(net_proto::planted::Bug::$bug)
    };
}
#[cfg(not(feature = "planted"))]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}

pub mod aead;
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
pub mod storage;
mod sync;
#[cfg(test)]
mod tests;
pub mod trace;
pub mod udp;
mod wait;
