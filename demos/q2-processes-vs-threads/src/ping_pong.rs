//! A message to the other side and the answer, which takes two switches between the sides.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use ipc_channel::ipc::{self, IpcReceiver, IpcSender};
use proc_core::Process;

use crate::cost::median;

type Ends = (IpcReceiver<u64>, IpcSender<u64>);

/// Sends back whatever comes, until nobody can send.
fn echo((questions, answers): Ends) {
    while let Ok(question) = questions.recv() {
        if answers.send(question).is_err() {
            break;
        }
    }
}

pub(crate) fn between_processes(
    budget: Duration,
) -> Result<Duration> {
    let (ask, questions) = ipc::channel()?;
    let (reply, answers) = ipc::channel()?;
    let ends = (questions, reply);
    let other = Process::new(echo, ends).start()?;
    let time = median(budget, &mut || {
        ask.send(1)?;
        answers.recv()?;
        Ok(())
    })?;
    drop(ask);
    other.join()?;
    Ok(time)
}

pub(crate) fn between_threads(
    budget: Duration,
) -> Result<Duration> {
    let (ask, questions) = ipc::channel()?;
    let (reply, answers) = ipc::channel()?;
    let ends = (questions, reply);
    let other = thread::spawn(move || echo(ends));
    let time = median(budget, &mut || {
        ask.send(1)?;
        answers.recv()?;
        Ok(())
    })?;
    drop(ask);
    other.join().expect("echo does not panic");
    Ok(time)
}

pub(crate) fn between_threads_by_mpsc(
    budget: Duration,
) -> Result<Duration> {
    let (ask, questions) = mpsc::channel::<u64>();
    let (reply, answers) = mpsc::channel();
    let other = thread::spawn(move || {
        questions.iter().try_for_each(|q| reply.send(q))
    });
    let time = median(budget, &mut || {
        ask.send(1)?;
        answers.recv()?;
        Ok(())
    })?;
    drop(ask);
    other.join().expect("it does not panic")?;
    Ok(time)
}
