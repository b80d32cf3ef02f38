//! A process that answers.

use anyhow::Result;
use proc_core::Process;
use proc_core::ipc::{self, IpcReceiver, IpcSender};

type Ends = (IpcReceiver<u32>, IpcSender<u32>);

fn double((questions, answers): Ends) {
    while let Ok(x) = questions.recv() {
        answers.send(2 * x).expect("a receiver");
    }
}

fn main() -> Result<()> {
    proc_core::init();
    let (ask, questions) = ipc::channel()?;
    let (answers, answer) = ipc::channel()?;
    let child = Process::new(double, (questions, answers));
    let child = child.start()?;

    for x in [3, 4, 5] {
        ask.send(x)?;
        println!("{x} doubled is {}", answer.recv()?);
    }

    drop(ask); // the end
    child.join()?;
    Ok(())
}
