//! The crate procspawn: a process a call, or a pool that is given one call at a time.

use std::collections::VecDeque;

use anyhow::{Result, ensure};
use procspawn::{JoinHandle, Pool, SpawnError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;

use super::tasks::{compute, increment, spin};
use super::{Samples, timed, timed_with};
use crate::workload::{LARGE, Request, skewed};

pub(super) fn run(asked: &Request) -> Result<Samples> {
    let Request { workers, tasks, repetitions, .. } = *asked;
    let count = tasks as u64;
    match asked.workload.as_str() {
        "start" => timed(repetitions, || Ok(procspawn::spawn((), |()| ()).join()?)),
        "pool" | "large" => timed(repetitions, || {
            ensure!(map(&Pool::new(workers)?, MANY, increment, 0..count)?.len() == tasks);
            Ok(())
        }),
        workload => in_pool(&Pool::new(workers)?, workload, asked),
    }
}

/// What is timed in a pool that is there already.
fn in_pool(pool: &Pool, workload: &str, asked: &Request) -> Result<Samples> {
    let Request { tasks, repetitions, .. } = *asked;
    let count = tasks as u64;
    match workload {
        "trip" | "trip-awake" => timed(repetitions, || {
            ensure!(pool.spawn(1, increment).join()? == 2);
            Ok(())
        }),
        "tiny" | "chunksize-1" => timed(repetitions, || {
            ensure!(map(pool, MANY, increment, 0..count)?.len() == tasks);
            Ok(())
        }),
        "skewed" => timed(repetitions, || {
            map(pool, MANY, spin, skewed(tasks))?;
            Ok(())
        }),
        "send" => {
            let buffers = vec![ByteBuf::from(vec![7; LARGE]); tasks];
            timed_with(
                repetitions,
                || buffers.clone(),
                |buffers| {
                    // With more, a large argument waits for a worker that waits for its result to
                    // be fetched: procspawn hangs.
                    let lengths = map(pool, pool.size(), |buffer: ByteBuf| buffer.len(), buffers)?;
                    ensure!(lengths == vec![LARGE; tasks]);
                    Ok(())
                },
            )
        }
        "receive" => timed(repetitions, || {
            let make = |length: usize| ByteBuf::from(vec![7; length]);
            let buffers = map(pool, MANY, make, std::iter::repeat_n(LARGE, tasks))?;
            ensure!(buffers.iter().all(|buffer| buffer.len() == LARGE));
            Ok(())
        }),
        "cpu" => timed(repetitions, || {
            ensure!(map(pool, MANY, compute, 0..count)?.len() == tasks);
            Ok(())
        }),
        _ => Ok(None),
    }
}

/// Calls that are open at once: each holds descriptors.
const MANY: usize = 64;

/// As a user would write it, with so many calls open at once.
fn map<A, R>(
    pool: &Pool,
    most: usize,
    function: fn(A) -> R,
    inputs: impl IntoIterator<Item = A>,
) -> Result<Vec<R>, SpawnError>
where
    A: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned + Send + 'static,
{
    let mut results = Vec::new();
    let mut open: VecDeque<JoinHandle<R>> = VecDeque::new();
    for input in inputs {
        if open.len() == most
            && let Some(oldest) = open.pop_front()
        {
            results.push(oldest.join()?);
        }
        open.push_back(pool.spawn(input, function));
    }
    for handle in open {
        results.push(handle.join()?);
    }
    Ok(results)
}
