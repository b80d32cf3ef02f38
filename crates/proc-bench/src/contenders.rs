//! Who is timed, and how.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use proc_core::{Context, Pool, Process};

/// Seconds of each repetition.
pub(crate) type Samples = Vec<f64>;

/// One way to do a workload.
pub(crate) struct Contender {
    pub(crate) name: String,
    repetitions: usize,
    run: Box<dyn Fn(usize) -> Result<Samples>>,
}

impl Contender {
    /// A contender in this process.
    pub(crate) fn ours(
        name: &str,
        repetitions: usize,
        run: impl Fn(usize) -> Result<Samples> + 'static,
    ) -> Contender {
        Contender { name: name.into(), repetitions: repetitions.max(1), run: Box::new(run) }
    }

    /// A whole program, from start to exit.
    pub(crate) fn command(name: &str, repetitions: usize, program: Vec<PathBuf>) -> Contender {
        Contender::ours(name, repetitions, move |n| {
            timed(n, || {
                let status = Command::new(&program[0])
                    .args(&program[1..])
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .status()?;
                ensure!(status.success(), "{}: {status}", program[0].display());
                Ok(())
            })
        })
    }

    /// The same contender under another name.
    pub(crate) fn named(self, name: &str) -> Contender {
        Contender { name: name.into(), ..self }
    }

    /// One block of repetitions.
    pub(crate) fn block(&self) -> Result<Samples> {
        (self.run)(self.repetitions).with_context(|| self.name.clone())
    }
}

/// Times `n` repetitions after one that does not count.
pub(crate) fn timed(n: usize, mut once: impl FnMut() -> Result<()>) -> Result<Samples> {
    once()?;
    let sample = |_| {
        let begin = Instant::now();
        once()?;
        Ok(begin.elapsed().as_secs_f64())
    };
    (0..n).map(sample).collect()
}

pub(crate) fn increment(x: u64) -> u64 {
    x + 1
}

pub(crate) fn start_join(context: Context) -> Result<()> {
    Ok(Process::new(|()| (), ()).context(context).start()?.join()?)
}

pub(crate) fn pool_of_two(context: Context) -> Result<()> {
    let pool = Pool::builder().processes(2).context(context).build()?;
    ensure!(pool.map(increment, [1, 2])? == [2, 3]);
    Ok(())
}

/// The interpreter beside us.
#[derive(Clone)]
pub(crate) struct Python {
    pub(crate) version: String,
    program: PathBuf,
}

impl Python {
    pub(crate) fn find() -> Option<Python> {
        // Its own path: a wrapper that looks for the interpreter first would be timed too.
        let print = "import sys, platform; print(sys.executable); \
                     print(platform.python_implementation(), platform.python_version())";
        let output = Command::new("python3").args(["-c", print]).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let (program, version) = text.trim().split_once('\n')?;
        Some(Python { version: version.into(), program: program.into() })
    }

    /// A workload of `python/workloads.py` with one of CPython's start methods.
    pub(crate) fn contender(
        &self,
        workload: &'static str,
        method: &'static str,
        repetitions: usize,
    ) -> Contender {
        let program = self.program.clone();
        Contender::ours(&format!("CPython {method}"), repetitions, move |n| {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/workloads.py");
            let output = Command::new(&program)
                .arg(script)
                .args([workload, method, &n.to_string()])
                .stderr(Stdio::inherit())
                .output()?;
            ensure!(output.status.success(), "{workload}: {}", output.status);
            let text = String::from_utf8(output.stdout)?;
            text.lines().map(|line| Ok(line.parse()?)).collect()
        })
    }
}

/// The commands of the demo and of the Python program it answers.
pub(crate) fn q6(python: &Option<Python>) -> Result<(Vec<PathBuf>, Option<Vec<PathBuf>>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let ours = std::env::current_exe()?.with_file_name("q6-four-processes");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "-p", "q6-four-processes"]).current_dir(&root);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    if !build.status().is_ok_and(|status| status.success()) && !ours.exists() {
        bail!("q6-four-processes is not built: run `cargo build --release --workspace` first");
    }
    let script = root.join("docs/python/q6_four_processes.py");
    Ok((vec![ours], python.as_ref().map(|python| vec![python.program.clone(), script])))
}

/// The proportional set size of each idle worker of a pool, in KiB.
pub(crate) fn idle_worker_pss() -> Result<Option<Vec<f64>>> {
    let pool = Pool::builder().processes(8).build()?;
    let mut pids = std::collections::BTreeSet::new();
    while pids.len() < 8 {
        let nap = |_: u32| {
            std::thread::sleep(std::time::Duration::from_millis(2));
            std::process::id()
        };
        pids.extend(pool.options().chunksize(1).map(nap, 0..16)?);
    }
    let size = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find(|line| line.starts_with("Pss:"))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    };
    Ok(pids.into_iter().map(size).collect())
}
