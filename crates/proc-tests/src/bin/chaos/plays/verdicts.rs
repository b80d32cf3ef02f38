//! Whether what comes back can be right.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use proc_core::{Error, ErrorKind, StartMethod};

use super::{Caller, Terms};
use crate::ledger::{FATES, Ledger};
use crate::station::Station;
use crate::tasks::{Answer, Spec};
use crate::watch::broken;

impl Caller<'_> {
    pub(super) fn judge(
        &self,
        station: &Station,
        terms: Terms,
        index: usize,
        spec: &Spec,
        result: &Result<Answer, Error>,
        tally: &mut Tally,
    ) {
        match result {
            Ok(answer) if spec.is_answer(answer) => tally.add("result"),
            Ok(answer) => broken(&format!("task {index}, {spec:?}, gives {answer:?}")),
            Err(error) if spec.makes(error) && error.task().is_none_or(|task| task == index) => {
                tally.add(kind(error));
            }
            Err(error) => self.excuse(station, terms, index, error, tally),
        }
    }

    /// An error that the task itself does not explain must be explained by something else.
    pub(super) fn excuse(
        &self,
        station: &Station,
        terms: Terms,
        index: usize,
        error: &Error,
        tally: &mut Tally,
    ) {
        let faults = &self.round.faults;
        let excuse = if error.is_death() {
            faults.explain(error).map(|()| "death, by a fault from outside")
        } else if error.is_timeout() && terms == Terms::Timed {
            Ok(kind(error))
        } else {
            station.is_spent.store(true, Ordering::SeqCst);
            let is_forked = station.context == StartMethod::Fork;
            let explained = (error.is_closed() && station.is_ended.load(Ordering::SeqCst))
                || (error.kind() == ErrorKind::Initializer && station.is_flaky)
                || (error.kind() == ErrorKind::Start
                    && is_forked
                    && faults.fork_servers_killed() > 0);
            if explained { Ok(kind(error)) } else { Err("nothing explains it".to_owned()) }
        };
        match excuse {
            Ok(name) if error.task().is_none_or(|task| task == index) => tally.add(name),
            Ok(_) => broken(&format!("task {index} is told the error of another: {error}")),
            Err(why) => broken(&format!("task {index} ({terms:?}): {error}, but {why}")),
        }
    }
}

/// An error in the words of the table.
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

    pub(super) fn book(self, ledger: &Ledger) {
        self.0.into_iter().for_each(|(name, count)| ledger.add(FATES, name, count));
    }
}
