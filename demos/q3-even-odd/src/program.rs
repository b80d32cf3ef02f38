//! Two processes: one prints even numbers, one odd ones.

use anyhow::Result;
use proc_core::Process;

fn even(n: u32) {
    for i in (0..n).step_by(2) {
        println!("even: {i}");
    }
}

fn odd(n: u32) {
    for i in (1..n).step_by(2) {
        println!("odd: {i}");
    }
}

pub(crate) fn run(n: u32) -> Result<()> {
    let evens = Process::new(even, n).name("even");
    let odds = Process::new(odd, n).name("odd");

    let evens = evens.start()?;
    let odds = odds.start()?;

    evens.join()?;
    odds.join()?;

    println!("END!");
    Ok(())
}

fn main() -> Result<()> {
    proc_core::init();
    run(15)
}
