//! Calls in copies of the program. Each must be an error or do nothing, and must not disturb the
//! original.

use proc_core::{Error, StartMethod, Task};

use super::{Caller, TaskMix, Timing};
use crate::choice::Fault;
use crate::forked_copies::{ForkedCopy, Misuse};
use crate::ledger::FAULTS;
use crate::tasks::mix;
use crate::test_pool::TestPool;
use crate::watch::fail;

impl Caller<'_> {
    /// Whether the program forks in the middle of a call.
    pub(super) fn wants_copies(&mut self) -> bool {
        self.rng.u32(..4) == 0 && self.round.faults.has(Fault::Copies)
    }

    /// Starts a copy of the program, which counts as one fault.
    pub(super) fn copy(&self, misuse: impl FnOnce(&Misuse)) -> Option<ForkedCopy> {
        let copy = ForkedCopy::start(misuse);
        if copy.is_some() {
            self.round.ledger.add(FAULTS, "copy of the program", 1);
        }
        copy
    }

    /// Calls a pool in a copy of the program, and in the original meanwhile and afterwards.
    pub(super) fn copies(&mut self, test_pool: &TestPool) {
        let open_call = self.begin("calls in a copy of the program");
        let has_own = self.rng.bool() && self.round.start_method != StartMethod::Fork;
        let mut own = if has_own { TestPool::build(self.round, &mut self.rng) } else { None };
        let mut uses = USES;
        self.rng.shuffle(&mut uses);
        let copy = self.copy(|misuse| {
            uses.iter().for_each(|call| call(misuse, own.as_ref().unwrap_or(test_pool)));
            misuse.does_nothing("drop of a pool", || drop(own.take()));
        });
        drop(open_call);
        let test_pool = own.as_ref().unwrap_or(test_pool);
        // This call may run beside the copy. The one at the end runs after it.
        if self.rng.bool() {
            self.try_map(test_pool, TaskMix::Mixed, Timing::Plain);
        }
        let open_call = self.begin("end of a copy of the program");
        join(copy);
        drop(open_call);
        self.tiny(test_pool);
    }
}

/// Waits for a copy. Each of its calls must have been an error, or have done nothing.
pub(super) fn join(copy: Option<ForkedCopy>) {
    if let Some(Err(why)) = copy.map(ForkedCopy::join) {
        fail(&format!("a copy of the program: {why}"));
    }
}

/// The calls that a copy makes, each once, in a random order.
const USES: [fn(&Misuse, &TestPool); 8] = [
    |misuse, TestPool { pool, .. }| misuse.fails("map", || pool.map(mix, 0..9)),
    |misuse, TestPool { pool, .. }| {
        // No task may have a result.
        misuse.fails("try_map", || {
            let results: Vec<Result<u64, Error>> = pool.try_map(mix, 0..9);
            results.into_iter().reduce(Result::or).unwrap_or(Ok(0))
        });
    },
    |misuse, TestPool { pool, .. }| misuse.fails("apply", || pool.apply(mix, 7)),
    |misuse, TestPool { pool, .. }| {
        misuse.fails("map_async", || pool.map_async(mix, 0..9).and_then(Task::get));
    },
    |misuse, TestPool { pool, .. }| {
        misuse.fails("imap", || pool.imap(mix, 0..9).next().unwrap_or(Ok(0)));
    },
    |misuse, TestPool { pool, workers, .. }| misuse.fails("resize", || pool.resize(workers + 1)),
    |misuse, TestPool { pool, .. }| misuse.does_nothing("terminate", || pool.terminate()),
    |misuse, TestPool { pool, .. }| {
        misuse.does_nothing("close", || pool.close());
        misuse.fails("join", || pool.join());
    },
];
