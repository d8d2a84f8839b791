//! How application threads reach the driver: byte queues under their own narrow locks.
//!
//! Sending reads no clock and takes no lock of the node. The bell rings once per collection, not
//! per message. `docs/PORTS.md` tells the rules.

mod recv;
mod send;

pub use recv::{End, RecvPort};
pub use send::{Collected, SendError, SendPort};
