//! Tasks of which one kills its own process, and what is left of the rest.

use std::ops::Range;

use nix::sys::signal::{Signal, raise};
use proc_core::{Error, Pool, Process};

pub(crate) const TASKS: u32 = 8;
pub(crate) const VICTIM: u32 = 3;

fn task(number: u32) -> u32 {
    if number == VICTIM {
        // No process can catch this signal. The kernel
        // sends it when memory runs out.
        raise(Signal::SIGKILL).expect("a signal to itself");
    }
    number * number
}

fn all_tasks((): ()) -> Vec<u32> {
    (0..TASKS).map(task).collect()
}

/// All tasks one after the other, as without a pool.
pub(crate) fn in_one_process() -> Result<Vec<u32>, Error> {
    // The results come back by themselves: no queue.
    let alone = Process::new(all_tasks, ()).name("alone");
    let alone = alone.start()?;
    let results = alone.join()?;
    // `join` gives back the results, or an error that says
    // how the process ended.
    Ok(results)
}

/// Several tasks, of which one may kill its worker.
pub(crate) fn at_once(
    pool: &Pool,
    tasks: Range<u32>,
) -> Vec<Result<u32, Error>> {
    pool.try_map(task, tasks)
}
