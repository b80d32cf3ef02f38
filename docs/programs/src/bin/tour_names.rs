//! Processes with names.

use anyhow::Result;
use proc_core::Process;

fn work(name: String) {
    println!("{name} works");
}

fn main() -> Result<()> {
    proc_core::init();
    for name in ["reader", "writer"] {
        let child = Process::new(work, name.to_owned());
        let child = child.name(name).start()?;
        let name = child.name().to_owned();
        child.join()?;
        println!("{name} has ended");
    }
    Ok(())
}
