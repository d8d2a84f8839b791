//! The runtime-neutral driver: everything that touches the world except readiness, timers and
//! tasks, which a runtime brings.
#![forbid(unsafe_code)]

pub mod runtime;
