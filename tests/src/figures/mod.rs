//! Figures that need a peer or a real server.

pub mod bus;
mod core;
pub mod redis;
#[path = "../../peers/src/verdict.rs"]
mod verdict;
