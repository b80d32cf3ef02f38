//! Four ways to give a counter to other processes.

use std::sync::OnceLock;

use anyhow::Result;
use proc_core::sync::Value;
use proc_core::{Pool, Process};

static COUNTER: OnceLock<Value<u32>> = OnceLock::new();

fn main() -> Result<()> {
    // A static. `init` makes the fork server, which is a
    // copy of the program, so the static is set before.
    let counter = Value::new(0)?;
    COUNTER.set(counter.clone()).expect("not yet set");
    proc_core::init();
    let add = |_: ()| {
        let counter = COUNTER.get().expect("a copy");
        counter.fetch_add(1);
    };
    Process::new(add, ()).start()?.join()?;

    // The argument of a process, or a part of it.
    let add = |(counter, n): (Value<u32>, u32)| {
        counter.fetch_add(n);
    };
    let argument = (counter.clone(), 10);
    Process::new(add, argument).start()?.join()?;

    // The state of each worker, or a part of it.
    let pool = Pool::builder()
        .processes(2)
        .state(|counter| counter, counter.clone())
        .build()?;
    let add = |counter: &mut Value<u32>, n: u32| {
        counter.fetch_add(n);
    };
    pool.with_state().map(add, [100, 100])?;

    // What all tasks of a call borrow.
    let add = |counter: &Value<u32>, n: u32| {
        counter.fetch_add(n);
    };
    pool.with(counter.clone()).map(add, [1000, 1000])?;

    println!("{}", counter.get());
    Ok(())
}
