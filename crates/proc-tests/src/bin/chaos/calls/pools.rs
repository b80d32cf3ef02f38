//! Single processes, and pools that are built for a call.

use std::time::Duration;

use proc_core::{ErrorKind, Process, StartMethod, Task};

use super::verdicts::{Tally, kind};
use super::{Caller, TaskMix};
use crate::tasks::{Order, Spec, obey, obey_quietly};
use crate::test_pool::TestPool;
use crate::watch::fail;

impl Caller<'_> {
    pub(super) fn process(&mut self) {
        let _open_call = self.begin("process");
        let spec = self.specs(1, TaskMix::Mixed)[0];
        // This process has threads, so `Fork` is not possible.
        let start_method = match self.round.start_method {
            StartMethod::Fork => StartMethod::Forkserver,
            other => other,
        };
        let killed = self.round.faults.fork_servers_killed();
        let started = Process::new(obey_quietly, spec.order()).start_method(start_method).start();
        let mut tally = Tally::default();
        let result = match started {
            Ok(child) => match self.rng.u32(..4) {
                0 => {
                    self.round.faults.note_kill(child.pid());
                    let killed = if self.rng.bool() { child.kill() } else { child.terminate() };
                    killed.and_then(|()| child.join())
                }
                1 => return drop(child),
                _ => child.join(),
            },
            Err(error)
                if error.kind() == ErrorKind::Start
                    && killed < self.round.faults.fork_servers_killed() =>
            {
                tally.add("start, while the fork server was killed");
                return tally.book(self.round.ledger);
            }
            Err(error) => Err(error),
        };
        match &result {
            Ok(answer) if spec.is_answer(answer) => tally.add("result"),
            Err(error) if spec.causes(error) => tally.add(kind(error)),
            Err(error) if error.is_death() => match self.round.faults.explain(error) {
                Ok(()) => tally.add("death, by a fault from outside"),
                Err(why) => fail(&format!("{spec:?} in a process: {error}, but {why}")),
            },
            other => fail(&format!("{spec:?} in a process gives {other:?}")),
        }
        tally.book(self.round.ledger);
    }

    /// Builds a pool for a few calls, and ends it, perhaps in the middle of a call.
    pub(super) fn own_pool(&mut self) {
        let open_call = self.begin("pool of one's own");
        let test_pool = TestPool::build(self.round, &mut self.rng);
        drop(open_call);
        let Some(test_pool) = test_pool else { return };
        for _ in 0..self.rng.u32(..3) {
            self.random_call(&test_pool);
        }
        let _open_call = self.begin("end of a pool of one's own");
        let count = self.rng.usize(..200);
        let specs = self.specs(count, TaskMix::Hanging);
        let orders: Vec<Order> = specs.iter().map(Spec::order).collect();
        let task = test_pool.pool.map_async(obey, orders);
        std::thread::park_timeout(Duration::from_micros(self.rng.u64(..3000)));
        test_pool.end();
        let result = match self.rng.u32(..2) {
            0 => {
                test_pool.pool.terminate();
                task.and_then(Task::get)
            }
            _ => std::thread::scope(|scope| {
                let waiting = scope.spawn(|| task.and_then(Task::get));
                test_pool.pool.terminate();
                waiting.join().unwrap_or_else(|_| fail("waiting for a result panics"))
            }),
        };
        self.judge_map(&test_pool, &specs, result);
        if self.rng.bool() {
            test_pool.pool.close();
            // The pool is over, with or without an error.
            let _ = test_pool.pool.join();
        }
    }

    /// Ends a pool that other threads use.
    pub(super) fn terminate(&mut self, test_pool: &TestPool) {
        let _open_call = self.begin("terminate");
        test_pool.end();
        test_pool.pool.terminate();
    }
}
