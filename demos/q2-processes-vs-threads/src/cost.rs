//! What one thread and one process cost: to start and to keep.

use std::fs;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ipc_channel::ipc::{self, IpcReceiver, IpcSender};
use proc_core::Process;

pub(crate) fn start_thread() -> Result<()> {
    let other = thread::spawn(|| ());
    other.join().expect("it does nothing");
    Ok(())
}

pub(crate) fn start_process() -> Result<()> {
    let other = Process::new(|()| (), ());
    let other = other.start()?;
    other.join()?;
    Ok(())
}

/// Returns the median time of as many runs as fit into
/// `budget`. The first run does not count.
pub(crate) fn median(
    budget: Duration,
    once: &mut dyn FnMut() -> Result<()>,
) -> Result<Duration> {
    once()?;
    let mut times = Vec::new();
    let begin = Instant::now();
    while times.len() < 5 || begin.elapsed() < budget {
        let start = Instant::now();
        once()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// What each of many idle threads adds to this process, in KiB.
pub(crate) fn memory_of_thread() -> Result<Option<f64>> {
    const THREADS: usize = 64;
    let Some(before) = resident("self", "Rss") else {
        return Ok(None);
    };
    let gate = Arc::new(Barrier::new(THREADS + 1));
    let pass_twice = |gate: Arc<Barrier>| {
        gate.wait();
        gate.wait();
    };
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let gate = Arc::clone(&gate);
            thread::spawn(move || pass_twice(gate))
        })
        .collect();
    gate.wait();
    let after = resident("self", "Rss");
    gate.wait();
    for thread in threads {
        thread.join().expect("it only waits");
    }
    Ok(after.map(|after| (after - before) / THREADS as f64))
}

/// Returns the memory of an idle process in KiB: all pages that it has alone, and its share of each
/// page that it has together with others.
pub(crate) fn memory_of_process() -> Result<Option<f64>> {
    let (release, released) = ipc::channel::<()>()?;
    let (ready, readies) = ipc::channel::<()>()?;
    let idle = |(ready, released): (
        IpcSender<()>,
        IpcReceiver<()>,
    )| {
        // `send` fails only if the parent is gone. `recv` fails when the parent drops `release`.
        let _ = ready.send(());
        let _ = released.recv();
    };
    let process = Process::new(idle, (ready, released))
        .name("idle")
        .start()?;
    readies.recv().context("the idle process is gone")?;
    let size = resident(&process.pid().to_string(), "Pss");
    drop(release);
    process.join()?;
    Ok(size)
}

/// Returns one sum (`what`) over the memory map of a process, in KiB; `None` if the system has no
/// such file.
fn resident(pid: &str, what: &str) -> Option<f64> {
    let map = fs::read_to_string(format!(
        "/proc/{pid}/smaps_rollup"
    ))
    .ok()?;
    let line = map.lines().find_map(|line| {
        line.strip_prefix(what)?.strip_prefix(':')
    })?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}
