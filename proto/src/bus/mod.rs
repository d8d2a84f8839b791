//! The event bus: opaque events in shards, each a bounded log; what is sent from there to an engine
//! is numbered once and acknowledged in order. `docs/protocol/bus.md` has the states.
//!
//! ```text
//! emit ─▶ route ─▶ Log (one per shard) ─┬─▶ readers: events, or what they lost
//!                                       ├─▶ Outbox ─▶ storage
//!                                       └─▶ Pipeline ─▶ link of an adapter ─▶ engine
//! ```
//!
//! The machines here are independent of each other and of everything above the ground; the shell
//! composes them under one lock per shard.

mod batch;
mod crc;
mod cursor;
mod dedup;
pub mod filter;
mod id;
mod ledger;
mod log;
pub mod mesh;
pub mod outbox;
mod pipeline;
mod producer;
pub mod route;
mod scale;

pub use batch::{BatchConfig, Batcher, Due, MAX_BATCH};
pub use crc::crc32c;
pub use cursor::Cursor;
#[doc(hidden)]
pub use cursor::samples as cursor_samples;
pub use dedup::{Dedup, MAX_WINDOWS};
pub use filter::{Filter, FilterError};
pub use id::{BadText, EventId, MAX_SHARDS, Position, ProducerId, Shard};
pub use ledger::{Ledger, Losses};
pub use log::{Backpressure, Event, Log, LogCounts, LogLimits, MAX_READERS, ReaderId, Refused, Slice};
pub use outbox::{Outbox, OutboxError};
pub use pipeline::{BadAck, Flight, LinkState, Pipeline, PipelineConfig};
#[doc(hidden)]
pub use producer::record as producer_record;
pub use producer::{ProducerError, ProducerFile, decode_producer};
pub use scale::{FULL, ScaleConfig, Scaler};

/// Longest event, in bytes. An engine may take less.
pub const MAX_EVENT: u32 = 1 << 20;
