//! Two parts of a program wait for each other.

use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use ipc_channel::ipc::{self, IpcReceiver, IpcSender};
use proc_core::Process;

use crate::fate::{Fate, LONG, run};

pub(crate) fn of_threads(patience: Duration) -> Result<Fate> {
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

pub(crate) fn of_processes(patience: Duration) -> Result<Fate> {
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
