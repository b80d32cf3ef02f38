//! What becomes of a program when one part of it fails, the parts being threads or processes.
//!
//! Each program here runs in a process of its own, so that this one lives to tell of its end.

use std::panic;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use ipc_channel::ipc::{self, IpcReceiver, IpcSender};
use proc_core::{Error, Message, Process};

/// A program's end.
pub(crate) enum Fate {
    /// It did, and this is what it has to say.
    WentOn(String),
    Died(ExitStatus),
}

/// Runs a program to its end, or until it has made its parent wait too long.
fn run<A: Message>(
    program: impl Fn(A) -> String + Copy + 'static,
    argument: A,
    patience: Duration,
) -> Result<Fate> {
    let mut child = Process::new(program, argument).name("program").start()?;
    let outcome = match child.join_timeout(patience) {
        Ok(Some(said)) => Ok(said),
        Ok(None) => {
            child.kill()?; // it is stuck
            child.join()
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(said) => Ok(Fate::WentOn(said)),
        Err(error) => error.exit_status().map(Fate::Died).ok_or_else(|| error.into()),
    }
}

/// For a program that is expected to end by itself.
const LONG: Duration = Duration::from_secs(30);

// --- one part panics ---------------------------------------------------------------------------

fn faulty(_: ()) {
    panic::set_hook(Box::new(|_| {})); // the report below is enough
    panic!("no such customer")
}

pub(crate) fn panic_in_thread() -> Result<Fate> {
    run(
        |()| match thread::spawn(|| faulty(())).join() {
            Ok(()) => "the thread returned".into(),
            Err(payload) => format!(
                "the thread panicked: {}",
                payload.downcast_ref::<&str>().unwrap_or(&"(no text)")
            ),
        },
        (),
        LONG,
    )
}

pub(crate) fn panic_in_process() -> Result<Fate> {
    run(|()| part_as_process(faulty), (), LONG)
}

// --- one part aborts, as after a null pointer or a stack overflow -------------------------------

// ANCHOR: abort
fn crash(_: ()) {
    std::process::abort()
}

pub(crate) fn abort_in_thread() -> Result<Fate> {
    run(|()| format!("the thread ended: {:?}", thread::spawn(|| crash(())).join()), (), LONG)
}

pub(crate) fn abort_in_process() -> Result<Fate> {
    run(|()| part_as_process(crash), (), LONG)
}

/// A program that starts a process and goes on, whatever becomes of it.
fn part_as_process(part: impl Fn(()) + Copy + 'static) -> String {
    match Process::new(part, ()).name("part").start().and_then(|child| child.join()) {
        Ok(()) => "the process returned".into(),
        Err(error) => error.to_string(),
    }
}
// ANCHOR_END: abort

// --- two parts wait for each other --------------------------------------------------------------

pub(crate) fn deadlock_of_threads(patience: Duration) -> Result<Fate> {
    run(
        |()| {
            let (left, right, both_hold_one) = (Mutex::new(()), Mutex::new(()), Barrier::new(2));
            let take = |first: &Mutex<()>, second: &Mutex<()>| {
                let _first = first.lock();
                both_hold_one.wait();
                let _second = second.lock(); // held by the other, who waits for ours
            };
            thread::scope(|threads| {
                threads.spawn(|| take(&left, &right));
                threads.spawn(|| take(&right, &left));
            });
            "both threads got both locks".into()
        },
        (),
        patience,
    )
}

pub(crate) fn deadlock_of_processes(patience: Duration) -> Result<Fate> {
    run(
        |patience| {
            end_deadlock(patience).unwrap_or_else(|error| format!("it could not start: {error}"))
        },
        patience,
        LONG,
    )
}

/// Starts two processes, each waiting for the other's word before it gives its own, and kills one.
fn end_deadlock(patience: Duration) -> Result<String> {
    let after_you = |(theirs, mine): (IpcReceiver<()>, IpcSender<()>)| {
        let heard = theirs.recv().is_ok();
        let _ = mine.send(()); // fails if the other is gone, which is then known
        heard
    };
    let ((to_left, left), (to_right, right)) = (ipc::channel()?, ipc::channel()?);
    let mut left = Process::new(after_you, (left, to_right)).start()?;
    let right = Process::new(after_you, (right, to_left)).start()?;
    Ok(match left.join_timeout(patience)? {
        Some(_) => "the processes were not stuck".into(),
        None => {
            left.kill()?;
            let end = left.join().err().and_then(|error| error.exit_status());
            let end = end.map_or("it returned".into(), |status| status.to_string());
            let heard = if right.join()? { "got its word" } else { "stopped waiting for it" };
            format!("one was ended from outside ({end}), the other {heard}")
        }
    })
}

// --- two parts add 1 to the same value ----------------------------------------------------------

pub(crate) fn race_of_threads() -> Result<Fate> {
    run(
        |()| {
            let (value, both_have_read) = (AtomicU64::new(0), Barrier::new(2));
            let add = || {
                let read = value.load(Ordering::Relaxed);
                both_have_read.wait();
                value.store(read + 1, Ordering::Relaxed);
            };
            thread::scope(|threads| {
                threads.spawn(add);
                threads.spawn(add);
            });
            format!("the sum is {}", value.into_inner())
        },
        (),
        LONG,
    )
}

pub(crate) fn race_of_processes() -> Result<Fate> {
    run(
        |()| {
            let add = |read: u64| read + 1;
            let sum = || -> Result<u64, Error> {
                let started = [Process::new(add, 0).start()?, Process::new(add, 0).start()?];
                started.into_iter().map(|process| process.join()).sum()
            };
            sum().map_or_else(|error| error.to_string(), |sum| format!("the sum is {sum}"))
        },
        (),
        LONG,
    )
}
