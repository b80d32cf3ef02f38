//! A message to the other side and the answer, which takes two switches between the sides.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ipc_channel::ipc::{self, IpcReceiver, IpcSender};
use proc_core::Process;

use crate::cost::median;

/// Sends back whatever comes, until nobody can send any more.
fn echo((questions, answers): (IpcReceiver<u64>, IpcSender<u64>)) {
    while let Ok(question) = questions.recv() {
        if answers.send(question).is_err() {
            break;
        }
    }
}

pub(crate) fn between_processes(budget: Duration) -> Result<Duration> {
    let (ask, questions) = ipc::channel()?;
    let (reply, answers) = ipc::channel()?;
    let other = Process::new(echo, (questions, reply)).name("echo").start()?;
    let time = median(budget, &mut || {
        ask.send(1)?;
        answers.recv().context("the other process is gone")?;
        Ok(())
    })?;
    drop(ask);
    other.join()?;
    Ok(time)
}

pub(crate) fn between_threads_by_ipc(budget: Duration) -> Result<Duration> {
    let (ask, questions) = ipc::channel()?;
    let (reply, answers) = ipc::channel()?;
    let other = thread::spawn(move || echo((questions, reply)));
    let time = median(budget, &mut || {
        ask.send(1)?;
        answers.recv().context("the other thread is gone")?;
        Ok(())
    })?;
    drop(ask);
    other.join().expect("echo does not panic");
    Ok(time)
}

pub(crate) fn between_threads_by_mpsc(budget: Duration) -> Result<Duration> {
    let (ask, questions) = mpsc::channel::<u64>();
    let (reply, answers) = mpsc::channel();
    let other =
        thread::spawn(move || questions.iter().try_for_each(|question| reply.send(question)));
    let time = median(budget, &mut || {
        ask.send(1)?;
        answers.recv().context("the other thread is gone")?;
        Ok(())
    })?;
    drop(ask);
    other.join().expect("echo does not panic")?;
    Ok(time)
}
