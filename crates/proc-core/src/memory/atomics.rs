//! The atomics of shared memory: the processor's, and in a model check those of loom.

#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, fence};

#[cfg(all(test, loom))]
pub(crate) use super::loom::{AtomicU32, AtomicU64, fence};
