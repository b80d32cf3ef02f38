//! A pool of workers that squares numbers.

use anyhow::Result;
use proc_core::Pool;

fn square(x: i64) -> i64 {
    x * x
}

pub(crate) fn run(
    workers: usize,
    numbers: Vec<i64>,
) -> Result<()> {
    let pool =
        Pool::builder().processes(workers).build()?;
    let squares = pool.map(square, numbers)?;

    println!("{squares:?}");
    Ok(())
}

fn main() -> Result<()> {
    proc_core::init();
    run(5, vec![3, 4, 5, 6, 6, 7, 87, 8, 8])
}
