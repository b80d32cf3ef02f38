//! stub
use proc_core::Process;
fn print_number(i: u32) {
    println!("Process {i} is printing: {i}");
}
fn main() -> anyhow::Result<()> {
    proc_core::init();
    let mut children = Vec::new();
    for i in 0..4 {
        children.push(Process::new(print_number, i).start()?);
    }
    for c in children {
        c.join()?;
    }
    Ok(())
}
