//! Counts the primes below 100,000, here or on a fleet.
//!
//! `cargo run -p proc-cluster --example primes`, or with
//! `-- ADDRESS` after it.
//! An agent at the address is this same program, started
//! with `PROC_CLUSTER_AGENT=ADDRESS`.

use std::env;
use std::time::Duration;

use proc_cluster::{Cluster, Error, Progress};
use proc_core::Pool;

fn is_prime(n: u64) -> bool {
    if n.is_multiple_of(2) {
        return n == 2;
    }
    let mut odd = (3..=n.isqrt()).step_by(2);
    n > 1 && odd.all(|d| !n.is_multiple_of(d))
}

fn primes(hundred: u64) -> usize {
    let first = 100 * hundred;
    let numbers = first..first + 100;
    numbers.filter(|n| is_prime(*n)).count()
}

fn main() -> Result<(), Error> {
    // An agent logs what it does.
    let log = tracing_subscriber::fmt();
    log.with_writer(std::io::stderr).init();
    proc_cluster::init(); // an agent stays in it

    let address = env::args().nth(1);
    let address = address.or(env::var("ADDRESS").ok());
    let counts = match address {
        Some(address) => on_a_fleet(&address)?,
        None => Pool::new()?.map(primes, 0..1000)?,
    };
    let sum: usize = counts.iter().sum();
    println!("{sum} primes below 100,000");
    Ok(())
}

fn on_a_fleet(address: &str) -> Result<Vec<usize>, Error> {
    let cluster = Cluster::connect(address)?;
    cluster.wait_for_workers(1, Duration::from_secs(60))?;
    let show = |Progress { done, all, .. }| {
        eprint!("\r{done} of {all}");
    };
    let options = cluster.options().progress(show);
    let counts = options.map(primes, 0..1000)?;
    eprintln!("\n{}", cluster.fleet());
    Ok(counts)
}
