//! A task that fails, among others that do not.

use anyhow::Result;
use proc_core::{Error, Pool};

// A panic in a worker is an error in the parent.
fn root(x: i64) -> i64 {
    assert!(x >= 0, "{x} is negative");
    x.isqrt()
}

// The worker goes on after a panic.
fn main() -> Result<()> {
    proc_core::init();
    let pool = Pool::builder().processes(2).build()?;
    // One error instead of all results.
    match pool.map(root, [4, -1, 9]) {
        Ok(roots) => println!("{roots:?}"),
        Err(error) => println!("map: {}", message(&error)),
    }

    // A result or an error for each input.
    for result in pool.try_map(root, [4, -1, 9]) {
        match result {
            Ok(root) => println!("root: {root}"),
            Err(error) => {
                println!("error: {}", message(&error))
            }
        }
    }
    Ok(())
}

fn message(error: &Error) -> &str {
    error.panic_message().unwrap_or("not a panic")
}
