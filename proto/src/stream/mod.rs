//! Streams: many independent flows of messages inside one association.
//!
//! `docs/protocol/streams.md` is the page for the frames, the credit and the states.

mod api;
mod input;
mod limits;
mod message;
mod output;
mod recv;
mod send;
mod streams;
mod table;
mod window;

pub use api::{
    Event, FrameError, Ledger, OpenError, SendError, SentFrame, StreamStats, Taken, Tally, Violation,
};
pub use limits::{Config, LEASE, Limits, MIN_WINDOW, Pool};
pub use message::{MAX_MESSAGE, Messages, Mode, StreamId, charge, frame_message, framed_len};
pub use send::PLENTY;
pub use streams::{MAX_LABEL, MIN_ROOM, Streams};

#[cfg(test)]
mod tests;
