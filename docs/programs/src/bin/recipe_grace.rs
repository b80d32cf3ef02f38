//! A task that returns what it has when its time is over.

use std::time::Duration;

use anyhow::Result;
use proc_core::{Pool, current};

fn add_up(_: ()) -> f64 {
    let (mut total, mut k) = (0.0, 1.0);
    loop {
        for _ in 0..1000 {
            total += 1.0 / (k * k);
            k += 1.0;
        }
        if current().stop_requested() {
            return total;
        }
    }
}

fn main() -> Result<()> {
    proc_core::init();
    let pool = Pool::builder().processes(1).build()?;
    let limit = Duration::from_millis(100);
    let grace = Duration::from_secs(10);
    let options =
        pool.options().timeout(limit).grace(grace);
    println!("{:.2}", options.apply(add_up, ())?);
    Ok(())
}
