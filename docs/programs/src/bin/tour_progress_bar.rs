//! Progress in one line, if stderr is a terminal.

use anyhow::Result;
use proc_core::{Pool, progress_bar};

// How many steps the Collatz sequence of n takes to 1.
// The sequence ends for all numbers that anybody tried.
fn steps(mut n: u64) -> u32 {
    let mut count = 0;
    while n != 1 {
        n = if n % 2 == 1 { 3 * n + 1 } else { n / 2 };
        count += 1;
    }
    count
}

fn main() -> Result<()> {
    proc_core::init();
    let pool = Pool::builder().processes(4).build()?;

    let options = pool.options().progress(progress_bar());
    let counts = options.map(steps, 1..=1000)?;

    let most = counts.into_iter().max().unwrap_or(0);
    println!("at most {most} steps");
    Ok(())
}
