//! A pool of workers: built, used, closed and joined.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use anyhow::Result;
use proc_core::{Pool, StartMethod};

/// A global: each process has its own.
/// The one of the parent stays 1.
static EXPONENT: AtomicU32 = AtomicU32::new(1);

/// The initializer: each worker calls it once, before
/// its first task.
fn set_exponent((value, verbose): (u32, bool)) {
    EXPONENT.store(value, Relaxed);
    let pid = process::id();
    let line = format!("worker with pid {pid} is ready\n");
    if verbose {
        // One write, so the line stays whole.
        eprint!("{line}");
    }
}

/// The task: called once for each number.
fn power(number: i64) -> i64 {
    number.pow(EXPONENT.load(Relaxed))
}

/// What the program is run with.
pub(crate) struct Settings {
    pub(crate) processes: usize,
    pub(crate) exponent: u32,
    pub(crate) verbose: bool,
    pub(crate) max_tasks_per_child: u64,
    pub(crate) start_method: StartMethod,
    pub(crate) numbers: Vec<i64>,
}

pub(crate) fn run(settings: Settings) -> Result<()> {
    let initargs = (settings.exponent, settings.verbose);

    // Build: the workers start, and wait for tasks.
    let pool = Pool::builder()
        // How many workers. Without it: one for each CPU.
        .processes(settings.processes)
        // What each worker calls first, and its argument:
        // a tuple where there are several.
        .initializer(set_exponent, initargs)
        // After so many tasks, a new worker takes over.
        .max_tasks_per_child(settings.max_tasks_per_child)
        // How workers are made.
        .start_method(settings.start_method)
        .build()?;

    // Use: results come in the order of the numbers.
    let powers = pool.map(power, settings.numbers)?;

    // Close: the pool takes no more tasks.
    pool.close();

    // Join: wait until all workers have ended.
    pool.join()?;

    println!("{powers:?}");
    Ok(())
}

fn main() -> Result<()> {
    proc_core::init();
    let settings = Settings {
        processes: 5,
        exponent: 2,
        verbose: false,
        max_tasks_per_child: 100,
        start_method: StartMethod::Forkserver,
        numbers: vec![3, 4, 5, 6, 6, 7, 87, 8, 8],
    };
    run(settings)
}
