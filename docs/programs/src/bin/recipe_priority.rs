//! A small call that does not wait for a large one.

use std::{thread, time::Duration};

use anyhow::Result;
use proc_core::Pool;

fn work(x: u32) -> u32 {
    thread::sleep(Duration::from_millis(100));
    x + 1
}

fn main() -> Result<()> {
    proc_core::init();
    let pool = Pool::builder().processes(1).build()?;
    let low = pool.options().priority(-1);
    let mut report = low.map_async(work, 0..1_000)?;
    println!("small call: {}", pool.apply(work, 41)?);
    let ready = report.is_ready();
    let done = if ready { "done" } else { "not done" };
    println!("large call: {done}");
    Ok(())
}
