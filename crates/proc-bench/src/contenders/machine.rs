//! The limit: how long the machine itself needs, without any library.

use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::time::Instant;

use anyhow::{Result, ensure};
use nix::sys::wait::{WaitStatus, waitpid};

use super::tasks::compute;
use super::{Samples, timed};
use crate::sys;
use crate::workload::{LARGE_BYTES, Request, skewed};

pub(super) fn run(request: &Request) -> Result<Samples> {
    let Request { workers, tasks, repetitions, .. } = *request;
    match request.workload.as_str() {
        "start" => timed(repetitions, || in_child(|| ())),
        "up" => {
            copies(workers)?; // does not count
            (0..repetitions).map(|_| copies(workers)).collect::<Result<_>>().map(Some)
        }
        "trip" | "trip-awake" => ping_pong(repetitions),
        "skewed" => Ok(Some(vec![ideal_schedule(workers, tasks); repetitions])),
        "send" | "receive" => {
            let (from, mut to) = (vec![7; LARGE_BYTES * tasks], vec![0; LARGE_BYTES * tasks]);
            timed(repetitions, || {
                to.copy_from_slice(black_box(&from));
                black_box(&mut to);
                Ok(())
            })
        }
        "cpu" => {
            let sample = |_| {
                let begin = Instant::now();
                let results: Vec<u64> = (0..tasks as u64).map(compute).collect();
                black_box(results);
                begin.elapsed().as_secs_f64() / workers as f64
            };
            Ok(Some((0..=repetitions).map(sample).skip(1).collect()))
        }
        _ => Ok(None),
    }
}

fn in_child(work: impl FnOnce()) -> Result<()> {
    let status = waitpid(sys::fork(work)?, None)?;
    ensure!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    Ok(())
}

/// Forks this process `count` times. Returns the seconds until each copy has sent a byte. The
/// copies then wait for the end of a pipe.
fn copies(count: usize) -> Result<f64> {
    let (mut from_children, mut to_parent) = std::io::pipe()?;
    let (mut from_parent, to_children) = std::io::pipe()?;
    let mut to_children = Some(to_children);
    let begin = Instant::now();
    let fork = |_| {
        sys::fork(|| {
            to_children = None;
            if to_parent.write_all(&[1]).is_ok() {
                let _ = from_parent.read(&mut [0]);
            }
        })
    };
    let children = (0..count).map(fork).collect::<Result<Vec<_>, _>>()?;
    from_children.read_exact(&mut vec![0; count])?;
    let seconds = begin.elapsed().as_secs_f64();
    drop(to_children);
    for child in children {
        waitpid(child, None)?;
    }
    Ok(seconds)
}

/// Sends 8 bytes through a pipe and back.
fn ping_pong(repetitions: usize) -> Result<Samples> {
    let (mut from_child, mut to_parent) = std::io::pipe()?;
    let (mut from_parent, to_child) = std::io::pipe()?;
    let mut to_child = Some(to_child);
    let child = sys::fork(|| {
        // With its own copy of the sending end, the child would not see the end of the pipe.
        to_child = None;
        let mut ball = [0; 8];
        while from_parent.read_exact(&mut ball).is_ok() && to_parent.write_all(&ball).is_ok() {}
    })?;
    let samples = timed(repetitions, || {
        let mut ball = [1; 8];
        if let Some(to_child) = &mut to_child {
            to_child.write_all(&ball)?;
        }
        Ok(from_child.read_exact(&mut ball)?)
    });
    drop(to_child);
    waitpid(child, None)?;
    samples
}

/// How many seconds the skewed tasks take if the longest come first, each on the worker that is
/// free first, and nothing else costs time.
fn ideal_schedule(workers: usize, tasks: usize) -> f64 {
    let mut durations = skewed(tasks);
    durations.sort_unstable_by(|a, b| b.cmp(a));
    let mut loads = vec![0; workers];
    for duration in durations {
        if let Some(least) = loads.iter_mut().min() {
            *least += duration;
        }
    }
    loads.into_iter().max().unwrap_or(0) as f64 * 1e-6
}
