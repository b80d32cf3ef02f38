//! Copies of the program, in which every call is an error, and which the original does not notice.

use proc_core::{Error, StartMethod, Task};

use super::{Caller, Mood, Terms};
use crate::choice::Fault;
use crate::ledger::FAULTS;
use crate::station::Station;
use crate::tasks::mix;
use crate::twins::{Misuse, Twin};
use crate::watch::broken;

impl Caller<'_> {
    /// Whether a call is to be copied in its middle.
    pub(super) fn wants_copies(&mut self) -> bool {
        self.rng.u32(..4) == 0 && self.round.faults.has(Fault::Copies)
    }

    /// Starts a copy of the program. What it does is counted once, whatever it does.
    pub(super) fn copy(&self, misuse: impl FnOnce(&Misuse)) -> Option<Twin> {
        let twin = Twin::start(misuse);
        if twin.is_some() {
            self.round.ledger.add(FAULTS, "copy of the program", 1);
        }
        twin
    }

    /// Calls of pools in a copy of the program, and in the original meanwhile and afterwards.
    pub(super) fn copies(&mut self, station: &Station) {
        let on_the_way = self.begin("calls in a copy of the program");
        let has_own = self.rng.bool() && self.round.context != StartMethod::Fork;
        let mut own = if has_own { Station::build(self.round, &mut self.rng) } else { None };
        let mut uses = USES;
        self.rng.shuffle(&mut uses);
        let twin = self.copy(|misuse| {
            uses.iter().for_each(|call| call(misuse, own.as_ref().unwrap_or(station)));
            misuse.does_nothing("drop of a pool", || drop(own.take()));
        });
        drop(on_the_way);
        let station = own.as_ref().unwrap_or(station);
        // Beside the copy, or when what it did has happened.
        if self.rng.bool() {
            self.try_map(station, Mood::Mixed, Terms::Plain);
        }
        let on_the_way = self.begin("end of a copy of the program");
        join(twin);
        drop(on_the_way);
        self.tiny(station);
    }
}

/// Waits for a copy, which must have found errors only.
pub(super) fn join(twin: Option<Twin>) {
    if let Some(Err(why)) = twin.map(Twin::join) {
        broken(&format!("a copy of the program: {why}"));
    }
}

/// The calls that a copy makes of a pool, each once, in any order.
const USES: [fn(&Misuse, &Station); 8] = [
    |misuse, Station { pool, .. }| misuse.fails("map", || pool.map(mix, 0..9)),
    |misuse, Station { pool, .. }| {
        // One that succeeds is one too many.
        misuse.fails("try_map", || {
            let results: Vec<Result<u64, Error>> = pool.try_map(mix, 0..9);
            results.into_iter().reduce(Result::or).unwrap_or(Ok(0))
        });
    },
    |misuse, Station { pool, .. }| misuse.fails("apply", || pool.apply(mix, 7)),
    |misuse, Station { pool, .. }| {
        misuse.fails("map_async", || pool.map_async(mix, 0..9).and_then(Task::get));
    },
    |misuse, Station { pool, .. }| {
        misuse.fails("imap", || pool.imap(mix, 0..9).next().unwrap_or(Ok(0)));
    },
    |misuse, Station { pool, workers, .. }| misuse.fails("resize", || pool.resize(workers + 1)),
    |misuse, Station { pool, .. }| misuse.does_nothing("terminate", || pool.terminate()),
    |misuse, Station { pool, .. }| {
        misuse.does_nothing("close", || pool.close());
        misuse.fails("join", || pool.join());
    },
];
