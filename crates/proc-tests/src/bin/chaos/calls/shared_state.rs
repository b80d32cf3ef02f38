//! Calls whose tasks share locks, values and the like with each other and with the program.

use std::time::{Duration, Instant};

use proc_core::sync::{
    Array, Barrier, Condition, Event, Lock, Mutex, MutexGuard, Semaphore, Value,
};
use proc_core::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use super::verdicts::Tally;
use super::{Caller, Timing};
use crate::tasks::mix;
use crate::test_pool::TestPool;
use crate::watch::fail;

/// Section of the ledger: what the tasks found that others had left.
const LEFT: &str = "shared state";

/// How long a task waits for what may never come.
const SHORT: Duration = Duration::from_millis(2);

/// How long some tasks pause in the middle of a change.
const PAUSE: Duration = Duration::from_millis(2);

/// Keeps a processor busy.
fn work_for(pause: Duration) {
    let end = Instant::now() + pause;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// What the tasks of one call share.
#[derive(Clone, Serialize, Deserialize)]
struct Objects {
    lock: Lock,
    /// Two counters, which are equal whenever nobody is in the middle of a change, and the pid of
    /// the process that changes them. The lock protects them.
    steps: Array<u64>,
    mutex: Mutex<[u64; 4]>,
    value: Value<[u64; 4]>,
    semaphore: Semaphore,
    permits: u32,
    event: Event,
    condition: Condition,
    barrier: Barrier,
    /// How often a task found an abandoned lock, an abandoned mutex, and a broken barrier.
    left: [Value<u64>; 3],
}

impl Objects {
    fn new(permits: u32, parties: u32) -> Result<Objects, Error> {
        Ok(Objects {
            lock: Lock::new()?,
            steps: Array::zeroed(3)?,
            mutex: Mutex::new([0; 4])?,
            value: Value::new([0; 4])?,
            semaphore: Semaphore::new(permits)?,
            permits,
            event: Event::new()?,
            condition: Condition::new()?,
            barrier: Barrier::new(parties)?,
            left: [Value::new(0)?, Value::new(0)?, Value::new(0)?],
        })
    }

    /// Changes the counters in several steps, with a pause in the middle.
    fn step(&self, pause: Duration) -> Result<(), Error> {
        let guard = self.lock.lock()?;
        let (a, b) = (self.steps.get(0), self.steps.get(1));
        assert!(
            a == b || (guard.was_abandoned() && a == b + 1),
            "{a} and {b} although nobody has died with the lock"
        );
        self.left[0].fetch_add(guard.was_abandoned().into());
        let pid = u64::from(std::process::id());
        self.steps.set(1, a); // completes the change of a dead holder
        self.steps.set(2, pid);
        self.steps.set(0, a + 1);
        work_for(pause);
        assert_eq!(self.steps.get(2), pid, "another process has the lock too");
        self.steps.set(1, a + 1);
        Ok(())
    }

    /// Locks the mutex, and repairs its words if their last holder has died.
    fn locked(&self) -> Result<MutexGuard<'_, [u64; 4]>, Error> {
        match self.mutex.lock() {
            Ok(words) => {
                assert!(
                    words.iter().all(|word| *word == words[0]),
                    "the words differ, but the mutex was not abandoned: {words:?}"
                );
                Ok(words)
            }
            Err(error) if error.kind() == ErrorKind::Abandoned => {
                self.left[1].fetch_add(1);
                let mut words = self.mutex.recover()?;
                *words = [words[0]; 4];
                Ok(words)
            }
            Err(error) => Err(error),
        }
    }

    /// Uses each of the objects.
    fn use_all(&self, number: u64) -> Result<(), Error> {
        let permit = match number % 3 {
            0 => self.semaphore.try_acquire()?,
            1 => self.semaphore.acquire_timeout(SHORT)?,
            _ => Some(self.semaphore.acquire()?),
        };
        if let Some(permit) = permit {
            assert!(self.semaphore.available_permits()? < self.permits, "one is lent here");
            drop(permit);
        }
        // Some tasks are killed during this pause, in the middle of a change.
        let pause = if number % 16 == 12 { PAUSE } else { Duration::ZERO };
        self.step(pause)?;
        let mut words = self.locked()?;
        words[0] += 1;
        work_for(pause);
        words[1..].iter_mut().for_each(|word| *word += 1);
        drop(words);
        self.value.update(|words| words.iter_mut().for_each(|word| *word += 1));
        let words = self.value.get();
        assert!(words.iter().all(|word| *word == words[0]), "a mixture: {words:?}");
        match number % 16 {
            0 => self.event.set(),
            1 => self.event.clear(),
            2 => drop(self.event.wait_timeout(SHORT)),
            3 => self.condition.notify_one(),
            4 => self.condition.notify_all(),
            5 => match self.condition.wait_timeout(self.locked()?, SHORT) {
                Err(error) if error.kind() != ErrorKind::Abandoned => return Err(error),
                _ => {}
            },
            6..12 => match self.barrier.wait_timeout(SHORT) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Abandoned && error.pid().is_some() => {
                    self.left[2].fetch_add(1);
                }
                Err(error) => return Err(error),
            },
            _ => {}
        }
        Ok(())
    }

    /// Checks that the program can have everything, and how often tasks have completed their
    /// changes.
    fn check(&self, at_least: u64, at_most: u64) -> Result<(), Error> {
        self.step(Duration::ZERO)?;
        drop(self.locked()?);
        let permits: Result<Vec<_>, Error> =
            (0..self.permits).map(|_| self.semaphore.acquire()).collect();
        let permits = permits?;
        if self.semaphore.try_acquire()?.is_some() {
            fail("a semaphore lends more permits than it has");
        }
        drop(permits);
        let words = self.value.get();
        let is_whole = words.iter().all(|word| *word == words[0]);
        if !is_whole || !(at_least..=at_most).contains(&words[0]) {
            fail(&format!("{words:?} after {at_least} to {at_most} changes"));
        }
        self.event.set();
        self.event.wait();
        Ok(())
    }
}

impl Caller<'_> {
    /// Maps tasks that share state.
    pub(super) fn shared_state(&mut self, test_pool: &TestPool) {
        let _open_call = self.begin("try_map of tasks that share state");
        let parties = self.rng.u32(1..=3);
        let objects = match Objects::new(self.rng.u32(1..4), parties) {
            Ok(objects) => objects,
            Err(error) => fail(&format!("no shared state can be made: {error}")),
        };
        let count = if test_pool.is_slow { self.rng.u64(..20) } else { self.rng.u64(..400) };
        let first = self.rng.u64(..);
        let number = |index: u64| first.wrapping_add(index);
        let share = |objects: &Objects, number: u64| {
            objects.use_all(number).unwrap_or_else(|error| panic!("{error}"));
            mix(number)
        };
        let with = self.options(test_pool).with(objects.clone());
        let results = with.try_map(share, (0..count).map(number));
        if results.len() as u64 != count {
            fail(&format!("{} results for {count} tasks", results.len()));
        }
        let (mut tally, mut done) = (Tally::default(), 0);
        for (index, result) in results.into_iter().enumerate() {
            match result {
                Ok(value) if value == mix(number(index as u64)) => {
                    tally.add("result");
                    done += 1;
                }
                Ok(value) => fail(&format!("sharing task {index} of {count} gives {value}")),
                Err(error) => {
                    self.excuse(test_pool, Timing::Plain, index, &error, &mut tally);
                }
            }
        }
        tally.book(self.round.ledger);
        // Some calls run each task up to three times.
        if let Err(error) = objects.check(done, 3 * count) {
            fail(&format!("after tasks that share state: {error}"));
        }
        let names = ["lock abandoned", "mutex abandoned", "barrier broken"];
        for (name, left) in names.iter().zip(&objects.left) {
            self.round.ledger.add(LEFT, name, left.get());
        }
    }
}
