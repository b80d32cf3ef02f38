//! Tasks go on when SIGTERM comes to all processes.

use std::{thread, time::Duration};

use anyhow::Result;
use nix::sys::signal::{SIGTERM, SigSet, killpg};
use nix::unistd::getpgrp;
use proc_core::Pool;

fn square(x: u32) -> u32 {
    thread::sleep(Duration::from_millis(100));
    x * x
}

fn main() -> Result<()> {
    proc_core::init();
    // After `init`, and before the pool has threads.
    let signals = SigSet::from(SIGTERM);
    signals.thread_block()?;
    let pool = Pool::builder().processes(1).build()?;
    let mut squares = pool.imap(square, 0..4);
    println!("{}", squares.next().expect("four results")?);
    // What a service manager sends.
    killpg(getpgrp(), SIGTERM)?;
    let signal = signals.wait()?;
    println!("{signal}: the program finishes its work");
    for number in squares {
        println!("{}", number?);
    }
    Ok(())
}
