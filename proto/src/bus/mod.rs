//! The event bus: opaque events in shards, each a bounded log; what is sent from there to an engine
//! is numbered once and acknowledged in order. `docs/protocol/bus.md` has the states.
//!
//! ```text
//! emit ─▶ Router ─▶ Log (one per shard) ─┬─▶ readers: Event | Lost{from,to}
//!                                        ├─▶ Outbox ─▶ storage
//!                                        └─▶ Pipeline ─▶ link of an adapter ─▶ engine
//! ```
//!
//! The machines here are independent of each other and of everything above the ground; the shell
//! composes them under one lock per shard.

mod id;

pub use id::{BadText, EventId, MAX_SHARDS, Position, ProducerId, Shard};

/// Longest event, in bytes. An engine may take less.
pub const MAX_EVENT: u32 = 1 << 20;
