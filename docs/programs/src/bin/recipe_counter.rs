//! A counter that all tasks share.

use anyhow::Result;
use proc_core::Pool;
use proc_core::sync::Value;

fn work(counter: &Value<u64>, x: u64) {
    if x.is_multiple_of(7) {
        counter.fetch_add(1); // in one step
    }
}

fn main() -> Result<()> {
    proc_core::init();
    let counter = Value::new(0)?;
    let pool = Pool::builder().processes(3).build()?;
    pool.with(counter.clone()).map(work, 0..1000)?;
    println!("{} of 1000", counter.get());
    Ok(())
}
