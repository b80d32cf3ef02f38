//! Times proc-core beside CPython, alternating in one run, and prints medians with their spread.
//!
//!     cargo run --release -p proc-bench
//!
//! Every workload is run in rounds: a block of repetitions of each contender in turn, so that what
//! else the machine does hits all of them. A contender that is not installed is named as absent.

mod contenders;
mod table;

use anyhow::{Result, ensure};
use clap::Parser;
use proc_core::{Context, Pool};

use contenders::{Contender, Python, timed};
use table::Table;

/// Times proc-core beside CPython.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Fewer repetitions: shows that everything runs, not how fast.
    #[arg(long)]
    quick: bool,
    /// How often the contenders take turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

const CONTEXTS: [(&str, Context); 3] = [
    ("proc-core forkserver", Context::Forkserver),
    ("proc-core fork", Context::Fork),
    ("proc-core spawn", Context::Spawn),
];

fn main() -> Result<()> {
    proc_core::init();
    let arguments = Arguments::parse();
    ensure!(arguments.rounds > 0, "at least one round is needed");
    let rounds = if arguments.quick { 1 } else { arguments.rounds };
    let scale = if arguments.quick { 20 } else { 1 };
    if cfg!(debug_assertions) {
        println!("a debug build: run with --release for figures that mean something\n");
    }
    let python = Python::find();
    match &python {
        Some(python) => println!("beside {}, {rounds} rounds\n", python.version),
        None => println!("python3 is absent: ours alone, {rounds} rounds\n"),
    }

    let mut start = Table::new("start + join of a process that does nothing");
    for (name, context) in CONTEXTS {
        start.add(Contender::ours(name, 200 / scale, move |n| {
            timed(n, || contenders::start_join(context))
        }));
    }
    start.add_python(&python, "start_join", [200, 20, 10], scale);
    if let Some(python) = &python {
        let bare = python.contender("bare_fork", "fork", 200 / scale);
        start.add(bare.named("CPython os.fork + wait"));
    }
    start.run(rounds)?;

    let mut build = Table::new("pool of 2: build, map of 2, drop");
    for (name, context) in CONTEXTS {
        build.add(Contender::ours(name, 100 / scale, move |n| {
            timed(n, || contenders::pool_of_two(context))
        }));
    }
    build.add_python(&python, "pool_of_two", [20, 10, 5], scale);
    build.run(rounds)?;

    let mut trip = Table::new("one task, there and back, pool of 2");
    trip.add(Contender::ours("proc-core", 20_000 / scale, |n| {
        let pool = Pool::builder().processes(2).build()?;
        pool.map(contenders::increment, [1, 2])?;
        timed(n, || {
            ensure!(pool.apply(contenders::increment, 1)? == 2);
            Ok(())
        })
    }));
    trip.add_python(&python, "round_trip", [2000, 2000, 2000], scale);
    trip.run(rounds)?;

    let mut million = Table::new("map of 1,000,000 tiny tasks, pool of 2");
    million.add(Contender::ours("proc-core", 1, |n| {
        let pool = Pool::builder().processes(2).build()?;
        timed(n, || {
            ensure!(pool.map(contenders::increment, 0..1_000_000)?.len() == 1_000_000);
            Ok(())
        })
    }));
    million.add_python(&python, "million_tasks", [1, 1, 1], 1);
    million.run(rounds)?;

    let mut whole = Table::new("q6-four-processes, the whole program");
    let (ours, theirs) = contenders::q6(&python)?;
    whole.add(Contender::command("q6-four-processes", 20 / scale.min(10), ours));
    if let Some(theirs) = theirs {
        whole.add(Contender::command("q6_four_processes.py", 20 / scale.min(10), theirs));
    }
    whole.run(rounds)?;

    println!("memory of an idle worker (PSS), pool of 8");
    match contenders::idle_worker_pss()? {
        Some(sizes) => table::print_sizes(&sizes),
        None => println!("  not measured: this system has no /proc/PID/smaps_rollup"),
    }
    Ok(())
}
