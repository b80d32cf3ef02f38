//! Tasks in the caller's own process, for a debugger.

use std::process;

use anyhow::Result;
use proc_core::{Executor, InProcess, Pool};

// 1 if it runs in the process with this pid, else 0.
fn is_here(pid: u32) -> u32 {
    (process::id() == pid).into()
}

fn count(on: &impl Executor) -> Result<u32> {
    Ok(on.map(is_here, [process::id(); 4])?.iter().sum())
}

fn main() -> Result<()> {
    proc_core::init();
    let here = InProcess::new();
    println!("here: {} of 4 in the caller", count(&here)?);
    let pool = Pool::builder().processes(2).build()?;
    println!("pool: {} of 4 in the caller", count(&pool)?);
    Ok(())
}
