//! A pool of worker processes from build to join, with every argument of its constructor at work.
//!
//! Run it: `cargo run -p q5-worker-pool`, or watch the workers come and go:
//! `cargo run -p q5-worker-pool -- --verbose --processes 2 --max-tasks-per-child 3`

// ANCHOR: program
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

fn main() -> anyhow::Result<()> {
    proc_core::init();
    let Arguments { numbers, processes, exponent, max_tasks_per_child, start_method, verbose } =
        arguments();

    // Build: the workers start now, and wait for tasks. Every line between is optional.
    let pool = Pool::builder()
        // How many workers; otherwise one for each CPU.
        .processes(processes.into())
        // What each worker calls first, and with what.
        .initializer(set_exponent, (exponent, verbose))
        // After so many tasks a fresh worker takes over; otherwise they live as long as the pool.
        .max_tasks_per_child(max_tasks_per_child.into())
        // Where the memory of a new worker comes from; otherwise the system's default.
        .start_method(start_method)
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
// ANCHOR_END: program

/// A pool of worker processes, with every argument of its constructor.
#[derive(clap::Parser)]
#[command(version)]
struct Arguments {
    /// What to raise to the exponent
    #[arg(default_values_t = [3, 4, 5, 6, 6, 7, 87, 8, 8], allow_negative_numbers = true)]
    numbers: Vec<i64>,

    /// How many workers to start
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    processes: u16,

    /// What the initializer tells each worker
    #[arg(long, value_name = "E", default_value_t = 2)]
    exponent: u32,

    /// After how many tasks a worker is replaced
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    max_tasks_per_child: u32,

    /// How workers come into being: forkserver, fork or spawn
    #[arg(long, value_name = "METHOD", alias = "context", default_value_t = StartMethod::Forkserver)]
    start_method: StartMethod,

    /// Let each worker tell on stderr when it is ready
    #[arg(long)]
    verbose: bool,
}

impl Arguments {
    /// Refuses what would overflow in a worker, while there is none.
    fn check(self) -> Result<Arguments, clap::Error> {
        match self.numbers.iter().find(|number| number.checked_pow(self.exponent).is_none()) {
            None => Ok(self),
            Some(number) => Err(clap::Error::raw(
                clap::error::ErrorKind::ValueValidation,
                format!("{number} to the power of {} does not fit into 64 bits", self.exponent),
            )),
        }
    }
}

/// The command line, or one line about what is wrong with it and exit code 2.
fn arguments() -> Arguments {
    let arguments = clap::Parser::try_parse().and_then(Arguments::check);
    arguments.unwrap_or_else(|error| {
        if error.use_stderr() {
            let message = error.to_string();
            eprintln!("{}", message.lines().next().unwrap_or_default());
            std::process::exit(2);
        }
        error.exit() // --help and --version
    })
}
