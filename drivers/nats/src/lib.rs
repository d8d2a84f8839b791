//! NATS JetStream as a transport of the event bus: [`JetStream`] says where the engine is and what
//! is asked of it, [`JetStreamAdapter`] is the adapter. `docs/JETSTREAM.md` is the guide and says
//! what an acknowledgement proves; `docs/BUS.md` helps to choose.
//!
//! A shard is a stream `<prefix>_shard_<n>` on the subjects `<prefix>.shard.<n>.*`, the last word
//! being the producer. An event is one message: its body as it is, its id in `Nats-Msg-Id`, its time
//! in `Net-Stamp`.
//!
//! The client lives on a thread of its own with tokio inside, so that applications on any runtime can
//! use it.
#![forbid(unsafe_code)]

mod adapter;
mod config;
mod connection;
mod durable;
mod error;
pub mod figures;
mod link;
mod read;
mod stream;
mod thread;
mod window;

pub use adapter::JetStreamAdapter;
pub use config::{JetStream, MAX_IN_FLIGHT};
pub use durable::{Delivery, Durable};
