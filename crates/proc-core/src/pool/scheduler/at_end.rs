//! Ends idle workers when the program ends, if the program counts what it executes (for coverage or
//! a profile).
//!
//! A pool in a static is never dropped. At the end of the program, its workers are usually killed.
//! But a worker that is killed writes no counts, so here it is dismissed instead.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

use super::state::{Scheduler, State, unlock};
use crate::forkserver;
use crate::sys::{self, PerProcess};

/// How long a program that ends waits for idle workers.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Pools of this process, if it counts what it executes.
static POOLS: PerProcess<Mutex<Vec<Weak<Scheduler>>>> = PerProcess::new();

fn pools() -> MutexGuard<'static, Vec<Weak<Scheduler>>> {
    POOLS.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes sure that the pool's idle workers exit by themselves at the end of this process, instead
/// of being killed.
pub(super) fn remember(scheduler: &Arc<Scheduler>) {
    if sys::writes_counts() {
        forkserver::register_end_of_workers(end_idle_workers);
        let mut pools = pools();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(scheduler));
    }
}

/// Ends the idle workers of all pools of this process.
fn end_idle_workers() {
    let deadline = Instant::now() + END_TIMEOUT;
    let pools = std::mem::take(&mut *pools());
    let pools: Vec<_> = pools.iter().filter_map(Weak::upgrade).collect();
    // Dismiss all of them before the first wait.
    let dismissed: Vec<_> = pools.iter().map(|pool| pool.dismiss_at_end(deadline)).collect();
    for (pool, dismissed) in pools.into_iter().zip(dismissed) {
        if dismissed {
            pool.await_idle_workers(deadline);
        }
    }
}

impl Scheduler {
    /// Ends the pool. Returns false if another thread held the lock up to `deadline`.
    fn dismiss_at_end(&self, deadline: Instant) -> bool {
        let Some(mut state) = self.lock_until(deadline) else { return false };
        self.end_pool(&mut state, None);
        unlock(state);
        true
    }

    /// Waits until all workers have exited that run no task.
    fn await_idle_workers(&self, deadline: Instant) {
        let Some(mut state) = self.lock_until(deadline) else { return };
        while state.supervisors > self.busy_slots(&state).len() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let woken = self.supervisor_ended.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let all_ended = state.supervisors == 0;
        drop(state);
        if all_ended {
            self.release_start_resources();
        }
    }

    /// Locks the bookkeeping. Gives up at `deadline`, because other threads go on running while the
    /// program ends, and one of them may have been stopped with the lock.
    fn lock_until(&self, deadline: Instant) -> Option<MutexGuard<'_, State>> {
        loop {
            match self.state.try_lock() {
                Ok(state) => return Some(state),
                Err(TryLockError::Poisoned(state)) => return Some(state.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::yield_now();
                }
                Err(TryLockError::WouldBlock) => return None,
            }
        }
    }
}
