//! How application threads reach the driver: queues under their own narrow locks, of bytes for streams and
//! of commands for planes.
//!
//! Sending reads no clock and takes no lock of the node. The bell rings once per collection, not
//! per message. `docs/PORTS.md` tells the rules.

mod plane;
mod recv;
mod send;

pub(crate) use plane::KEYS;
pub use plane::{CommandError, Feed, MAX_EVENTS, PORT_BYTES, PlanePort, Stopped};
pub use recv::{End, RecvPort};
pub use send::{Collected, SendError, SendPort};
