//! Progress on stderr, while results come.

use anyhow::Result;
use proc_core::{Pool, Progress};

// Runs in a worker; `show` runs in the program.
fn square(x: u64) -> u64 {
    x * x
}

fn main() -> Result<()> {
    proc_core::init();
    let pool = Pool::builder().processes(2).build()?;
    let mut shown = 0;
    let show = |Progress { done, all, .. }: Progress| {
        while done >= shown + 25 {
            shown += 25;
            eprintln!("{shown} of {all}");
        }
    };
    let options = pool.options().progress(show);
    println!("{}", options.map(square, 0..100)?[99]);
    Ok(())
}
