//! Every protocol of Net as a pure, synchronous state machine.
//!
//! Nothing in this crate reads a clock, draws a random number, opens a socket, spawns a thread or
//! wakes a task. Time and entropy arrive as arguments; datagrams, storage operations and heavy
//! computations leave as values. A driver (`net-shell` with `net-tokio`, or the simulator) turns
//! them into effects. `docs/ARCHITECTURE.md` shows the floors that the modules below form; each
//! imports only lower ones, and a test reads the imports to hold that line.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;
// Lets the tests include files that name this crate from outside.
#[cfg(test)]
extern crate self as net_proto;

/// Whether a bug was planted here. Never, but in builds for testing the tests.
/// Drivers use it, too.
#[doc(hidden)]
#[cfg(feature = "planted")]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        $crate::planted::is($crate::planted::Bug::$bug)
    };
}
#[doc(hidden)]
#[cfg(not(feature = "planted"))]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}

// ground
pub mod bounded;
pub mod codec;
pub mod entropy;
pub mod identity;
#[cfg(feature = "planted")]
pub mod planted;
pub mod storage;
pub mod time;
pub mod timers;

// transport
pub mod congestion;
pub mod handshake;
pub mod path;
pub mod recovery;
pub mod session;
pub mod stream;

// what planes speak
pub mod lane;

// planes
pub mod bus;

// composition
pub mod node;
pub mod registry;
