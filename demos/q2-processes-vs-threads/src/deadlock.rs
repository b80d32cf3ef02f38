//! Two parts of a program wait for each other.

use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ipc_channel::ipc::{self, IpcReceiver, IpcSender};
use proc_core::Process;

use crate::fate::{Fate, LONG, run};

type Ends = (IpcReceiver<()>, IpcSender<()>);

fn stuck_threads((): ()) -> String {
    let (left, right) = (Mutex::new(()), Mutex::new(()));
    let both_hold_one = Barrier::new(2);
    // Takes one lock, and then the other one.
    let take = |first: &Mutex<()>, second: &Mutex<()>| {
        let _first = first.lock();
        both_hold_one.wait();
        let _second = second.lock(); // the other has it
    };
    thread::scope(|threads| {
        threads.spawn(|| take(&left, &right));
        threads.spawn(|| take(&right, &left));
    });
    "both threads got both locks".into()
}

/// Waits for the other's message, then sends its own.
fn after_you((theirs, mine): Ends) -> bool {
    let heard = theirs.recv().is_ok();
    // This fails if the other process is gone.
    let _ = mine.send(());
    // Whether the message has come.
    heard
}

fn stuck_processes(patience: Duration) -> Result<String> {
    let (to_left, left) = ipc::channel()?;
    let (to_right, right) = ipc::channel()?;
    // An end that is an argument moves into the process.
    // The parent has it no longer.
    let one = Process::new(after_you, (left, to_right));
    let other = Process::new(after_you, (right, to_left));
    let mut one = one.start()?;
    let other = other.start()?;

    // If it were not stuck, it would have ended by now.
    let early = one.join_timeout(patience)?;
    ensure!(early.is_none(), "they were not stuck");
    one.kill()?;
    let end =
        one.join().err().and_then(|e| e.exit_status());
    let heard = other.join()?;
    ensure!(!heard, "it received a message");
    let end = end.context("it was not killed")?;
    Ok(format!("one is killed ({end}), the other goes on"))
}

pub(crate) fn of_threads(
    patience: Duration,
) -> Result<Fate> {
    run(stuck_threads, (), patience)
}

pub(crate) fn of_processes(
    patience: Duration,
) -> Result<Fate> {
    let program = |patience| {
        stuck_processes(patience).unwrap_or_else(|error| {
            format!("something else: {error}")
        })
    };
    run(program, patience, LONG)
}
