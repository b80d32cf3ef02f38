//! The contenders. Each is a process of its own, which reads requests from a pipe.

#[cfg(feature = "fleets")]
mod fleet;
mod machine;
mod ours;
mod procspawn;
mod tasks;
mod threads;

use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;

use crate::workload::{Answer, Request};

pub(crate) use ours::build_q6;

/// Seconds of each repetition, or bytes of each worker; `None` if a contender does not run the
/// workload.
type Samples = Option<Vec<f64>>;

/// Why crossmist is absent. It relies on the way in which an older std cloned arrays, so it reaches
/// an `unreachable!` at the first `spawn`. Until a version runs, it is no dependency.
const CROSSMIST: &str = "crossmist 1.1.2, the newest, panics when it spawns under Rust 1.95";

#[cfg(not(feature = "fleets"))]
const NO_FLEETS: &str = "not built in: cargo run --release -p proc-bench --features fleets";

/// A library, or a way to use one, that is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Contender {
    /// proc-core with the default start method; ratios are to this contender
    ProcCore,
    /// proc-core with `StartMethod::Fork`
    ProcCoreFork,
    /// proc-core with `StartMethod::Spawn`
    ProcCoreSpawn,
    /// The time that the machine itself needs: fork, pipe, memcpy, plain loops
    Limit,
    /// Threads of std and rayon, for work that need not be contained
    Threads,
    /// The Rust crate procspawn
    Procspawn,
    /// The Rust crate crossmist (its newest version does not run)
    Crossmist,
    /// Python's multiprocessing, fork
    CpythonFork,
    /// Python's multiprocessing, forkserver
    CpythonForkserver,
    /// Python's multiprocessing, spawn
    CpythonSpawn,
    /// Python's concurrent.futures.ProcessPoolExecutor
    Futures,
    /// Python's mpire
    Mpire,
    /// Python's loky
    Loky,
    /// Python's joblib, on loky
    Joblib,
    /// proc-cluster: a server and agents, all on this machine
    ProcCluster,
    /// Python's Ray, its Pool
    Ray,
    /// Python's Dask, distributed
    Dask,
    /// Python's mpi4py.futures, on Open MPI
    Mpi4py,
}

impl Contender {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
    }

    /// Whether the contender runs on many machines.
    pub(crate) fn is_fleet(self) -> bool {
        use Contender::{Dask, Mpi4py, ProcCluster, Ray};
        matches!(self, ProcCluster | Ray | Dask | Mpi4py)
    }

    /// Returns the command that starts the contender. `python` is the interpreter for
    /// contenders in Python.
    pub(crate) fn command(self, python: &PathBuf) -> Result<Command> {
        use Contender::{
            CpythonFork, CpythonForkserver, CpythonSpawn, Dask, Futures, Joblib, Loky, Mpi4py,
            Mpire, Ray,
        };
        let mut command = match self {
            CpythonFork | CpythonForkserver | CpythonSpawn | Futures | Mpire | Loky | Joblib => {
                let mut command = Command::new(python);
                command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/python/workloads.py"));
                command
            }
            Ray | Dask | Mpi4py => {
                let mut command = Command::new(python);
                command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/python/fleets.py"));
                command
            }
            _ => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("--contender");
                command
            }
        };
        command.arg(self.name());
        Ok(command)
    }

    /// Makes this process the contender. Returns when no more requests come.
    pub(crate) fn serve(self) -> Result<()> {
        use proc_core::StartMethod::{Fork, Forkserver, Spawn};
        match self {
            Contender::ProcCore => serve("proc-core", |request| ours::run(Forkserver, request)),
            Contender::ProcCoreFork => serve("proc-core", |request| ours::run(Fork, request)),
            Contender::ProcCoreSpawn => serve("proc-core", |request| ours::run(Spawn, request)),
            Contender::Limit => serve("nix", machine::run),
            Contender::Threads => serve("rayon", threads::run),
            Contender::Procspawn => serve("procspawn", procspawn::run),
            #[cfg(feature = "fleets")]
            Contender::ProcCluster => match fleet::server() {
                Some(server) => serve("proc-cluster", |request| fleet::run(&server, request)),
                None => say(&Answer::Absent(fleet::NO_SERVER.into())),
            },
            #[cfg(not(feature = "fleets"))]
            Contender::ProcCluster => say(&Answer::Absent(NO_FLEETS.into())),
            Contender::Crossmist => say(&Answer::Absent(CROSSMIST.into())),
            _ => anyhow::bail!("{} is a Python program", self.name()),
        }
    }
}

/// Prepares this process for the contenders in Rust. Does not return in a process that they have
/// executed.
pub(crate) fn init() {
    // procspawn comes first: its processes do not return from here, and need no fork server of
    // ours.
    ::procspawn::init();
    #[cfg(feature = "fleets")]
    proc_cluster::init();
    #[cfg(not(feature = "fleets"))]
    proc_core::init();
}

/// Answers requests until no more come.
fn serve(package: &str, run: impl Fn(&Request) -> Result<Samples>) -> Result<()> {
    say(&Answer::Version(format!("{package} {}", locked(package))))?;
    for line in std::io::stdin().lock().lines() {
        let answer = match run(&serde_json::from_str(&line?)?) {
            Ok(Some(samples)) => Answer::Samples(samples),
            Ok(None) => Answer::Unable,
            Err(error) => Answer::Failure(format!("{error:#}")),
        };
        say(&answer)?;
    }
    Ok(())
}

fn say(answer: &Answer) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer(&mut stdout, answer)?;
    stdout.write_all(b"\n")?;
    Ok(stdout.flush()?)
}

/// The version of a package that this program was built with.
fn locked(package: &str) -> &'static str {
    let lock = include_str!("../../../../Cargo.lock");
    // If the lock file has several versions, this program uses the newest.
    let entry = lock.rsplit_once(&format!("name = \"{package}\"\nversion = \""));
    entry.and_then(|(_, rest)| rest.split('"').next()).unwrap_or("of unknown version")
}

/// Times each repetition. One repetition before them does not count: it fills caches, and starts
/// what is started late.
fn timed(repetitions: usize, mut once: impl FnMut() -> Result<()>) -> Result<Samples> {
    timed_with(repetitions, || (), |()| once())
}

/// Like [`timed`], with an input that is made before the clock starts.
fn timed_with<T>(
    repetitions: usize,
    mut prepare: impl FnMut() -> T,
    mut once: impl FnMut(T) -> Result<()>,
) -> Result<Samples> {
    once(prepare())?;
    timed_from_first(repetitions, prepare, once)
}

/// Like [`timed_with`], but the first repetition counts. Fleets need a minute for some of them.
fn timed_from_first<T>(
    repetitions: usize,
    mut prepare: impl FnMut() -> T,
    mut once: impl FnMut(T) -> Result<()>,
) -> Result<Samples> {
    let sample = |_| {
        let input = prepare();
        let begin = Instant::now();
        once(input)?;
        Ok(begin.elapsed().as_secs_f64())
    };
    (0..repetitions).map(sample).collect::<Result<_>>().map(Some)
}
