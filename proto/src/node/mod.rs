//! The node: composes the machines of one transport shard, holds no protocol rule of its own.

mod api;
pub mod boot;
mod stub;
pub use api::*;
pub use stub::*;
