//! Exports the atomics for shared memory: those of std, or those of loom in a model check.

#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, fence};

#[cfg(all(test, loom))]
pub(crate) use super::loom::{AtomicU32, AtomicU64, fence};
