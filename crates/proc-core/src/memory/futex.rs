//! Waits for words of shared memory and wakes those that wait: by futexes and the clock of the
//! system, or by those of a model check.

use super::atomics::AtomicU32;

#[cfg(all(test, loom))]
pub(super) use super::loom::wait_for_either;
#[cfg(all(test, loom))]
use super::loom::wake;
#[cfg(all(test, loom))]
pub(crate) use super::loom::{monotonic, now};
#[cfg(not(all(test, loom)))]
pub(crate) use crate::sys::monotonic;
#[cfg(not(all(test, loom)))]
pub(super) use crate::sys::wait_for_either;
#[cfg(not(all(test, loom)))]
use crate::sys::wake;

/// Wakes one thread, in any process, that sleeps because of `word`.
pub(crate) fn wake_one(word: &AtomicU32) {
    wake(word, 1);
}

/// Wakes up to `count` threads, in any process, that sleep because of `word`.
pub(crate) fn wake_some(word: &AtomicU32, count: u32) {
    wake(word, count.min(i32::MAX as u32)); // the kernel takes a signed number
}

/// Wakes all threads, in any process, that sleep because of `word`.
pub(crate) fn wake_all(word: &AtomicU32) {
    wake_some(word, u32::MAX);
}

/// Returns the present time, on the clock of the deadlines of waits.
#[cfg(not(all(test, loom)))]
pub(crate) fn now() -> std::time::Instant {
    std::time::Instant::now()
}
