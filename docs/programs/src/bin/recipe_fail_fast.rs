//! The first failure ends the call, and the pool goes on.

use std::{thread, time::Duration};

use anyhow::Result;
use proc_core::Pool;

fn check(x: u32) -> u32 {
    thread::sleep(Duration::from_millis(10));
    assert!(x != 3, "{x} is wrong");
    x
}

fn main() -> Result<()> {
    proc_core::init();
    let pool = Pool::builder().processes(2).build()?;
    let options = pool.options().fail_fast();
    if let Err(error) = options.map(check, 0..10_000) {
        let why = error.panic_message().unwrap_or("?");
        println!("stopped: {why}");
    }
    println!("later: {}", pool.apply(check, 4)?);
    Ok(())
}
