//! Why processes? Each claim of the answer as a fact, measured on this machine.
//!
//! Run it: `cargo run -p q1-why-processes`, or longer and with more workers:
//! `cargo run --release -p q1-why-processes -- --seconds 8 --workers 16`

mod primes;
mod survival;

use std::time::Duration;

use proc_core::Pool;

fn main() -> anyhow::Result<()> {
    proc_core::init();
    let Arguments { seconds, workers } = arguments();
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let workers = workers.map_or(cores.min(MAX_WORKERS), usize::from);

    println!("Why processes? Cores here: {cores}");
    parallel_execution(Duration::from_secs_f64(seconds), workers, cores)?;
    resilience(workers)?;

    println!("\nMORE MACHINES");
    println!("A pool's workers are on one machine, and the figures above end at its cores.");
    println!("proc-cluster has the same calls for many machines: docs/cluster.md");
    Ok(())
}

fn parallel_execution(budget: Duration, most: usize, cores: usize) -> anyhow::Result<()> {
    // In units of the run without a pool: a pool of two takes half, and so on down to the cores.
    let pools: f64 = pool_sizes(most).map(|workers| 1.0 / workers.min(cores) as f64).sum();
    let limit = primes::limit_for(budget.div_f64(1.0 + pools));
    println!("\nPARALLEL EXECUTION, SCALABILITY: the primes below {limit}");
    println!("{:<20}{:>14}{:>12}{:>12}{:>12}", "", "time", "speed-up", "efficiency", "primes");

    let serial = primes::serially(limit);
    let line = |who: &str, run: &primes::Run, workers: usize| {
        let speed_up = serial.time.as_secs_f64() / run.time.as_secs_f64();
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
        anyhow::ensure!(run.primes == serial.primes, "{workers} workers found other primes");
        line(&format!("pool of {workers}"), &run, workers);
    }
    Ok(())
}

/// 1, 2, 4 and so on, and in the end `most`.
fn pool_sizes(most: usize) -> impl Iterator<Item = usize> {
    let doubling = std::iter::successors(Some(1), |workers| Some(2 * workers));
    doubling.take_while(move |workers| *workers < most).chain([most])
}

fn resilience(workers: usize) -> anyhow::Result<()> {
    use survival::{TASKS, VICTIM};
    println!("\nRESILIENCE: {TASKS} tasks, number {VICTIM} kills the process that it is in");

    match survival::in_one_process() {
        Ok(results) => show("one process", &results.into_iter().map(Ok).collect::<Vec<_>>()),
        Err(error) => show("one process", &[Err(error)]),
    }
    let pool = Pool::builder().processes(workers).build()?;
    show(&format!("pool of {workers}"), &survival::in_pool(&pool));
    show("same pool, later", &survival::in_pool_later(&pool));
    Ok(())
}

/// How many results there are, each task's in its place, and the errors in full.
fn show(who: &str, results: &[Result<u32, proc_core::Error>]) {
    let arrived = results.iter().flatten().count();
    let each = results.iter().map(|result| result.as_ref().map_or("-".into(), u32::to_string));
    println!("{who:<20}{arrived} results: {}", each.collect::<Vec<_>>().join(" "));
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        println!("{:<20}{error}", "");
    }
}

const MAX_WORKERS: usize = 64;

/// Shows what several processes are good for, as facts measured on this machine.
#[derive(clap::Parser)]
#[command(version)]
struct Arguments {
    /// About how long to measure, from 0.1 to 60
    #[arg(long, default_value_t = 3.0, value_parser = seconds, allow_negative_numbers = true)]
    seconds: f64,

    /// How many workers the largest pool has [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=MAX_WORKERS as i64), allow_negative_numbers = true)]
    workers: Option<u8>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=60.0).contains(seconds));
    seconds.ok_or_else(|| "it is no number from 0.1 to 60".into())
}

/// The command line, or one line about what is wrong with it and exit code 2.
fn arguments() -> Arguments {
    clap::Parser::try_parse().unwrap_or_else(|error: clap::Error| {
        if error.use_stderr() {
            let message = error.to_string();
            eprintln!("{}", message.lines().next().unwrap_or_default());
            std::process::exit(2);
        }
        error.exit() // --help and --version
    })
}
