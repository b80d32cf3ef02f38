//! The limit on a worker's own memory, after which it is replaced.

use std::time::Duration;

use crate::call::Fault;
use crate::sys;

/// After a fast task, the memory is not measured more often than this: it takes some microseconds.
const MEASURE_INTERVAL: Duration = Duration::from_millis(1);

/// How much memory a worker may have.
pub(super) struct MemoryLimit {
    max_bytes: u64,
    /// When the memory was measured last, in nanoseconds of the monotonic clock.
    measured_at: u64,
    /// Whether the worker had more when it was measured last.
    pub(super) is_exceeded: bool,
}

impl MemoryLimit {
    /// # Errors
    ///
    /// The worker has more than `max_bytes` already, before its first task.
    pub(super) fn new(max_bytes: u64) -> Result<MemoryLimit, Fault> {
        let mut limit = MemoryLimit { max_bytes, measured_at: 0, is_exceeded: false };
        limit.measure();
        if limit.is_exceeded {
            let used = sys::own_memory().unwrap_or(0) >> 10;
            return Err(Fault::Invalid(format!(
                "a worker takes {used} KiB of memory before its first task, and max_memory_per_child \
                 allows {} KiB: allow more, or share what all workers read (Shared)",
                max_bytes >> 10
            )));
        }
        Ok(limit)
    }

    /// Measures the memory, unless it was measured just before.
    #[cold]
    pub(super) fn measure_if_due(&mut self) {
        if sys::monotonic() - self.measured_at >= MEASURE_INTERVAL.as_nanos() as u64 {
            self.measure();
        }
    }

    pub(super) fn measure(&mut self) {
        self.is_exceeded = sys::own_memory().is_ok_and(|bytes| bytes > self.max_bytes);
        self.measured_at = sys::monotonic();
    }
}
