//! Three processes wait for one signal.

use anyhow::Result;
use proc_core::Process;
use proc_core::sync::{Event, Value};

fn start((go, started): (Event, Value<u32>)) {
    go.wait();
    started.fetch_add(1);
}

fn main() -> Result<()> {
    proc_core::init();
    let go = Event::new()?;
    let started = Value::new(0)?;
    let mut children = Vec::new();
    for _ in 0..3 {
        let args = (go.clone(), started.clone());
        children.push(Process::new(start, args).start()?);
    }

    println!("{} have started", started.get());
    go.set();
    for child in children {
        child.join()?;
    }
    println!("{} have started", started.get());
    Ok(())
}
