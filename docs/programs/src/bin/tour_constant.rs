//! A constant for all tasks, and progress on stderr.

use anyhow::Result;
use proc_core::{Pool, Progress};

// The constant is lent to the function. The number is
// its argument.
fn scale(k: &i64, x: i64) -> i64 {
    k * x
}

fn main() -> Result<()> {
    proc_core::init();
    let numbers = [1, 2, 3, 4];
    let pool = Pool::builder().processes(4).build()?;

    let mut shown = 0;
    let show = |Progress { done, all, .. }: Progress| {
        for number in shown + 1..=done {
            eprintln!("{number} of {all}");
        }
        shown = done;
    };
    // The constant crosses once to each worker.
    let options = pool.options().progress(show);
    let tenfold = options.with(10);
    println!("{:?}", tenfold.map(scale, numbers)?);
    Ok(())
}
