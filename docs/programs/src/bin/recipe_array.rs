//! An array that all tasks write.

use anyhow::Result;
use proc_core::Pool;
use proc_core::sync::Array;

fn root(roots: &Array<f64>, i: usize) {
    roots.set(i, (i as f64).sqrt());
}

fn main() -> Result<()> {
    proc_core::init();
    let roots = Array::zeroed(1000)?;
    let pool = Pool::builder().processes(3).build()?;
    pool.with(roots.clone()).map(root, 0..1000)?;
    let sum: f64 = roots.snapshot().iter().sum();
    println!("{sum:.1}");
    Ok(())
}
