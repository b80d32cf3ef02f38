//! One table that all processes read, and one total.

use anyhow::Result;
use proc_core::sync::Value;
use proc_core::{Process, Shared};

type Args = (Shared<i64>, Value<i64>, usize);
fn add((table, total, start): Args) {
    // The table is not copied.
    let part = &table[start..start + 250];
    total.fetch_add(part.iter().sum());
}

fn main() -> Result<()> {
    proc_core::init();
    let numbers: Vec<i64> = (0..1000).collect();
    let table = Shared::from_slice(&numbers)?;
    let total = Value::new(0)?;

    let mut children = Vec::new();
    for start in (0..1000).step_by(250) {
        let args = (table.clone(), total.clone(), start);
        let child = Process::new(add, args).start()?;
        children.push(child);
    }

    for child in children {
        child.join()?;
    }
    println!("{}", total.get());
    Ok(())
}
