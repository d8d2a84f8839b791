//! What the bell, the short lock, the ports, the mailboxes and the hub use to synchronise, and nothing else.
//!
//! `tests/shuttle.rs` includes the sources of those modules beside a module of this name with
//! shuttle's types, and so runs the same code under a scheduler that tries its interleavings.

pub(crate) use std::hint::spin_loop;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
pub(crate) use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
pub(crate) use std::thread::{sleep, yield_now};
