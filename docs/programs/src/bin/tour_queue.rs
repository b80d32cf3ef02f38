//! Two processes send, and one receives.

use anyhow::Result;
use proc_core::Process;
use proc_core::ipc::{self, IpcSender};

const NAMES: [&str; 2] = ["a", "b"];
type Queue = IpcSender<(String, u32)>;

fn count((name, queue): (String, Queue)) {
    for i in 0..3 {
        queue.send((name.clone(), i)).expect("a receiver");
    }
}

fn main() -> Result<()> {
    proc_core::init();
    let (queue, receiver) = ipc::channel()?;
    let mut children = Vec::new();
    for name in NAMES {
        let args = (name.to_owned(), queue.clone());
        let child = Process::new(count, args).start()?;
        children.push(child);
    }

    drop(queue); // now only the children have senders
    let mut items = Vec::new();
    while let Ok(item) = receiver.recv() {
        items.push(item);
    }
    for child in children {
        child.join()?;
    }

    items.sort();
    for (name, i) in items {
        println!("{name} {i}");
    }
    Ok(())
}
