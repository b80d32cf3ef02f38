//! Counts primes here, or on a fleet: `cargo run -p proc-cluster --example primes [-- ADDRESS]`
//!
//! With an address the work goes to the agents there, which are this same program, started with
//! `PROC_CLUSTER_AGENT=ADDRESS`. Two lines differ: `init`, and what the work is given to. A third
//! one shows what an agent logs.

use std::time::Duration;

use proc_cluster::{Cluster, Error, Progress};
use proc_core::Pool;

/// How many primes there are among a thousand numbers.
fn primes(thousand: u64) -> usize {
    let is_prime =
        |n: &u64| *n > 1 && (2..).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    (1000 * thousand..1000 * (thousand + 1)).filter(is_prime).count()
}

fn main() -> Result<(), Error> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    proc_cluster::init(); // before all work; an agent stays in it

    let address = std::env::args().nth(1).or_else(|| std::env::var("ADDRESS").ok());
    let counts = match address {
        None => Pool::new()?.map(primes, 0..1000)?,
        Some(address) => {
            let cluster = Cluster::connect(&address)?;
            cluster.wait_for_workers(1, Duration::from_secs(60))?;
            let show = |Progress { done, all, .. }| eprint!("\r{done} of {all}");
            let counts = cluster.options().progress(&show).map(primes, 0..1000)?;
            eprintln!("\n{}", cluster.fleet());
            counts
        }
    };
    println!("{} primes below a million", counts.iter().sum::<usize>());
    Ok(())
}
