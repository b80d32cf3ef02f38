//! Four processes that print different numbers.

use anyhow::Result;
use proc_core::Process;

fn print_number(number: u16) {
    // `println!` writes a short line in one piece,
    // with its newline.
    println!("Process {number} is printing: {number}");
}

pub(crate) fn run(count: u16) -> Result<()> {
    let mut processes = Vec::new();

    // Start all of them before any is joined.
    for n in 0..count {
        let process = Process::new(print_number, n);
        processes.push(process.start()?);
    }

    for process in processes {
        process.join()?;
    }
    Ok(())
}

fn main() -> Result<()> {
    proc_core::init();
    run(4)
}
