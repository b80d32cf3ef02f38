//! Two parts of a program add 1 to the same value.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::Result;
use proc_core::{Error, Process};

use crate::fate::{Fate, LONG, run};

pub(crate) fn of_threads() -> Result<Fate> {
    run(
        |()| {
            let (value, both_have_read) = (AtomicU64::new(0), Barrier::new(2));
            let add = || {
                let read = value.load(Ordering::Relaxed);
                both_have_read.wait();
                value.store(read + 1, Ordering::Relaxed);
            };
            thread::scope(|threads| {
                threads.spawn(add);
                threads.spawn(add);
            });
            format!("the sum is {}", value.into_inner())
        },
        (),
        LONG,
    )
}

pub(crate) fn of_processes() -> Result<Fate> {
    run(
        |()| {
            let add = |read: u64| read + 1;
            let sum = || -> Result<u64, Error> {
                let started = [Process::new(add, 0).start()?, Process::new(add, 0).start()?];
                started.into_iter().map(|process| process.join()).sum()
            };
            sum().map_or_else(|error| error.to_string(), |sum| format!("the sum is {sum}"))
        },
        (),
        LONG,
    )
}
