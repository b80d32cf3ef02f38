//! Threads of std and rayon, for tasks that need no isolation.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::tasks::{compute, increment, read_pages, spin};
use super::{Samples, timed, timed_with};
use crate::workload::{
    INITIALIZER_MICROS, LARGE_BYTES, Request, SHARED_BYTES, TABLE_ENTRIES, skewed,
};

pub(super) fn run(request: &Request) -> Result<Samples> {
    let Request { workers, tasks, repetitions, .. } = *request;
    let build = || ThreadPoolBuilder::new().num_threads(workers).build();
    let count = tasks as u64;
    match request.workload.as_str() {
        "start" => timed(repetitions, || {
            std::thread::spawn(|| ()).join().map_err(|_| anyhow!("the thread panicked"))
        }),
        "pool" | "large" => timed(repetitions, || increment_all(&build()?, count)),
        "up" => {
            drop(build()?);
            let sample = |_| {
                let begin = Instant::now();
                let pool = build()?;
                let seconds = begin.elapsed().as_secs_f64();
                drop(pool);
                Ok(seconds)
            };
            (0..repetitions).map(sample).collect::<Result<_>>().map(Some)
        }
        "initializer" => timed(repetitions, || {
            let builder = ThreadPoolBuilder::new().num_threads(workers);
            increment_all(&builder.start_handler(|_| spin(INITIALIZER_MICROS)).build()?, count)
        }),
        "shared" => {
            let array = vec![1; SHARED_BYTES];
            timed(repetitions, || {
                let read = || (0..tasks).into_par_iter().map(|_| read_pages(&array)).sum::<u64>();
                ensure!(build()?.install(read) > 0);
                Ok(())
            })
        }
        workload => in_pool(&build()?, workload, request),
    }
}

/// Runs a workload in a pool that has started.
fn in_pool(pool: &ThreadPool, workload: &str, request: &Request) -> Result<Samples> {
    let Request { tasks, repetitions, .. } = *request;
    let count = tasks as u64;
    match workload {
        "trip" | "trip-awake" => timed(repetitions, || {
            ensure!(pool.install(|| increment(1)) == 2);
            Ok(())
        }),
        "tiny" => timed(repetitions, || increment_all(pool, count)),
        "chunksize-1" => timed(repetitions, || {
            let one = || (0..tasks).into_par_iter().with_max_len(1).map(|x| increment(x as u64));
            let results: Vec<u64> = pool.install(|| one().collect());
            ensure!(results.len() == tasks);
            Ok(())
        }),
        "skewed" => timed(repetitions, || {
            pool.install(|| skewed(tasks).into_par_iter().for_each(spin));
            Ok(())
        }),
        "send" => {
            let buffers = vec![vec![7_u8; LARGE_BYTES]; tasks];
            timed_with(
                repetitions,
                || buffers.clone(),
                |buffers| {
                    let length = |buffer: Vec<u8>| buffer.len();
                    let lengths = || buffers.into_par_iter().map(length).collect::<Vec<_>>();
                    ensure!(pool.install(lengths) == vec![LARGE_BYTES; tasks]);
                    Ok(())
                },
            )
        }
        "receive" => timed(repetitions, || {
            let make = || (0..tasks).into_par_iter().map(|_| vec![7_u8; LARGE_BYTES]);
            let buffers: Vec<Vec<u8>> = pool.install(|| make().collect());
            ensure!(buffers.len() == tasks);
            Ok(())
        }),
        "state" => {
            let values: HashMap<u64, u64> =
                (0..TABLE_ENTRIES).map(|key| (key, key * key)).collect();
            timed(repetitions, || {
                let look_up = |task| values.get(&(task as u64 % TABLE_ENTRIES)).copied();
                let all = || (0..tasks).into_par_iter().map(look_up).collect::<Vec<_>>();
                ensure!(pool.install(all).iter().all(Option::is_some));
                Ok(())
            })
        }
        "cpu" => timed(repetitions, || {
            let all = || (0..tasks).into_par_iter().map(|seed| compute(seed as u64));
            let results: Vec<u64> = pool.install(|| all().collect());
            ensure!(results.len() == tasks);
            Ok(())
        }),
        _ => Ok(None),
    }
}

fn increment_all(pool: &ThreadPool, count: u64) -> Result<()> {
    let results: Vec<u64> = pool.install(|| (0..count).into_par_iter().map(increment).collect());
    ensure!(results.len() as u64 == count);
    Ok(())
}
