//! The first of two processes to end.

use anyhow::Result;
use proc_core::sync::Event;
use proc_core::{Process, wait};

fn quick(_: ()) {
    // Ends at once.
}

fn slow(go: Event) {
    go.wait();
}

fn main() -> Result<()> {
    proc_core::init();
    // The slow one waits for the event.
    let go = Event::new()?;
    let slow = Process::new(slow, go.clone());
    let children = [
        slow.name("slow").start()?,
        Process::new(quick, ()).name("quick").start()?,
    ];

    let sentinels =
        children.each_ref().map(|child| child.sentinel());
    for ended in wait(&sentinels, None) {
        println!("{} has ended", children[ended].name());
    }

    go.set();
    for child in children {
        child.join()?;
    }
    println!("both have ended");
    Ok(())
}
