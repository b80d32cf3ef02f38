//! Idle workers that are stopped: calls complete all the same.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Caller, Mood, Terms};
use crate::ledger::FAULTS;
use crate::station::Station;
use crate::watch::broken;

/// How long a call may take while idle workers are stopped. Some seconds, on a machine with much to
/// do.
const SLEEPERS_LIMIT: Duration = Duration::from_secs(10);

/// How long workers are stopped that nobody continues or kills before.
const LONG: Duration = Duration::from_secs(3600);

impl Caller<'_> {
    /// Stops workers of a pool that has nothing to do, and calls.
    ///
    /// Where one is left, it does the work; where none is left, the time limit ends the tasks, or
    /// the workers go on after a while.
    pub(super) fn sleepers(&mut self) {
        let on_the_way = self.begin("pool whose workers are stopped");
        let station = Station::build(self.round, &mut self.rng);
        drop(on_the_way);
        let Some(station) = station else { return };
        // Has all of them started, and idle afterwards.
        self.try_map(&station, Mood::Calm, Terms::Plain);
        let mut stopped = station.pool.worker_pids();
        self.rng.shuffle(&mut stopped);
        let all = stopped.len();
        stopped.truncate(self.rng.usize(1..=all.max(1)));
        let are_all = stopped.len() == all;
        let terms = if self.rng.bool() { Terms::Timed } else { Terms::Plain };
        let soon = Duration::from_millis(self.rng.u64(50..1000));
        let until = if are_all && terms == Terms::Plain { soon } else { LONG };
        let name = match (are_all, terms) {
            (true, Terms::Plain) => "SIGSTOP of all idle workers for a while",
            (true, Terms::Timed) => "SIGSTOP of all idle workers, tasks timed",
            (false, Terms::Plain) => "SIGSTOP of some idle workers",
            (false, Terms::Timed) => "SIGSTOP of some idle workers, tasks timed",
        };
        self.round.ledger.add(FAULTS, name, 1);
        let until = Instant::now() + until;
        stopped.iter().for_each(|worker| self.round.faults.stop(*worker, until));
        for _ in 0..self.rng.u32(1..4) {
            let on_the_way = self.begin_within(name, SLEEPERS_LIMIT);
            // One task goes to one worker first, perhaps to one that is stopped.
            let count = if self.rng.bool() { 1 } else { self.rng.usize(2..12) };
            let specs = self.specs(count, Mood::Calm);
            self.try_map_of(&station, &specs, terms);
            drop(on_the_way);
        }
        let are_left = match self.rng.u32(..3) {
            0 => {
                self.round.faults.wake(&stopped);
                false
            }
            1 => {
                // A time limit has replaced those that are not there any more.
                let workers = station.pool.worker_pids();
                for worker in stopped.iter().filter(|worker| workers.contains(worker)) {
                    self.round.faults.kill_worker(*worker, Signal::SIGKILL);
                }
                false
            }
            // The pool ends with them.
            _ => are_all,
        };
        if !are_left && self.rng.bool() {
            self.try_map(&station, Mood::Mixed, Terms::Plain);
        }
        let start = Instant::now();
        let _on_the_way = self.begin("end of a pool whose workers are stopped");
        drop(station);
        self.round.faults.wake(&stopped);
        if start.elapsed() > SLEEPERS_LIMIT {
            broken(&format!("the end of a pool of stopped workers takes {:?}", start.elapsed()));
        }
    }
}
