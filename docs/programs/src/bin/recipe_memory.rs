//! A worker that has grown is replaced.

use std::process;

use anyhow::Result;
use proc_core::Pool;

// What is leaked is never freed.
fn leak(mebibytes: usize) -> u32 {
    vec![1_u8; mebibytes << 20].leak();
    process::id()
}

fn main() -> Result<()> {
    proc_core::init();
    let builder = Pool::builder().processes(1);
    let pool = builder.max_memory_per_child(100 << 20);
    let mut pids =
        pool.build()?.map(leak, [1, 200, 1, 1])?;
    pids.dedup();
    println!("{} workers for 4 tasks", pids.len());
    Ok(())
}
