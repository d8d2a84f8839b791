//! The event bus on Redis Streams.
//!
//! A shard is a stream, `<prefix>:shard:<n>`; an event is an entry with the fields `dedup_id` (its
//! name), `t` (its stamp) and `d` (its bytes). A batch is pipelined as one transaction and the next one
//! goes out when it was answered, so a batch that fails leaves no hole. `docs/REDIS.md` is the guide.
//!
//! The protocol is spoken here, over sockets of tokio or async-io: the asynchronous half of the
//! `redis` crate links tokio on every runtime.
#![forbid(unsafe_code)]

mod adapter;
mod addr;
mod config;
mod conn;
mod core;
mod dedup;
mod error;
mod group;
mod link;
mod read;
mod resp;
mod socket;
mod tls;

pub use adapter::RedisAdapter;
pub use config::RedisConfig;
pub use dedup::RedisStreamDedup;
pub use group::{Delivery, GroupOptions, RedisGroup};
#[doc(hidden)]
pub use resp::check_answer;
