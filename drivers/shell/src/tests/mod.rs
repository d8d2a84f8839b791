//! Tests of the modules that `tests/shuttle.rs` includes too; inside them they would run there.

mod bell;
mod planes;
mod ports;
mod short_lock;
