//! proc-core with a start method.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{OnceLock, RwLock};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use proc_core::{Pool, PoolBuilder, Process, Shared, StartMethod};

use super::tasks::{compute, increment, read_pages, spin};
use super::{Samples, timed, timed_with};
use crate::workload::{
    INITIALIZER_MICROS, LARGE_BYTES, Request, SHARED_BYTES, TABLE_ENTRIES, skewed,
};

pub(super) fn run(start_method: StartMethod, request: &Request) -> Result<Samples> {
    let Request { workers, tasks, repetitions, .. } = *request;
    let builder = || Pool::builder().processes(workers).start_method(start_method);
    let count = tasks as u64;
    // In a pool that has started, the start method makes no difference. `initializer` and `program`
    // are not run with other start methods either: `start`, `pool` and `up` show what a start
    // costs.
    let is_not_default = start_method != StartMethod::Forkserver;
    match request.workload.as_str() {
        "start" => timed(repetitions, || {
            Ok(Process::new(|()| (), ()).start_method(start_method).start()?.join()?)
        }),
        "pool" | "large" => timed(repetitions, || {
            let results = builder().build()?.map(increment, 0..count)?;
            ensure!(results.len() == tasks);
            Ok(())
        }),
        "up" => up(builder, repetitions),
        "memory" => memory(&builder().build()?),
        "shared" if start_method == StartMethod::Fork => {
            shared_by_fork(builder, tasks, repetitions)
        }
        _ if is_not_default => Ok(None),
        "shared" => shared(builder, tasks, repetitions),
        "initializer" => timed(repetitions, || {
            let pool = builder().initializer(spin, INITIALIZER_MICROS).build()?;
            ensure!(pool.map(increment, 0..count)?.len() == tasks);
            Ok(())
        }),
        "state" => state(builder(), count, repetitions),
        "program" => timed(repetitions, q6),
        workload => in_pool(&builder().build()?, workload, request),
    }
}

/// Runs a workload in a pool that has started.
fn in_pool(pool: &Pool, workload: &str, request: &Request) -> Result<Samples> {
    let Request { tasks, repetitions, .. } = *request;
    let count = tasks as u64;
    match workload {
        "trip" | "trip-awake" => timed(repetitions, || {
            ensure!(pool.apply(increment, 1)? == 2);
            Ok(())
        }),
        "tiny" => timed(repetitions, || {
            ensure!(pool.map(increment, 0..count)?.len() == tasks);
            Ok(())
        }),
        "chunksize-1" => timed(repetitions, || {
            ensure!(pool.options().chunksize(1).map(increment, 0..count)?.len() == tasks);
            Ok(())
        }),
        "skewed" => timed(repetitions, || {
            pool.map(spin, skewed(tasks))?;
            Ok(())
        }),
        "send" => send(pool, tasks, repetitions),
        "receive" => receive(pool, tasks, repetitions),
        "cpu" => timed(repetitions, || {
            ensure!(pool.map(compute, 0..count)?.len() == tasks);
            Ok(())
        }),
        _ => Ok(None),
    }
}

/// Times the start of a pool, but not its end.
fn up(builder: impl Fn() -> PoolBuilder, repetitions: usize) -> Result<Samples> {
    drop(builder().build()?);
    let sample = |_| {
        let begin = Instant::now();
        let pool = builder().build()?;
        let seconds = begin.elapsed().as_secs_f64();
        drop(pool);
        Ok(seconds)
    };
    (0..repetitions).map(sample).collect::<Result<_>>().map(Some)
}

fn send(pool: &Pool, tasks: usize, repetitions: usize) -> Result<Samples> {
    let buffers = vec![vec![7_u8; LARGE_BYTES]; tasks];
    timed_with(
        repetitions,
        || buffers.clone(),
        |buffers| {
            let lengths = pool.map(|buffer: Vec<u8>| buffer.len(), buffers)?;
            ensure!(lengths == vec![LARGE_BYTES; tasks]);
            Ok(())
        },
    )
}

fn receive(pool: &Pool, tasks: usize, repetitions: usize) -> Result<Samples> {
    timed(repetitions, || {
        let make = |length: usize| vec![7_u8; length];
        let buffers = pool.map(make, std::iter::repeat_n(LARGE_BYTES, tasks))?;
        ensure!(buffers.iter().all(|buffer| buffer.len() == LARGE_BYTES));
        Ok(())
    })
}

/// Gives the array to each worker as shared memory.
fn shared(builder: impl Fn() -> PoolBuilder, tasks: usize, repetitions: usize) -> Result<Samples> {
    static ARRAY: OnceLock<Shared<u8>> = OnceLock::new();
    let array = vec![1; SHARED_BYTES];
    timed(repetitions, || {
        let keep = |array| drop(ARRAY.set(array));
        let pool = builder().initializer(keep, Shared::from_slice(&array)?).build()?;
        let read = |_| ARRAY.get().map_or(0, |array| read_pages(array));
        check_pages(&pool.map(read, 0..tasks)?)
    })
}

/// The array is in the memory of the workers anyway, because `Fork` makes copies of the caller.
fn shared_by_fork(
    builder: impl Fn() -> PoolBuilder,
    tasks: usize,
    repetitions: usize,
) -> Result<Samples> {
    static ARRAY: RwLock<Vec<u8>> = RwLock::new(Vec::new());
    let keep = |array| ARRAY.write().map(|mut kept| *kept = array).map_err(|e| anyhow!("{e}"));
    keep(vec![1; SHARED_BYTES])?;
    let samples = timed(repetitions, || {
        let pool = builder().build()?;
        let read = |_| ARRAY.read().map_or(0, |array| read_pages(&array));
        check_pages(&pool.map(read, 0..tasks)?)
    });
    // Otherwise later forks would copy the page tables of the array.
    keep(Vec::new())?;
    samples
}

fn check_pages(read: &[u64]) -> Result<()> {
    let pages = SHARED_BYTES.div_ceil(4096) as u64;
    ensure!(read.iter().all(|&sum| sum == pages), "the array was not read correctly");
    Ok(())
}

fn state(builder: PoolBuilder, tasks: u64, repetitions: usize) -> Result<Samples> {
    let fill = |size| (0..size).map(|key| (key, key * key)).collect();
    let pool = builder.state(fill, TABLE_ENTRIES).build()?;
    let look_up = |values: &mut HashMap<u64, u64>, key| values.get(&key).copied();
    timed(repetitions, || {
        let values = pool.with_state().map(look_up, (0..tasks).map(|task| task % TABLE_ENTRIES))?;
        ensure!(values.iter().all(Option::is_some));
        Ok(())
    })
}

/// The proportional set size of each worker; `None` if the system does not tell it.
fn memory(pool: &Pool) -> Result<Samples> {
    // Each worker has run a task before its memory is measured: there are two tasks for each, and a
    // task takes longer than handing out all of them.
    pool.options().chunksize(1).map(spin, vec![2000; 2 * pool.processes()])?;
    let size = |pid| {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        Some(line.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0)
    };
    Ok(pool.worker_pids().into_iter().map(size).collect())
}

fn q6() -> Result<()> {
    let program = std::env::current_exe()?.with_file_name("q6-four-processes");
    let status = Command::new(&program)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .with_context(|| program.display().to_string())?;
    ensure!(status.success(), "{}: {status}", program.display());
    Ok(())
}

/// Builds the demo that the workload `program` runs.
pub(crate) fn build_q6() -> Result<()> {
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "--locked", "-p", "q6-four-processes"]);
    build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    ensure!(build.status()?.success(), "q6-four-processes does not build");
    Ok(())
}
