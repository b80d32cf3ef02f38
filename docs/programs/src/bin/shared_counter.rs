//! Four processes count together.

use anyhow::Result;
use proc_core::Process;
use proc_core::sync::Value;

fn count(counter: Value<u64>) {
    for _ in 0..10_000 {
        counter.fetch_add(1); // in one step
    }
}

fn main() -> Result<()> {
    proc_core::init();
    let counter = Value::new(0)?;
    let mut children = Vec::new();
    for _ in 0..4 {
        let child = Process::new(count, counter.clone());
        children.push(child.start()?);
    }

    for child in children {
        child.join()?;
    }
    println!("{}", counter.get());
    Ok(())
}
