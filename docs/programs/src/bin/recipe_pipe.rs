//! A process that is asked, and answers.

use anyhow::Result;
use proc_core::Process;
use proc_core::sync::{Connection, pipe};

fn add_up(parent: Connection<u32, u32>) {
    let mut total = 0;
    while let Ok(x) = parent.recv() {
        total += x;
        parent.send(total).expect("it waits");
    }
}

fn main() -> Result<()> {
    proc_core::init();
    let (here, there) = pipe()?;
    let child = Process::new(add_up, there).start()?;
    for x in [5, 3, 4] {
        here.send(x)?;
        println!("{x} makes {}", here.recv()?);
    }

    drop(here); // the end
    child.join()?;
    Ok(())
}
