//! Two parts of a program add 1 to the same value.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use proc_core::{Error, Process};

/// Both read the value before either of them writes it.
pub(crate) fn add_in_threads() -> u64 {
    let value = AtomicU64::new(0);
    let both_have_read = Barrier::new(2);
    let add = || {
        let read = value.load(Relaxed);
        both_have_read.wait();
        value.store(read + 1, Relaxed);
    };
    thread::scope(|threads| {
        threads.spawn(add);
        threads.spawn(add);
    });
    value.into_inner()
}

/// Its argument is a copy, and so is what it returns.
fn add_one(read: u64) -> u64 {
    read + 1
}

pub(crate) fn add_in_processes() -> Result<u64, Error> {
    let one = Process::new(add_one, 0).start()?;
    let other = Process::new(add_one, 0).start()?;
    Ok(one.join()? + other.join()?)
}
