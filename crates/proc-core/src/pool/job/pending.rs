//! The tasks of a pool that are queued or running, and how many there may be.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How often a thread that waits for room checks whether the pool is still open.
const RECHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Counts the tasks of a pool that are queued or running.
#[derive(Debug)]
pub(crate) struct Pending {
    max: usize,
    tasks: Mutex<usize>,
    less: Condvar,
}

impl Pending {
    pub(crate) fn new(max: usize) -> Pending {
        Pending { max, tasks: Mutex::new(0), less: Condvar::new() }
    }

    /// The most tasks that may be queued or running.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// How many more tasks may be queued.
    pub(crate) fn room(&self) -> usize {
        self.max.saturating_sub(*self.tasks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts `tasks` more, if there is room for them.
    pub(crate) fn try_add(&self, tasks: usize) -> bool {
        let mut pending = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = pending.saturating_add(tasks) <= self.max;
        *pending += if has_room { tasks } else { 0 };
        has_room
    }

    /// Counts `tasks` more, even if there is no room.
    pub(crate) fn add(&self, tasks: usize) {
        *self.tasks.lock().unwrap_or_else(PoisonError::into_inner) += tasks;
    }

    /// Waits until there is room for `tasks` more, and counts them. Returns false if `is_over`
    /// becomes true before.
    pub(crate) fn wait_and_add(&self, tasks: usize, mut is_over: impl FnMut() -> bool) -> bool {
        while !is_over() {
            if self.try_add(tasks) {
                return true;
            }
            let pending = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            let is_full = |pending: &mut usize| *pending + tasks > self.max;
            drop(self.less.wait_timeout_while(pending, RECHECK_INTERVAL, is_full));
        }
        false
    }

    /// Counts `tasks` less.
    pub(crate) fn subtract(&self, tasks: usize) {
        if tasks > 0 {
            let mut pending = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            *pending = pending.saturating_sub(tasks);
            drop(pending);
            self.less.notify_all();
        }
    }
}
