//! The crate procspawn: a process for each call, or a pool. The pool has no map, so each task is a
//! call of its own.

use std::collections::VecDeque;

use anyhow::{Result, ensure};
use procspawn::{JoinHandle, Pool, SpawnError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;

use super::tasks::{compute, increment, spin};
use super::{Samples, timed, timed_with};
use crate::workload::{LARGE_BYTES, Request, skewed};

pub(super) fn run(request: &Request) -> Result<Samples> {
    let Request { workers, tasks, repetitions, .. } = *request;
    let count = tasks as u64;
    match request.workload.as_str() {
        "start" => timed(repetitions, || Ok(procspawn::spawn((), |()| ()).join()?)),
        "pool" | "large" => timed(repetitions, || {
            ensure!(map(&Pool::new(workers)?, MAX_OPEN_CALLS, increment, 0..count)?.len() == tasks);
            Ok(())
        }),
        workload => in_pool(&Pool::new(workers)?, workload, request),
    }
}

/// Runs a workload in a pool that has started.
fn in_pool(pool: &Pool, workload: &str, request: &Request) -> Result<Samples> {
    let Request { tasks, repetitions, .. } = *request;
    let count = tasks as u64;
    match workload {
        "trip" | "trip-awake" => timed(repetitions, || {
            ensure!(pool.spawn(1, increment).join()? == 2);
            Ok(())
        }),
        "tiny" | "chunksize-1" => timed(repetitions, || {
            ensure!(map(pool, MAX_OPEN_CALLS, increment, 0..count)?.len() == tasks);
            Ok(())
        }),
        "skewed" => timed(repetitions, || {
            map(pool, MAX_OPEN_CALLS, spin, skewed(tasks))?;
            Ok(())
        }),
        "send" => {
            let buffers = vec![ByteBuf::from(vec![7; LARGE_BYTES]); tasks];
            timed_with(
                repetitions,
                || buffers.clone(),
                |buffers| {
                    // With more open calls procspawn hangs: the caller waits until a worker reads a
                    // large argument, and that worker waits until the caller fetches its result.
                    let lengths = map(pool, pool.size(), |buffer: ByteBuf| buffer.len(), buffers)?;
                    ensure!(lengths == vec![LARGE_BYTES; tasks]);
                    Ok(())
                },
            )
        }
        "receive" => timed(repetitions, || {
            let make = |length: usize| ByteBuf::from(vec![7; length]);
            let buffers = map(pool, MAX_OPEN_CALLS, make, std::iter::repeat_n(LARGE_BYTES, tasks))?;
            ensure!(buffers.iter().all(|buffer| buffer.len() == LARGE_BYTES));
            Ok(())
        }),
        "cpu" => timed(repetitions, || {
            ensure!(map(pool, MAX_OPEN_CALLS, compute, 0..count)?.len() == tasks);
            Ok(())
        }),
        _ => Ok(None),
    }
}

/// The most calls that are open at once. Each holds descriptors.
const MAX_OPEN_CALLS: usize = 64;

/// A map as a user would write it, with at most `max_open` calls at once.
fn map<A, R>(
    pool: &Pool,
    max_open: usize,
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
        if open.len() == max_open
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
