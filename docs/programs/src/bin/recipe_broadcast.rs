//! What each worker has counted, gathered at the end.

use anyhow::Result;
use proc_core::Pool;

// A worker's state is its number of tasks.
fn count(seen: &mut u32, _: u32) {
    *seen += 1;
}

fn main() -> Result<()> {
    proc_core::init();
    let builder = Pool::builder().processes(3);
    let pool = builder.state(|()| 0, ()).build()?;
    pool.with_state().map(count, 0..1000)?;
    let report = |seen: &mut u32, ()| *seen;
    let counts = pool.with_state().broadcast(report, ())?;
    let sum: u32 = counts.iter().sum();
    println!("{} workers: {sum} tasks", counts.len());
    Ok(())
}
