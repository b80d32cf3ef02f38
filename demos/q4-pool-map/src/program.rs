//! A pool of workers that squares numbers.

use proc_core::Pool;

fn square(x: i64) -> i64 {
    x * x
}

pub(crate) fn run(processes: usize, numbers: Vec<i64>) -> anyhow::Result<()> {
    let pool = Pool::builder().processes(processes).build()?;
    let squares = pool.map(square, numbers)?;

    println!("{squares:?}");
    Ok(())
}

fn main() -> anyhow::Result<()> {
    proc_core::init();
    run(5, vec![3, 4, 5, 6, 6, 7, 87, 8, 8])
}
