//! Judges whether a result can be right.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use proc_core::{Error, ErrorKind, StartMethod};

use super::{Caller, Timing};
use crate::ledger::{FATES, Ledger};
use crate::tasks::{Answer, Spec};
use crate::test_pool::TestPool;
use crate::watch::fail;

impl Caller<'_> {
    /// Judges the result of one task.
    pub(super) fn judge(
        &self,
        test_pool: &TestPool,
        timing: Timing,
        index: usize,
        spec: &Spec,
        result: &Result<Answer, Error>,
        tally: &mut Tally,
    ) {
        match result {
            Ok(answer) if spec.is_answer(answer) => tally.add("result"),
            Ok(answer) => fail(&format!("task {index}, {spec:?}, gives {answer:?}")),
            Err(error) if spec.causes(error) && error.task().is_none_or(|task| task == index) => {
                tally.add(kind(error));
            }
            Err(error) => self.excuse(test_pool, timing, index, error, tally),
        }
    }

    /// Judges an error that the task itself has not caused: a fault must explain it.
    pub(super) fn excuse(
        &self,
        test_pool: &TestPool,
        timing: Timing,
        index: usize,
        error: &Error,
        tally: &mut Tally,
    ) {
        let faults = &self.round.faults;
        let excuse = if error.is_death() {
            faults.explain(error).map(|()| "death, by a fault from outside")
        } else if error.is_timeout() && timing == Timing::Timed {
            Ok(kind(error))
        } else {
            test_pool.is_spent.store(true, Ordering::SeqCst);
            let is_forked = test_pool.start_method == StartMethod::Fork;
            let explained = (error.is_closed() && test_pool.is_ended.load(Ordering::SeqCst))
                || (error.kind() == ErrorKind::Initializer && test_pool.is_flaky)
                || (error.kind() == ErrorKind::Start
                    && is_forked
                    && faults.fork_servers_killed() > 0);
            if explained { Ok(kind(error)) } else { Err("nothing explains it".to_owned()) }
        };
        match excuse {
            Ok(name) if error.task().is_none_or(|task| task == index) => tally.add(name),
            Ok(_) => fail(&format!("task {index} has the error of another task: {error}")),
            Err(why) => fail(&format!("task {index} ({timing:?}): {error}, but {why}")),
        }
    }
}

/// The name of an error's kind in the table.
pub(super) fn kind(error: &Error) -> &'static str {
    let kinds = [
        (error.is_panic(), "panic"),
        (error.is_death(), "death, of its own doing"),
        (error.is_timeout(), "timeout"),
        (error.is_cancelled(), "cancelled"),
        (error.kind() == ErrorKind::Encode, "not encoded"),
        (error.kind() == ErrorKind::Decode, "not decoded"),
        (error.kind() == ErrorKind::Start, "start, of a pool without its fork server"),
        (error.kind() == ErrorKind::Initializer, "initializer"),
        (error.is_closed(), "closed"),
    ];
    kinds.iter().find(|(is, _)| *is).map_or("other", |(_, name)| name)
}

/// The fates of one call's tasks.
#[derive(Default)]
pub(super) struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    pub(super) fn add(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    /// Adds the fates to the ledger.
    pub(super) fn book(self, ledger: &Ledger) {
        self.0.into_iter().for_each(|(name, count)| ledger.add(FATES, name, count));
    }
}
