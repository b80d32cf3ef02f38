//! Four processes, each of which prints a different number.

use proc_core::Process;

fn print_number(number: u16) {
    println!("Process {number} is printing: {number}");
}

pub(crate) fn run(processes: u16) -> anyhow::Result<()> {
    // Start all of them first: joining each at once would run them one after the other.
    let mut children = Vec::new();
    for number in 0..processes {
        children.push(Process::new(print_number, number).start()?);
    }
    for child in children {
        child.join()?;
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    proc_core::init();
    run(4)
}
