//! The pools of a round, with random settings.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use proc_core::{ErrorKind, Pool, StartMethod};

use crate::choice::Fault;
use crate::faults::Faults;
use crate::ledger::{CALLS, Ledger};
use crate::tasks::initialize;
use crate::watch::{Watch, fail};

/// What all callers of a round share.
pub(crate) struct Round<'a> {
    pub(crate) watch: &'a Watch,
    pub(crate) ledger: &'a Ledger,
    pub(crate) faults: Faults<'a>,
    pub(crate) start_method: StartMethod,
    /// The most workers of a pool.
    pub(crate) workers: usize,
    pub(crate) end: Instant,
    /// The round ends when the whole life has run this many tasks.
    pub(crate) tasks: u64,
}

/// A pool, and which errors may be expected of it.
pub(crate) struct TestPool {
    pub(crate) pool: Pool,
    pub(crate) start_method: StartMethod,
    pub(crate) workers: usize,
    /// Whether the initializer fails now and then, so that the pool may end.
    pub(crate) is_flaky: bool,
    /// Whether workers are replaced often, so that large calls take long.
    pub(crate) is_slow: bool,
    /// Whether a thread has begun to terminate the pool.
    pub(crate) is_ended: AtomicBool,
    /// Whether a call has failed because the pool is over.
    pub(crate) is_spent: AtomicBool,
}

impl TestPool {
    /// Builds a pool with random settings. Returns `None` if it fails because a fork server was
    /// killed.
    pub(crate) fn build(round: &Round<'_>, rng: &mut fastrand::Rng) -> Option<TestPool> {
        let workers = rng.usize(1..=round.workers);
        let mut builder = Pool::builder().processes(workers).start_method(round.start_method);
        let max_tasks = [None, None, None, Some(1), Some(10), Some(1000)][rng.usize(..6)];
        if let Some(tasks) = max_tasks {
            builder = builder.max_tasks_per_child(tasks);
        }
        let every = [None, None, Some(u32::MAX), Some(16)][rng.usize(..4)];
        let every = every.filter(|_| round.faults.has(Fault::Accidents));
        if let Some(every) = every {
            builder = builder.initializer(initialize, every);
        }
        let killed = round.faults.fork_servers_killed();
        match builder.build() {
            Ok(pool) => Some(TestPool {
                pool,
                start_method: round.start_method,
                workers,
                is_flaky: every.is_some(),
                is_slow: max_tasks.is_some_and(|tasks| tasks < 100),
                is_ended: AtomicBool::new(false),
                is_spent: AtomicBool::new(false),
            }),
            Err(error)
                if error.kind() == ErrorKind::Start
                    && killed < round.faults.fork_servers_killed() =>
            {
                round.ledger.add(CALLS, "build, while the fork server was killed", 1);
                None
            }
            Err(error) => fail(&format!("a pool cannot be built: {error}")),
        }
    }

    /// Notes that the pool is about to be terminated, which explains errors of its calls.
    pub(crate) fn end(&self) {
        self.is_ended.store(true, Ordering::SeqCst);
    }

    /// Whether the pool takes no more calls, or soon will not.
    pub(crate) fn is_over(&self) -> bool {
        self.is_ended.load(Ordering::SeqCst) || self.is_spent.load(Ordering::SeqCst)
    }
}
