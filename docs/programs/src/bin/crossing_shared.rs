//! A table that all tasks read and that no task copies.

use anyhow::Result;
use proc_core::{Pool, Shared};

type Table = Shared<f64>;

// The state of a worker is the table.

fn keep(shared: Table) -> Table {
    shared
}

/// A task: the sum of a part of the table.
fn total(table: &mut Table, part: (usize, usize)) -> f64 {
    let (first, end) = part;
    table[first..end].iter().sum()
}

fn run() -> Result<()> {
    let numbers = (0..1000).map(|i| f64::from(i) * 0.5);
    let numbers: Vec<f64> = numbers.collect();
    let shared = Table::from_slice(&numbers)?;
    let builder = Pool::builder().processes(2);
    let pool = builder.state(keep, shared).build()?;
    let parts = [(0, 500), (500, 1000)];
    println!("{:?}", pool.with_state().map(total, parts)?);
    Ok(())
}

fn main() -> Result<()> {
    proc_core::init();
    run()
}
