//! A constant for all tasks, and progress on stderr.

use anyhow::Result;
use proc_core::{Pool, Progress};

// A task has one argument. Here it is a tuple: the
// constant and a number.
fn scale((k, x): (i64, i64)) -> i64 {
    k * x
}

fn main() -> Result<()> {
    proc_core::init();
    let numbers = vec![1, 2, 3, 4];
    let pool = Pool::builder().processes(4).build()?;
    // The constant goes with each number.
    let pairs = numbers.into_iter().map(|x| (10, x));

    let mut shown = 0;
    let show = |Progress { done, all, .. }: Progress| {
        for number in shown + 1..=done {
            eprintln!("{number} of {all}");
        }
        shown = done;
    };
    let options = pool.options().progress(show);
    println!("{:?}", options.map(scale, pairs)?);
    Ok(())
}
