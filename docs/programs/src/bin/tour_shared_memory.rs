//! One table that all processes read, and one total.

use anyhow::Result;
use proc_core::{Process, Shared};

fn add((table, start): (Shared<i64>, usize)) -> i64 {
    // The table is not copied.
    let part = &table[start..start + 250];
    part.iter().sum()
}

fn main() -> Result<()> {
    proc_core::init();
    let numbers: Vec<i64> = (0..1000).collect();
    let table = Shared::from_slice(&numbers)?;
    let mut total = 0;

    let mut children = Vec::new();
    for start in (0..1000).step_by(250) {
        let args = (table.clone(), start);
        let child = Process::new(add, args).start()?;
        children.push(child);
    }

    for child in children {
        total += child.join()?;
    }
    println!("{total}");
    Ok(())
}
