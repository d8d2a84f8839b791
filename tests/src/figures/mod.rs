//! Figures that need a peer or a real server.

pub mod redis;
