//! What a fleet's calls cost: `cargo run --release -p proc-cluster --example throughput [-- SERVER]`
//!
//! Starts a server and then 1, 2, 4 and 8 agents of one worker each on this machine, and prints for each
//! fleet the median round trip of one task, tasks per second of 20,000 tiny tasks by default and at
//! chunksize 1, and MiB per second of 64 values of 1 MiB, there and back. SERVER is the program
//! `nats-server`, if it is not in PATH. Compare columns of one run, not runs.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use proc_cluster::{Cluster, Error};
use serde_bytes::ByteBuf;

/// Ends with this program, however that goes on.
struct Started(Child);

impl Started {
    fn new(command: &mut Command) -> Started {
        let quiet = command.stdin(Stdio::null()).stderr(Stdio::null());
        Started(quiet.spawn().expect("the program is there: say where nats-server is"))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}

fn tiny(x: u64) -> u64 {
    x + 1
}

fn back(bytes: ByteBuf) -> ByteBuf {
    bytes
}

fn seconds(run: impl FnOnce() -> Result<(), Error>) -> Result<f64, Error> {
    let start = Instant::now();
    run()?;
    Ok(start.elapsed().as_secs_f64())
}

/// The middle one of some runs.
fn median(times: usize, mut run: impl FnMut() -> Result<(), Error>) -> Result<f64, Error> {
    let mut took = (0..times).map(|_| seconds(&mut run)).collect::<Result<Vec<f64>, Error>>()?;
    took.sort_by(f64::total_cmp);
    Ok(took[times / 2])
}

fn main() -> Result<(), Error> {
    proc_cluster::init();

    let server = std::env::args().nth(1).unwrap_or_else(|| "nats-server".into());
    let data = tempfile::tempdir().expect("a directory can be made");
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let port = port.expect("a port is free").port().to_string();
    let mut command = Command::new(server);
    command.args(["--addr", "127.0.0.1", "--port", &port, "--jetstream", "--store_dir"]);
    let _server = Started::new(command.arg(data.path()));
    let address = format!("nats://127.0.0.1:{port}");
    while TcpStream::connect(&address["nats://".len()..]).is_err() {
        std::thread::yield_now();
    }
    let cluster = Cluster::connect(&address)?;
    let mut agents = Vec::new();
    println!("agents  round trip us  tasks/s  at chunksize 1  MiB/s of 1 MiB");
    for wanted in [1, 2, 4, 8] {
        while agents.len() < wanted {
            let mut agent = Command::new(std::env::current_exe().expect("a program has a file"));
            agent.env("PROC_CLUSTER_AGENT", &address).env("PROC_CLUSTER_WORKERS", "1");
            agents.push(Started::new(&mut agent));
        }
        cluster.wait_for_workers(wanted, Duration::from_secs(60))?;
        let trip = median(501, || cluster.apply(tiny, 1).map(drop))?;
        let many = median(5, || cluster.map(tiny, 0..20_000).map(drop))?;
        let ones = median(5, || cluster.options().chunksize(1).map(tiny, 0..20_000).map(drop))?;
        let large = || (0..64).map(|n| ByteBuf::from(vec![n; 1 << 20]));
        let large = median(3, || cluster.map(back, large()).map(drop))?;
        println!(
            "{wanted:6}  {:13.0}  {:7.0}  {:14.0}  {:14.0}",
            trip * 1e6,
            20_000.0 / many,
            20_000.0 / ones,
            64.0 / large,
        );
    }
    println!("\n{}", cluster.fleet());
    Ok(())
}
