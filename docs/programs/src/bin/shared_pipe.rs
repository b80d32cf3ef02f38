//! A process answers what it is asked.

use anyhow::Result;
use proc_core::Process;
use proc_core::sync::{Connection, pipe};

fn measure(parent: Connection<usize, String>) {
    while let Ok(text) = parent.recv() {
        parent.send(text.len()).expect("it waits");
    }
}

fn main() -> Result<()> {
    proc_core::init();
    let (here, there) = pipe::<String, usize>()?;
    let child = Process::new(measure, there).start()?;
    for text in ["one", "three"] {
        here.send(text.to_owned())?;
        println!("{text} has {} letters", here.recv()?);
    }

    drop(here); // the child's recv is an error
    child.join()?;
    Ok(())
}
