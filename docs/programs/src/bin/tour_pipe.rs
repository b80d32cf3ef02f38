//! A process that answers.

use anyhow::Result;
use proc_core::Process;
use proc_core::sync::{self, Connection};

type Parent = Connection<u32, u32>;

fn double(parent: Parent) {
    while let Ok(x) = parent.recv() {
        parent.send(2 * x).expect("it waits");
    }
}

fn main() -> Result<()> {
    proc_core::init();
    let (pipe, other_end) = sync::pipe()?;
    let child = Process::new(double, other_end);
    let child = child.start()?;

    for x in [3, 4, 5] {
        pipe.send(x)?;
        println!("{x} doubled is {}", pipe.recv()?);
    }

    drop(pipe); // the end
    child.join()?;
    Ok(())
}
