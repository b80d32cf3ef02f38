//! Two parts of a program add 1 to the same value.

use std::thread;

use anyhow::Result;
use proc_core::Process;
use proc_core::sync::{Barrier, Value};

/// Both read the value before either of them writes it.
pub(crate) fn lose((value, both): (Value<u64>, Barrier)) {
    let read = value.get();
    both.wait().expect("the other one lives");
    value.set(read + 1);
}

/// Nobody writes between the reading and the writing.
pub(crate) fn keep((value, both): (Value<u64>, Barrier)) {
    both.wait().expect("the other one lives");
    value.fetch_add(1);
}

/// Threads can use what processes share.
pub(crate) fn in_threads(
    add: impl Fn((Value<u64>, Barrier)) + Sync,
) -> Result<u64> {
    let both = (Value::new(0)?, Barrier::new(2)?);
    thread::scope(|threads| {
        threads.spawn(|| add(both.clone()));
        threads.spawn(|| add(both.clone()));
    });
    Ok(both.0.get())
}

pub(crate) fn in_processes(
    add: impl Fn((Value<u64>, Barrier)) + Copy + 'static,
) -> Result<u64> {
    let both = (Value::new(0)?, Barrier::new(2)?);
    let one = Process::new(add, both.clone()).start()?;
    let other = Process::new(add, both.clone()).start()?;
    one.join()?;
    other.join()?;
    Ok(both.0.get())
}
