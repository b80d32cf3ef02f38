//! The pools of a round, with random settings, and what these explain.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use proc_core::{ErrorKind, Pool, StartMethod};

use crate::choice::Fault;
use crate::faults::Faults;
use crate::ledger::{CALLS, Ledger};
use crate::tasks::initialize;
use crate::watch::{Watch, broken};

/// What all callers of a round share.
pub(crate) struct Round<'a> {
    pub(crate) watch: &'a Watch,
    pub(crate) ledger: &'a Ledger,
    pub(crate) faults: Faults<'a>,
    pub(crate) context: StartMethod,
    /// The most workers of a pool.
    pub(crate) workers: usize,
    pub(crate) end: Instant,
    /// How many tasks there may be in all.
    pub(crate) tasks: u64,
}

/// A pool, and what can be expected of it.
pub(crate) struct Station {
    pub(crate) pool: Pool,
    pub(crate) context: StartMethod,
    pub(crate) workers: usize,
    /// Its initializer fails now and then, so it may have to give up.
    pub(crate) is_flaky: bool,
    /// Its workers are replaced often, so large calls take long.
    pub(crate) is_slow: bool,
    /// Somebody was about to terminate it.
    pub(crate) is_ended: AtomicBool,
    /// It was found to be over.
    pub(crate) is_spent: AtomicBool,
}

impl Station {
    /// Builds a pool with random settings; `None` where killed fork servers explain that it fails.
    pub(crate) fn build(round: &Round<'_>, rng: &mut fastrand::Rng) -> Option<Station> {
        let workers = rng.usize(1..=round.workers);
        let mut builder = Pool::builder().processes(workers).start_method(round.context);
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
            Ok(pool) => Some(Station {
                pool,
                context: round.context,
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
            Err(error) => broken(&format!("a pool cannot be built: {error}")),
        }
    }

    /// Says that it is about to be terminated, which explains much.
    pub(crate) fn end(&self) {
        self.is_ended.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_ended.load(Ordering::SeqCst) || self.is_spent.load(Ordering::SeqCst)
    }
}
