//! proc-cluster, with a server and agents of its own for each request, all on this machine.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use proc_cluster::Cluster;

use super::tasks::increment;
use super::{Samples, timed, timed_from_first};
use crate::workload::{LARGE_BYTES, Request};

pub(super) const NO_SERVER: &str = "there is no nats-server: .ci/nats-server installs one";

/// How long the server and the agents may take to start.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(30);

/// Finds nats-server in the same places as the tests of proc-cluster.
pub(super) fn server() -> Option<PathBuf> {
    let named = std::env::var_os("PROC_CLUSTER_NATS_SERVER").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|directory| directory.join("nats-server"));
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/nats/nats-server");
    named.into_iter().chain(in_path).chain([fetched]).find(|place| is_new_enough(place))
}

/// Whether this is a server that proc-cluster accepts.
fn is_new_enough(server: &Path) -> bool {
    let Ok(output) = Command::new(server).arg("--version").output() else { return false };
    let output = String::from_utf8_lossy(&output.stdout);
    let version = output.trim().rsplit('v').next().unwrap_or_default();
    let numbers: Vec<u32> = version.split('.').map_while(|part| part.parse().ok()).collect();
    numbers >= vec![2, 10, 27]
}

pub(super) fn run(server: &Path, request: &Request) -> Result<Samples> {
    let Request { workers, tasks, repetitions, .. } = *request;
    let fleet = Fleet::start(server, workers)?;
    let cluster = &fleet.cluster;
    let numbers = 0..tasks as u64;
    // As in `python/fleets.py`: a hundred tasks first. Only the short workloads then have one
    // repetition that does not count.
    cluster.map(increment, 0..100)?;
    let long =
        |once: &mut dyn FnMut() -> Result<()>| timed_from_first(repetitions, || (), |()| once());
    match request.workload.as_str() {
        "fleet-trip" | "fleet-trip-awake" => timed(repetitions, || {
            ensure!(cluster.apply(increment, 1)? == 2);
            Ok(())
        }),
        "fleet-tiny" => long(&mut || {
            ensure!(cluster.map(increment, numbers.clone())?.len() == tasks);
            Ok(())
        }),
        "fleet-chunksize-1" => long(&mut || {
            let results = cluster.options().chunksize(1).map(increment, numbers.clone())?;
            ensure!(results.len() == tasks);
            Ok(())
        }),
        "fleet-large" => {
            let buffers: Vec<Vec<u8>> = (0..tasks).map(|n| vec![n as u8; LARGE_BYTES]).collect();
            let same = |results| {
                ensure!(results == buffers, "what came back is not what was sent");
                Ok(())
            };
            timed_from_first(
                repetitions,
                || buffers.clone(),
                |sent| same(cluster.map(give_back, sent)?),
            )
        }
        "fleet-growth" => long(&mut || {
            ensure!(cluster.map(wait, numbers.clone())?.len() == tasks);
            Ok(())
        }),
        _ => Ok(None),
    }
}

fn give_back(bytes: Vec<u8>) -> Vec<u8> {
    bytes
}

/// Takes 5 ms without using a processor.
fn wait(_: u64) {
    std::thread::sleep(Duration::from_millis(5));
}

/// A fleet. Its fields are dropped in this order: driver, agents, server, data.
struct Fleet {
    cluster: Cluster,
    _agents: Vec<Started>,
    _server: Started,
    _data: tempfile::TempDir,
}

impl Fleet {
    /// Starts a fleet of agents with one worker each.
    fn start(server: &Path, agents: usize) -> Result<Fleet> {
        let data = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(server);
        command.args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream"]);
        let mut server = Started::new(command.arg("--store_dir").arg(data.path()))?;
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = server.0.try_wait()?;
            ensure!(
                ended.is_none() && begin.elapsed() < STARTUP_TIMEOUT,
                "the server does not listen"
            );
            std::thread::yield_now();
        }
        let address = format!("nats://127.0.0.1:{port}");
        let agent = |_| {
            let mut command = Command::new(std::env::current_exe()?);
            command.env("PROC_CLUSTER_AGENT", &address).env("PROC_CLUSTER_WORKERS", "1");
            Started::new(&mut command)
        };
        let _agents = (0..agents).map(agent).collect::<Result<_>>()?;
        let cluster = Cluster::connect(&address)?;
        cluster.wait_for_workers(agents, STARTUP_TIMEOUT)?;
        Ok(Fleet { cluster, _agents, _server: server, _data: data })
    }
}

/// A process that is killed when this is dropped.
struct Started(Child);

impl Started {
    fn new(command: &mut Command) -> Result<Started> {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = quiet.spawn();
        Ok(Started(child.with_context(|| command.get_program().display().to_string())?))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill(); // the process may have ended
        let _ = self.0.wait();
    }
}
