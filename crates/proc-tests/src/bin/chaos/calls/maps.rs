//! Calls of `map`, `try_map` and `map_async`.

use std::time::Duration;

use proc_core::Error;

use super::verdicts::{Tally, kind};
use super::{Caller, TaskMix, Timing};
use crate::ledger::FATES;
use crate::tasks::{Act, Answer, Order, Spec, mix, obey};
use crate::test_pool::TestPool;
use crate::watch::fail;

impl Caller<'_> {
    /// Maps many tiny tasks.
    pub(super) fn tiny(&mut self, test_pool: &TestPool) {
        let _open_call = self.begin("try_map of tiny tasks");
        let count = if test_pool.is_slow { self.rng.u64(..50) } else { self.rng.u64(..100_000) };
        let first = self.rng.u64(..);
        let number = |index: u64| first.wrapping_add(index);
        let results = self.options(test_pool).try_map(mix, (0..count).map(number));
        if results.len() as u64 != count {
            fail(&format!("{} results for {count} tasks", results.len()));
        }
        let mut tally = Tally::default();
        for (index, result) in results.into_iter().enumerate() {
            match result {
                Ok(value) if value == mix(number(index as u64)) => tally.add("result"),
                Ok(value) => fail(&format!("tiny task {index} of {count} gives {value}")),
                Err(error) => {
                    self.excuse(test_pool, Timing::Plain, index, &error, &mut tally);
                }
            }
        }
        tally.book(self.round.ledger);
    }

    pub(super) fn try_map(&mut self, test_pool: &TestPool, task_mix: TaskMix, timing: Timing) {
        let _open_call = self.begin(&format!("try_map, {task_mix:?}, {timing:?}"));
        let most = if task_mix == TaskMix::Mixed && !test_pool.is_slow { 300 } else { 12 };
        let count = self.rng.usize(..most);
        let specs = self.specs(count, task_mix);
        self.try_map_of(test_pool, &specs, timing);
    }

    /// Maps given tasks. The caller of this function calls [`begin`](Caller::begin).
    pub(super) fn try_map_of(&mut self, test_pool: &TestPool, specs: &[Spec], timing: Timing) {
        let mut options = self.options(test_pool);
        if timing == Timing::Timed {
            options = options.timeout(Duration::from_millis(self.rng.u64(5..100)));
        }
        let results = options.try_map(obey, specs.iter().map(Spec::order));
        if results.len() != specs.len() {
            fail(&format!("{} results for {} tasks", results.len(), specs.len()));
        }
        let mut tally = Tally::default();
        for (index, (spec, result)) in specs.iter().zip(results).enumerate() {
            self.judge(test_pool, timing, index, spec, &result, &mut tally);
        }
        tally.book(self.round.ledger);
    }

    pub(super) fn map(&mut self, test_pool: &TestPool) {
        let _open_call = self.begin("map");
        let task_mix = if self.rng.bool() { TaskMix::Mixed } else { TaskMix::Calm };
        let count = self.rng.usize(..30);
        let specs = self.specs(count, task_mix);
        let result = self.options(test_pool).map(obey, specs.iter().map(Spec::order));
        self.judge_map(test_pool, &specs, result);
    }

    pub(super) fn map_async(&mut self, test_pool: &TestPool) {
        let _open_call = self.begin("map_async");
        let task_mix = if self.rng.bool() { TaskMix::Mixed } else { TaskMix::Calm };
        let count = self.rng.usize(..30);
        let specs = self.specs(count, task_mix);
        let orders: Vec<Order> = specs.iter().map(Spec::order).collect();
        match self.options(test_pool).map_async(obey, orders) {
            Ok(task) => match self.rng.u32(..4) {
                0 => {
                    let was_open = task.cancel();
                    match (was_open, task.get()) {
                        (true, Err(error)) if error.is_cancelled() => {
                            let mut tally = Tally::default();
                            specs.iter().for_each(|_| tally.add("cancelled"));
                            tally.book(self.round.ledger);
                        }
                        (true, Ok(_)) => fail("a call was cancelled, and has a result"),
                        (_, result) => self.judge_map(test_pool, &specs, result),
                    }
                }
                1 => drop(task),
                2 => self.judge_map(test_pool, &specs, pollster::block_on(task)),
                _ => self.judge_map(test_pool, &specs, task.get()),
            },
            // If an argument cannot be encoded, the call fails before any task runs.
            Err(error) => {
                let task = error.task().and_then(|task| specs.get(task));
                match task.filter(|spec| spec.act == Act::UnwritableArgument && spec.causes(&error))
                {
                    Some(_) => self.round.ledger.add(FATES, kind(&error), specs.len() as u64),
                    None => self.judge_map(test_pool, &specs, Err(error)),
                }
            }
        }
    }

    /// Judges the result of a `map`: all results, or the error of the first task that failed.
    pub(super) fn judge_map(
        &self,
        test_pool: &TestPool,
        specs: &[Spec],
        result: Result<Vec<Answer>, Error>,
    ) {
        let mut tally = Tally::default();
        match result {
            Ok(answers) => {
                if answers.len() != specs.len() {
                    fail(&format!("{} results for {} tasks", answers.len(), specs.len()));
                }
                for (index, (spec, answer)) in specs.iter().zip(answers).enumerate() {
                    self.judge(test_pool, Timing::Plain, index, spec, &Ok(answer), &mut tally);
                }
            }
            Err(error) => {
                let first_bad = specs.iter().position(Spec::is_bad);
                // An error without a task is one of the pool.
                let index = error.task().unwrap_or(0);
                if first_bad.is_some_and(|first| first < index) {
                    fail(&format!(
                        "task {first_bad:?} must fail, but the error is another: {error}"
                    ));
                }
                match specs.get(index) {
                    Some(spec) => {
                        self.judge(test_pool, Timing::Plain, index, spec, &Err(error), &mut tally);
                    }
                    None => self.excuse(test_pool, Timing::Plain, index, &error, &mut tally),
                }
            }
        }
        tally.book(self.round.ledger);
    }
}
