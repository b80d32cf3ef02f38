//! Random numbers: the same ones again, or fresh ones.

use anyhow::Result;
use fastrand::Rng;
use proc_core::{Pool, current};

// A generator that begins with the seed of the task.
fn draw(_: u32) -> u64 {
    Rng::with_seed(current().seed()).u64(..)
}

fn main() -> Result<()> {
    proc_core::init();
    let pool = Pool::builder().processes(4).build()?;
    let seeded = ("seed 7", pool.options().seed(7));
    let unseeded = ("no seed", pool.options());
    for (name, options) in [seeded, unseeded] {
        let first = options.map(draw, 0..100)?;
        let mut again = options.map(draw, 0..100)?;
        again.retain(|number| first.contains(number));
        let same = again.len();
        println!("{name}: {same} of 100 again");
    }
    Ok(())
}
