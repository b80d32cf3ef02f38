//! Four ways to give work to a pool.

use anyhow::Result;
use proc_core::Pool;

fn square(x: i64) -> i64 {
    x * x
}

fn main() -> Result<()> {
    proc_core::init();
    let pool = Pool::builder().processes(4).build()?;
    // All results, in the order of the inputs.
    println!("map {:?}", pool.map(square, 0..5)?);

    // One result after the other, in that order.
    for result in pool.imap(square, 0..3) {
        println!("imap {}", result?);
    }
    // One after the other, as they come.
    let mut total = 0;
    for result in pool.imap_unordered(square, 0..5) {
        total += result?;
    }
    println!("imap_unordered {total}");

    // One call, whose result is fetched later.
    let task = pool.apply_async(square, 20)?;
    println!("apply_async {}", task.get()?);
    Ok(())
}
