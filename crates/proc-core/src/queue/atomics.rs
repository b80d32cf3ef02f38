//! The atomics of the board: the processor's, and in a model check those of loom.

#[cfg(not(all(test, loom)))]
pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, fence};

#[cfg(all(test, loom))]
pub(super) use super::model::atomics::{AtomicU32, AtomicU64, fence};
