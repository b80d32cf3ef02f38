//! Tasks of which one kills its own process, and what is left of the rest.

use nix::sys::signal::{Signal, raise};
use proc_core::{Error, Pool, Process};

pub(crate) const TASKS: u32 = 8;
pub(crate) const VICTIM: u32 = 3;

fn task(number: u32) -> u32 {
    if number == VICTIM {
        // No process can catch this signal. The kernel sends it when memory runs out.
        raise(Signal::SIGKILL).expect("a process may kill itself");
    }
    number * number
}

/// All tasks one after the other, as a program without a pool would do it.
pub(crate) fn in_one_process() -> Result<Vec<u32>, Error> {
    Process::new(|()| (0..TASKS).map(task).collect(), ()).name("alone").start()?.join()
}

/// Each task's own fate.
pub(crate) fn in_pool(pool: &Pool) -> Vec<Result<u32, Error>> {
    pool.try_map(task, 0..TASKS)
}

/// Other tasks, which kill nobody.
pub(crate) fn in_pool_later(pool: &Pool) -> Vec<Result<u32, Error>> {
    pool.try_map(task, TASKS..2 * TASKS)
}
