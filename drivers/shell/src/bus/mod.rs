//! The event bus around its machines: locks, wakers, tasks for adapters. `docs/BUS.md` is the guide.

pub mod adapter;
