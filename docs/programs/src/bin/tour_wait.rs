//! The first of two processes to end.

use anyhow::Result;
use proc_core::ipc::{self, IpcReceiver};
use proc_core::{Process, wait};

fn quick(_: ()) {
    // Ends at once.
}

fn slow(go: IpcReceiver<()>) {
    go.recv().expect("the event");
}

fn main() -> Result<()> {
    proc_core::init();
    let (go, event) = ipc::channel()?;
    let children = [
        Process::new(slow, event).name("slow").start()?,
        Process::new(quick, ()).name("quick").start()?,
    ];

    let sentinels =
        children.each_ref().map(|child| child.sentinel());
    for ended in wait(&sentinels, None) {
        println!("{} has ended", children[ended].name());
    }

    go.send(())?;
    for child in children {
        child.join()?;
    }
    println!("both have ended");
    Ok(())
}
