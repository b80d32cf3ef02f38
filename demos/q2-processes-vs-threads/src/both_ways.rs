//! The same work by one thread, by several threads and by several processes.

use std::thread;
use std::time::{Duration, Instant};

use proc_core::{Error, Process};

pub(crate) struct Run {
    pub(crate) time: Duration,
    pub(crate) sum: u64,
}

pub(crate) struct Runs {
    pub(crate) serial: Run,
    pub(crate) threads: Run,
    pub(crate) processes: Run,
}

/// One worker's part: every `step`-th number from `first` on, below `end`.
pub(crate) type Part = (u64, u64, u64);

pub(crate) fn all_ways<F>(work: F, end: u64, workers: u32) -> Result<Runs, Error>
where
    F: Fn(Part) -> u64 + Copy + Send + 'static,
{
    let parts = || (0..u64::from(workers)).map(move |first| (first, u64::from(workers), end));

    let serial = timed(|| Ok(work((0, 1, end))))?;

    let threads = timed(|| {
        let started: Vec<_> = parts().map(|part| thread::spawn(move || work(part))).collect();
        Ok(started.into_iter().map(|thread| thread.join().expect("it only adds")).sum())
    })?;

    let processes = timed(|| {
        let started: Vec<_> =
            parts().map(|part| Process::new(work, part).start()).collect::<Result<_, _>>()?;
        started.into_iter().map(|process| process.join()).sum()
    })?;

    Ok(Runs { serial, threads, processes })
}

/// Runs something once and takes the time.
pub(crate) fn timed(run: impl FnOnce() -> Result<u64, Error>) -> Result<Run, Error> {
    let start = Instant::now();
    let sum = run()?;
    Ok(Run { time: start.elapsed(), sum })
}
