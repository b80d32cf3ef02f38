//! Processes, and pools that begin and end.

use std::time::Duration;

use proc_core::{ErrorKind, Process, StartMethod, Task};

use super::verdicts::{Tally, kind};
use super::{Caller, Mood};
use crate::station::Station;
use crate::tasks::{Order, Spec, obey, obey_quietly};
use crate::watch::broken;

impl Caller<'_> {
    pub(super) fn process(&mut self) {
        let _on_the_way = self.begin("process");
        let spec = self.specs(1, Mood::Mixed)[0];
        // There are threads.
        let context = match self.round.context {
            StartMethod::Fork => StartMethod::Forkserver,
            other => other,
        };
        let killed = self.round.faults.fork_servers_killed();
        let started = Process::new(obey_quietly, spec.order()).start_method(context).start();
        let mut tally = Tally::default();
        let result = match started {
            Ok(child) => match self.rng.u32(..4) {
                0 => {
                    self.round.faults.note(child.pid());
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
            Err(error) if spec.makes(error) => tally.add(kind(error)),
            Err(error) if error.is_death() => match self.round.faults.explain(error) {
                Ok(()) => tally.add("death, by a fault from outside"),
                Err(why) => broken(&format!("{spec:?} in a process: {error}, but {why}")),
            },
            other => broken(&format!("{spec:?} in a process gives {other:?}")),
        }
        tally.book(self.round.ledger);
    }

    /// A pool that is made for a call or two, and dropped, perhaps in the middle of one.
    pub(super) fn own_pool(&mut self) {
        let on_the_way = self.begin("pool of one's own");
        let station = Station::build(self.round, &mut self.rng);
        drop(on_the_way);
        let Some(station) = station else { return };
        for _ in 0..self.rng.u32(..3) {
            self.play(&station);
        }
        let _on_the_way = self.begin("end of a pool of one's own");
        let count = self.rng.usize(..200);
        let specs = self.specs(count, Mood::Hanging);
        let orders: Vec<Order> = specs.iter().map(Spec::order).collect();
        let task = station.pool.map_async(obey, orders);
        std::thread::park_timeout(Duration::from_micros(self.rng.u64(..3000)));
        station.end();
        let result = match self.rng.u32(..2) {
            0 => {
                station.pool.terminate();
                task.and_then(Task::get)
            }
            _ => std::thread::scope(|scope| {
                let waiting = scope.spawn(|| task.and_then(Task::get));
                station.pool.terminate();
                waiting.join().unwrap_or_else(|_| broken("waiting for a result panics"))
            }),
        };
        self.judge_map(&station, &specs, result);
        if self.rng.bool() {
            station.pool.close();
            // It is over, with or without a reason.
            let _ = station.pool.join();
        }
    }

    /// Ends a pool that others use.
    pub(super) fn terminate(&mut self, station: &Station) {
        let _on_the_way = self.begin("terminate");
        station.end();
        station.pool.terminate();
    }
}
