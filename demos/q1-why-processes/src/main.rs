//! Why processes? Each claim of the answer as a fact, measured on this machine.
//!
//! Run it: `cargo run -p q1-why-processes`, or longer and with more workers:
//! `cargo run --release -p q1-why-processes -- --seconds 8 --workers 16`.
//! `cargo run -p q1-why-processes -- --help` lists what can be set.

mod command_line;
mod primes;
mod survival;

use std::time::Duration;

use proc_core::Pool;

use crate::command_line::Options;

fn main() -> anyhow::Result<()> {
    command_line::end_without_reader();
    proc_core::init();
    let Options { seconds, workers } =
        command_line::options();
    let cores = std::thread::available_parallelism()
        .map_or(1, |n| n.get());
    let workers = workers.map_or(
        cores.min(command_line::MAX_WORKERS),
        usize::from,
    );

    println!("Why processes? Cores here: {cores}");
    parallel_execution(
        Duration::from_secs_f64(seconds),
        workers,
        cores,
    )?;
    resilience(workers)?;

    println!("\nMORE MACHINES");
    println!(
        "A pool's workers are on one machine, and the figures above end at its cores."
    );
    println!(
        "proc-cluster has the same calls for many machines: docs/cluster.md"
    );
    Ok(())
}

fn parallel_execution(
    budget: Duration,
    most: usize,
    cores: usize,
) -> anyhow::Result<()> {
    // The time of all pools together, if the run without a
    // pool takes 1. A pool of two takes half, and so on; more
    // workers than cores do not help.
    let pools: f64 = pool_sizes(most)
        .map(|workers| 1.0 / workers.min(cores) as f64)
        .sum();
    let limit = limit_for(budget.div_f64(1.0 + pools));
    println!(
        "\nPARALLEL EXECUTION, SCALABILITY: the primes below {limit}"
    );
    println!(
        "{:<20}{:>14}{:>12}{:>12}{:>12}",
        "", "time", "speed-up", "efficiency", "primes"
    );

    let serial = primes::serially(limit);
    let line = |who: &str,
                run: &primes::Run,
                workers: usize| {
        let speed_up = serial.time.as_secs_f64()
            / run.time.as_secs_f64();
        println!(
            "{who:<20}{:>11.1} ms{speed_up:>10.1} x{:>10.0} %{:>12}",
            run.time.as_secs_f64() * 1e3,
            100.0 * speed_up / workers as f64,
            run.primes
        );
    };
    line("no pool", &serial, 1);
    for workers in pool_sizes(most) {
        let run = primes::in_pool(limit, workers)?;
        anyhow::ensure!(
            run.primes == serial.primes,
            "{workers} workers found other primes"
        );
        line(&format!("pool of {workers}"), &run, workers);
    }
    Ok(())
}

/// Returns 1, 2, 4 and so on, and at the end `most`.
fn pool_sizes(most: usize) -> impl Iterator<Item = usize> {
    let doubling =
        std::iter::successors(Some(1), |workers| {
            Some(2 * workers)
        });
    doubling
        .take_while(move |workers| *workers < most)
        .chain([most])
}

/// Returns a limit below which one process counts the primes in about `budget`.
fn limit_for(budget: Duration) -> u32 {
    let mut limit = 1000;
    loop {
        let took = primes::serially(limit).time;
        if took >= budget / 10 {
            // Trial division of all numbers below n takes about n to the power of 1.5 steps.
            let longer =
                budget.as_secs_f64() / took.as_secs_f64();
            return (f64::from(limit)
                * longer.powf(1.0 / 1.5))
                as u32;
        }
        limit *= 2;
    }
}

fn resilience(workers: usize) -> anyhow::Result<()> {
    use survival::{TASKS, VICTIM};
    println!(
        "\nRESILIENCE: {TASKS} tasks, number {VICTIM} kills the process that it is in"
    );

    match survival::in_one_process() {
        Ok(results) => show(
            "one process",
            &results
                .into_iter()
                .map(Ok)
                .collect::<Vec<_>>(),
        ),
        Err(error) => show("one process", &[Err(error)]),
    }
    let pool =
        Pool::builder().processes(workers).build()?;
    show(
        &format!("pool of {workers}"),
        &survival::at_once(&pool, 0..TASKS),
    );
    show(
        "same pool, later",
        &survival::at_once(&pool, TASKS..2 * TASKS),
    );
    Ok(())
}

/// Prints how many results there are, the results in the
/// order of the tasks, and the errors.
fn show(
    who: &str,
    results: &[Result<u32, proc_core::Error>],
) {
    let arrived = results.iter().flatten().count();
    let each = results.iter().map(|result| {
        result.as_ref().map_or("-".into(), u32::to_string)
    });
    println!(
        "{who:<20}{arrived} results: {}",
        each.collect::<Vec<_>>().join(" ")
    );
    for error in results
        .iter()
        .filter_map(|result| result.as_ref().err())
    {
        println!("{:<20}{error}", "");
    }
}
