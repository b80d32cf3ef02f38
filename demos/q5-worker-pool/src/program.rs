//! A pool of worker processes from build to join, with every argument of its constructor at work.

use std::sync::atomic::{AtomicU32, Ordering};

use proc_core::{Pool, StartMethod};

/// A global, so each process has its own. In the parent it stays 1 for ever.
static EXPONENT: AtomicU32 = AtomicU32::new(1);

/// The initializer: each worker calls it once, before its first task.
fn set_exponent((exponent, verbose): (u32, bool)) {
    EXPONENT.store(exponent, Ordering::Relaxed);
    if verbose {
        // One write, so that no other worker's line gets into this one.
        let line = format!("worker with pid {} is ready\n", std::process::id());
        eprint!("{line}");
    }
}

/// The task: called once for each number, in whichever worker is free.
fn power(number: i64) -> i64 {
    number.pow(EXPONENT.load(Ordering::Relaxed))
}

/// What the pool is built with.
pub(crate) struct Settings {
    pub(crate) processes: usize,
    pub(crate) exponent: u32,
    pub(crate) verbose: bool,
    pub(crate) max_tasks_per_child: u64,
    pub(crate) start_method: StartMethod,
}

pub(crate) fn run(settings: Settings, numbers: Vec<i64>) -> anyhow::Result<()> {
    // Build: the workers start now, and wait for tasks. Every line between is optional.
    let pool = Pool::builder()
        // How many workers; otherwise one for each CPU.
        .processes(settings.processes)
        // What each worker calls first, and with what.
        .initializer(set_exponent, (settings.exponent, settings.verbose))
        // After so many tasks a fresh worker takes over; otherwise they live as long as the pool.
        .max_tasks_per_child(settings.max_tasks_per_child)
        // Where the memory of a new worker comes from; otherwise the system's default.
        .start_method(settings.start_method)
        .build()?;

    // Use, as often as you like: results come in the order of the numbers, whoever was faster.
    let powers = pool.map(power, numbers)?;

    // Close: no more tasks are taken, so a worker without one can go home.
    pool.close();

    // Join: wait until the last worker has ended.
    pool.join()?;

    println!("{powers:?}");
    Ok(())
}

fn main() -> anyhow::Result<()> {
    proc_core::init();
    let settings = Settings {
        processes: 5,
        exponent: 2,
        verbose: false,
        max_tasks_per_child: 100,
        start_method: StartMethod::Forkserver,
    };
    run(settings, vec![3, 4, 5, 6, 6, 7, 87, 8, 8])
}
