//! Two processes: one prints the even numbers below `n`, the other the odd ones.

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

pub(crate) fn run(n: u32) -> anyhow::Result<()> {
    let evens = Process::new(even, n).name("even").start()?;
    let odds = Process::new(odd, n).name("odd").start()?;

    evens.join()?;
    odds.join()?;

    println!("END!");
    Ok(())
}

fn main() -> anyhow::Result<()> {
    proc_core::init();
    run(15)
}
