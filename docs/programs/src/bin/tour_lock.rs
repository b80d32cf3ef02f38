//! Three processes print two lines each, in one piece.

use anyhow::Result;
use proc_core::Process;
use proc_core::ipc::{self, IpcSender};

// They send their lines to the parent, which prints.
fn hello((printer, i): (IpcSender<String>, u32)) {
    let mut lines = format!("{i}: hello\n");
    lines += &format!("{i}: world");
    printer.send(lines).expect("a receiver");
}

fn main() -> Result<()> {
    proc_core::init();
    let (printer, to_print) = ipc::channel()?;
    let mut children = Vec::new();
    for i in 0..3 {
        let args = (printer.clone(), i);
        children.push(Process::new(hello, args).start()?);
    }

    drop(printer);
    while let Ok(lines) = to_print.recv() {
        println!("{lines}");
    }
    for child in children {
        child.join()?;
    }
    Ok(())
}
