//! One function over many values, in several processes.

use anyhow::Result;
use proc_core::Pool;

fn square(x: i64) -> i64 {
    x * x
}

fn main() -> Result<()> {
    proc_core::init();
    let pool = Pool::builder().processes(5).build()?;
    println!("{:?}", pool.map(square, [1, 2, 3])?);
    Ok(())
}
