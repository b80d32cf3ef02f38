//! A function that runs in a process of its own.

use anyhow::Result;
use proc_core::Process;

fn greet(name: String) {
    println!("hello {name}");
}

fn main() -> Result<()> {
    proc_core::init();
    let child = Process::new(greet, "bob".to_owned());
    let child = child.start()?;
    child.join()?;
    Ok(())
}
