//! Tasks that fail: two seconds each, and two retries.

use std::{process, thread, time::Duration};

use anyhow::Result;
use proc_core::{Error, Pool};

// One panics, one crashes, and one takes too long.
fn work(n: u32) -> u32 {
    println!("{n}: begins");
    match n {
        2 => panic!("a bad number"),
        3 => process::abort(),
        4 => thread::sleep(Duration::from_secs(3600)),
        _ => {}
    }
    n * n
}

fn main() -> Result<()> {
    proc_core::init();
    let numbers = [1, 2, 3, 4];
    let pool = Pool::builder().processes(4).build()?;
    let limit = Duration::from_secs(2);
    let options = pool.options().timeout(limit).retries(2);
    let results = options.try_map(work, numbers);

    // A result or an error for each number.
    for (n, result) in numbers.into_iter().zip(results) {
        match result {
            Ok(square) => println!("{n}: {square}"),
            Err(error) => println!("{n}: {}", why(&error)),
        }
    }
    Ok(())
}

fn why(error: &Error) -> &str {
    // After a crash or a time-out, there is no message.
    error.panic_message().unwrap_or("no result")
}
