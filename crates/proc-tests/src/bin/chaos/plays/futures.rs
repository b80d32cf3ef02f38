//! Tasks that are waited for later, and tasks with a channel end.

use std::sync::mpsc;
use std::time::Duration;

use ipc_channel::ipc::{self, IpcSender};
use proc_core::StartMethod;

use super::copies::join;
use super::verdicts::Tally;
use super::{Caller, Mood, Terms};
use crate::station::Station;
use crate::tasks::{Act, mix, obey};
use crate::watch::broken;

impl Caller<'_> {
    /// Several tasks at once, waited for, looked at, cancelled or forgotten in any order.
    pub(super) fn tasks(&mut self, station: &Station) {
        let _on_the_way = self.begin("apply_async");
        let mood = if self.rng.bool() { Mood::Mixed } else { Mood::Hanging };
        let count = self.rng.usize(1..12);
        let mut open = Vec::new();
        let mut tally = Tally::default();
        for spec in self.specs(count, mood) {
            match self.options(station).apply_async(obey, spec.order()) {
                Ok(task) => open.push((spec, task)),
                Err(error) => {
                    self.judge(station, Terms::Plain, 0, &spec, &Err(error), &mut tally);
                }
            }
        }
        self.rng.shuffle(&mut open);
        // What hangs goes first: what waits for its worker would wait for ever.
        open.sort_by_key(|(spec, _)| spec.act != Act::Hang);
        let mut twin = None;
        if self.wants_copies() {
            let mut rng = self.rng.fork();
            twin = self.copy(|misuse| {
                for (_, mut task) in open.drain(..) {
                    match rng.u32(..4) {
                        0 => misuse.does_nothing("drop of a task", || drop(task)),
                        1 => {
                            misuse.does_nothing("cancel of a task", || task.cancel());
                            misuse.fails("get of a cancelled task", || task.get());
                        }
                        2 => {
                            misuse.does_nothing("is_ready of a task", || task.is_ready());
                            misuse.fails("get_timeout of a task", || {
                                task.get_timeout(Duration::from_secs(9))
                            });
                        }
                        _ => misuse.fails("get of a task", || task.get()),
                    }
                }
            });
        }
        for (spec, mut task) in open {
            let way = if spec.act == Act::Hang { 0 } else { self.rng.u32(..8) };
            let result = match way {
                0 | 1 => {
                    std::thread::park_timeout(Duration::from_micros(self.rng.u64(..3000)));
                    let was_open = task.cancel();
                    match (was_open, task.get()) {
                        (true, Err(error)) if error.is_cancelled() => {
                            tally.add("cancelled");
                            continue;
                        }
                        (true, Ok(_)) => broken("a task was cancelled, and has a result"),
                        (_, result) => result,
                    }
                }
                2 => loop {
                    let timeout = Duration::from_micros(self.rng.u64(..5000));
                    if let Some(result) = task.get_timeout(timeout).transpose() {
                        break result;
                    }
                },
                3 => {
                    while !task.is_ready() {
                        std::thread::yield_now();
                    }
                    task.get()
                }
                4 => pollster::block_on(task),
                // A thread for callbacks would be in the way of forking.
                5 if station.context != StartMethod::Fork => {
                    let (sender, result) = mpsc::channel();
                    task.on_done(move |result| drop(sender.send(result)));
                    match result.recv() {
                        Ok(result) => result,
                        Err(_) => broken("a callback was dropped without being called"),
                    }
                }
                6 => continue,
                _ => task.get(),
            };
            self.judge(station, Terms::Plain, 0, &spec, &result, &mut tally);
        }
        join(twin);
        tally.book(self.round.ledger);
    }

    /// An argument with a channel end, through which the result comes as well.
    pub(super) fn channel(&mut self, station: &Station) {
        let _on_the_way = self.begin("apply with a channel end");
        let relay = |(number, sender): (u64, IpcSender<u64>)| {
            sender.send(mix(number)).map_or(0, |()| mix(number))
        };
        let mut tally = Tally::default();
        for number in self.rng.clone().choose_multiple(0..1000_u64, 3) {
            let (sender, receiver) = match ipc::channel() {
                Ok(pair) => pair,
                Err(error) => broken(&format!("no channel can be made: {error}")),
            };
            match station.pool.apply(relay, (number, sender)) {
                Ok(value) if value == mix(number) && receiver.recv().ok() == Some(value) => {
                    tally.add("result");
                }
                Ok(value) => broken(&format!("channel task {number} gives {value}")),
                Err(error) => self.excuse(station, Terms::Plain, 0, &error, &mut tally),
            }
        }
        tally.book(self.round.ledger);
    }
}
