//! Calls of a pool whose idle workers are stopped. They must complete.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Caller, TaskMix, Timing};
use crate::ledger::FAULTS;
use crate::test_pool::TestPool;
use crate::watch::fail;

/// How long a call may take while idle workers are stopped, on a busy machine.
const SLEEPERS_LIMIT: Duration = Duration::from_secs(10);

/// How long workers stay stopped if they are not continued or killed before.
const LONG_STOP: Duration = Duration::from_secs(3600);

impl Caller<'_> {
    /// Stops workers of an idle pool, and makes calls.
    ///
    /// If some workers are not stopped, they run the tasks. If all are stopped, the timeout ends
    /// the tasks, or the workers are continued after a while.
    pub(super) fn sleepers(&mut self) {
        let open_call = self.begin("pool whose workers are stopped");
        let test_pool = TestPool::build(self.round, &mut self.rng);
        drop(open_call);
        let Some(test_pool) = test_pool else { return };
        // During this call, the workers can start and become idle.
        self.try_map(&test_pool, TaskMix::Calm, Timing::Plain);
        let mut stopped = test_pool.pool.worker_pids();
        self.rng.shuffle(&mut stopped);
        let all = stopped.len();
        stopped.truncate(self.rng.usize(1..=all.max(1)));
        let are_all = stopped.len() == all;
        let timing = if self.rng.bool() { Timing::Timed } else { Timing::Plain };
        let soon = Duration::from_millis(self.rng.u64(50..1000));
        let until = if are_all && timing == Timing::Plain { soon } else { LONG_STOP };
        let name = match (are_all, timing) {
            (true, Timing::Plain) => "SIGSTOP of all idle workers for a while",
            (true, Timing::Timed) => "SIGSTOP of all idle workers, tasks timed",
            (false, Timing::Plain) => "SIGSTOP of some idle workers",
            (false, Timing::Timed) => "SIGSTOP of some idle workers, tasks timed",
        };
        self.round.ledger.add(FAULTS, name, 1);
        let until = Instant::now() + until;
        stopped.iter().for_each(|worker| self.round.faults.stop(*worker, until));
        for _ in 0..self.rng.u32(1..4) {
            let open_call = self.begin_within(name, SLEEPERS_LIMIT);
            // A single task goes to one worker first, perhaps to a stopped one.
            let count = if self.rng.bool() { 1 } else { self.rng.usize(2..12) };
            let specs = self.specs(count, TaskMix::Calm);
            self.try_map_of(&test_pool, &specs, timing);
            drop(open_call);
        }
        let are_all_still_stopped = match self.rng.u32(..3) {
            0 => {
                self.round.faults.wake(&stopped);
                false
            }
            1 => {
                // Workers that are missing were replaced after a timeout, or after another fault.
                let workers = test_pool.pool.worker_pids();
                for worker in stopped.iter().filter(|worker| workers.contains(worker)) {
                    self.round.faults.kill_worker(*worker, Signal::SIGKILL);
                }
                false
            }
            // The pool ends while they are stopped.
            _ => are_all,
        };
        if !are_all_still_stopped && self.rng.bool() {
            self.try_map(&test_pool, TaskMix::Mixed, Timing::Plain);
        }
        let start = Instant::now();
        let _open_call = self.begin("end of a pool whose workers are stopped");
        drop(test_pool);
        self.round.faults.wake(&stopped);
        if start.elapsed() > SLEEPERS_LIMIT {
            fail(&format!("the end of a pool of stopped workers takes {:?}", start.elapsed()));
        }
    }
}
