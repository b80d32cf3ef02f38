//! What a process begins with, by its start method.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use anyhow::Result;
use proc_core::{Process, StartMethod};

static LEVEL: AtomicU32 = AtomicU32::new(1);

fn show(name: String) {
    println!("{name}: level {}", LEVEL.load(Relaxed));
}

fn main() -> Result<()> {
    proc_core::init();
    LEVEL.store(2, Relaxed);
    for name in ["fork", "spawn", "forkserver"] {
        let method: StartMethod = name.parse()?;
        let child = Process::new(show, name.to_owned());
        let child = child.start_method(method).start()?;
        child.join()?;
    }
    Ok(())
}
