//! The same work by one thread, by several threads and by several processes.

use std::thread;
use std::time::{Duration, Instant};

use proc_core::{Error, Pool};

pub(crate) struct Run {
    pub(crate) time: Duration,
    pub(crate) sum: u64,
}

pub(crate) struct Runs {
    pub(crate) serial: Run,
    pub(crate) threads: Run,
    pub(crate) processes: Run,
}

/// One worker's part: from the first number on, in steps, below the last number.
pub(crate) type Part = (u64, usize, u64);

fn by_processes(
    work: impl Fn(Part) -> u64 + Copy + 'static,
    parts: Vec<Part>,
) -> Result<u64, Error> {
    let size = parts.len();
    let pool = Pool::builder().processes(size).build()?;
    let sums = pool.map(work, parts)?;
    Ok(sums.into_iter().sum())
}

fn by_threads(
    work: impl Fn(Part) -> u64 + Copy + Send + 'static,
    parts: Vec<Part>,
) -> u64 {
    let start = |part| thread::spawn(move || work(part));
    let started = parts.into_iter().map(start);
    let threads: Vec<_> = started.collect();
    let sums = threads.into_iter().map(|t| t.join());
    sums.map(|sum| sum.expect("it only adds")).sum()
}

pub(crate) fn all_ways<F>(
    work: F,
    end: u64,
    workers: usize,
) -> Result<Runs, Error>
where
    F: Fn(Part) -> u64 + Copy + Send + 'static,
{
    let part = |first| (first as u64, workers, end);
    let parts = || (0..workers).map(part).collect();
    Ok(Runs {
        serial: timed(|| Ok(work((0, 1, end))))?,
        threads: timed(|| Ok(by_threads(work, parts())))?,
        processes: timed(|| by_processes(work, parts()))?,
    })
}

/// Runs something once and takes the time.
pub(crate) fn timed(
    run: impl FnOnce() -> Result<u64, Error>,
) -> Result<Run, Error> {
    let start = Instant::now();
    let sum = run()?;
    Ok(Run { time: start.elapsed(), sum })
}
