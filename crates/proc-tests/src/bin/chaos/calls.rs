//! Makes random calls, and judges whether their results can be right.

mod copies;
mod futures;
mod imaps;
mod maps;
mod messages;
mod pipes;
mod pools;
mod shared_state;
mod sleepers;
mod verdicts;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proc_core::{Options, Pool, StartMethod};

use crate::choice::Fault;
use crate::ledger::{CALLS, FATES, FAULTS};
use crate::tasks::{Act, CopyAct, Spec};
use crate::test_pool::{Round, TestPool};
use crate::watch::OpenCall;

/// Whether tasks of a call may fail because their time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timing {
    Plain,
    /// The call has a timeout for each task.
    Timed,
}

/// What kind of tasks a call has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TaskMix {
    Calm,
    /// Some fail, and some kill their worker.
    Mixed,
    Large,
    /// Some never return.
    Hanging,
}

/// A thread that makes calls.
pub(crate) struct Caller<'a> {
    round: &'a Round<'a>,
    rng: fastrand::Rng,
}

impl<'a> Caller<'a> {
    pub(crate) fn new(round: &'a Round<'a>, rng: fastrand::Rng) -> Caller<'a> {
        Caller { round, rng }
    }

    /// Makes calls until the round is over.
    pub(crate) fn run(&mut self, test_pools: &[TestPool]) {
        let has_time = |round: &Round<'_>| {
            Instant::now() < round.end && round.ledger.total(FATES) < round.tasks
        };
        while has_time(self.round) {
            let open: Vec<_> = test_pools.iter().filter(|test_pool| !test_pool.is_over()).collect();
            let Some(test_pool) = self.rng.choice(open) else { return };
            match self.rng.u32(..100) {
                0..2 => self.terminate(test_pool),
                2..8 if self.round.start_method != StartMethod::Fork => self.own_pool(),
                8..14 => self.process(),
                14..20
                    if self.round.start_method != StartMethod::Fork
                        && self.round.faults.has(Fault::Sleepers) =>
                {
                    self.sleepers();
                }
                20..27 if self.round.faults.has(Fault::Copies) => self.copies(test_pool),
                27..32 => self.pipe(),
                _ => self.random_call(test_pool),
            }
        }
    }

    /// Makes one call of a random kind.
    fn random_call(&mut self, test_pool: &TestPool) {
        match self.rng.u32(..22) {
            0..3 => self.tiny(test_pool),
            3..6 => self.try_map(test_pool, TaskMix::Mixed, Timing::Plain),
            6 => self.try_map(test_pool, TaskMix::Large, Timing::Plain),
            7 => self.try_map(test_pool, TaskMix::Hanging, Timing::Timed),
            8 => self.map(test_pool),
            9..11 => self.imap(test_pool),
            11..14 => self.tasks(test_pool),
            14 => self.channel(test_pool),
            15..18 => self.shared_state(test_pool),
            18..21 => self.messages(test_pool),
            _ => self.map_async(test_pool),
        }
    }

    /// Notes that a call begins.
    fn begin(&mut self, what: &str) -> OpenCall<'a> {
        self.begin_within(what, Duration::MAX)
    }

    /// Like [`begin`](Caller::begin), with a time limit.
    fn begin_within(&mut self, what: &str, limit: Duration) -> OpenCall<'a> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        self.round.ledger.add(CALLS, what, 1);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        self.round.watch.begin_within(serial, what.to_owned(), limit)
    }

    /// Returns random tasks with consecutive numbers.
    fn specs(&mut self, count: usize, task_mix: TaskMix) -> Vec<Spec> {
        let first = self.rng.u64(..);
        let spec = |index| self.spec(first.wrapping_add(index), task_mix);
        (0..count as u64).map(spec).collect()
    }

    fn spec(&mut self, number: u64, task_mix: TaskMix) -> Spec {
        let rng = &mut self.rng;
        let act = match (task_mix, rng.u32(..64)) {
            (TaskMix::Mixed, 0) => match rng.u32(..8) {
                0 => Act::OverflowStack,
                1 => Act::ExhaustMemory,
                2..4 => Act::Abort,
                _ => Act::Exit(rng.u8(..)),
            },
            (TaskMix::Mixed, 1..3) => Act::Panic,
            (TaskMix::Mixed, 3) => Act::PanicWithoutText,
            (TaskMix::Mixed, 4) => Act::UnwritableArgument,
            (TaskMix::Mixed, 5) => Act::UnreadableArgument,
            (TaskMix::Mixed, 6) => Act::UnwritableResult,
            (TaskMix::Mixed, 7) => Act::UnreadableResult,
            (TaskMix::Hanging, 0..8) => Act::Hang,
            (TaskMix::Mixed, 8..10) if self.round.faults.has(Fault::Forks) => {
                self.round.ledger.add(FAULTS, "task that forks", 1);
                match rng.u32(..4) {
                    0 => Act::Fork(CopyAct::Panics),
                    1 => Act::Fork(CopyAct::Lingers(rng.u32(..20_000))),
                    _ => Act::Fork(CopyAct::Returns),
                }
            }
            (_, 60..) => Act::Spin(rng.u32(..2000)),
            _ => Act::Work,
        };
        let is_accident = !matches!(act, Act::Work | Act::Spin(_) | Act::Fork(_) | Act::Hang);
        let act =
            if is_accident && !self.round.faults.has(Fault::Accidents) { Act::Work } else { act };
        let bits = if task_mix == TaskMix::Large { 23 } else { 10 };
        let mut size = || {
            let most = 1 << rng.u32(..bits);
            if rng.u32(..4) == 0 { rng.u32(..most) } else { 0 }
        };
        Spec { number, act, sizes: (size(), size()) }
    }

    /// Returns random options of a call.
    fn options<'p>(&mut self, test_pool: &'p TestPool) -> Options<'p, Pool> {
        let options = test_pool.pool.options();
        let options = match self.rng.u32(..6) {
            0 => options.chunksize(1),
            1 => options.chunksize(self.rng.usize(1..100)),
            _ => options,
        };
        if self.rng.u32(..4) == 0 { options.retries(self.rng.u32(1..3)) } else { options }
    }
}
