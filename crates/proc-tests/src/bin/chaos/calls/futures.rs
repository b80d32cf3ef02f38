//! Tasks whose results are fetched later, and tasks with a channel end.

use std::sync::mpsc;
use std::time::Duration;

use ipc_channel::ipc::{self, IpcSender};
use proc_core::StartMethod;

use super::copies::join;
use super::verdicts::Tally;
use super::{Caller, TaskMix, Timing};
use crate::tasks::{Act, mix, obey};
use crate::test_pool::TestPool;
use crate::watch::fail;

impl Caller<'_> {
    /// Starts several tasks. Waits for them, polls, cancels or drops them in a random order.
    pub(super) fn tasks(&mut self, test_pool: &TestPool) {
        let _open_call = self.begin("apply_async");
        let task_mix = if self.rng.bool() { TaskMix::Mixed } else { TaskMix::Hanging };
        let count = self.rng.usize(1..12);
        let mut open = Vec::new();
        let mut tally = Tally::default();
        for spec in self.specs(count, task_mix) {
            match self.options(test_pool).apply_async(obey, spec.order()) {
                Ok(task) => open.push((spec, task)),
                Err(error) => {
                    self.judge(test_pool, Timing::Plain, 0, &spec, &Err(error), &mut tally);
                }
            }
        }
        self.rng.shuffle(&mut open);
        // Tasks that hang are cancelled first. The others may wait for their workers.
        open.sort_by_key(|(spec, _)| spec.act != Act::Hang);
        let mut copy = None;
        if self.wants_copies() {
            let mut rng = self.rng.fork();
            copy = self.copy(|misuse| {
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
                        (true, Ok(_)) => fail("a task was cancelled, and has a result"),
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
                // `Fork` is not possible in a process that has the thread of callbacks.
                5 if test_pool.start_method != StartMethod::Fork => {
                    let (sender, result) = mpsc::channel();
                    task.on_done(move |result| drop(sender.send(result)));
                    match result.recv() {
                        Ok(result) => result,
                        Err(_) => fail("a callback was dropped without being called"),
                    }
                }
                6 => continue,
                _ => task.get(),
            };
            self.judge(test_pool, Timing::Plain, 0, &spec, &result, &mut tally);
        }
        join(copy);
        tally.book(self.round.ledger);
    }

    /// Calls with a channel end in the argument. The result also comes through the channel.
    pub(super) fn channel(&mut self, test_pool: &TestPool) {
        let _open_call = self.begin("apply with a channel end");
        let relay = |(number, sender): (u64, IpcSender<u64>)| {
            sender.send(mix(number)).map_or(0, |()| mix(number))
        };
        let mut tally = Tally::default();
        for number in self.rng.clone().choose_multiple(0..1000_u64, 3) {
            let (sender, receiver) = match ipc::channel() {
                Ok(pair) => pair,
                Err(error) => fail(&format!("no channel can be made: {error}")),
            };
            match test_pool.pool.apply(relay, (number, sender)) {
                Ok(value) if value == mix(number) && receiver.recv().ok() == Some(value) => {
                    tally.add("result");
                }
                Ok(value) => fail(&format!("channel task {number} gives {value}")),
                Err(error) => self.excuse(test_pool, Timing::Plain, 0, &error, &mut tally),
            }
        }
        tally.book(self.round.ledger);
    }
}
