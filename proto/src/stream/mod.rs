//! Streams: many independent flows of messages inside one association.

mod message;

pub use message::{MAX_MESSAGE, Messages, Mode, StreamId, charge, frame_message};
