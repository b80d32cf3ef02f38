//! Two processes send, and one receives.

use anyhow::Result;
use proc_core::Process;
use proc_core::sync::Queue;

const NAMES: [&str; 2] = ["a", "b"];
type Items = Queue<(String, u32)>;

fn count((name, queue): (String, Items)) {
    for i in 0..3 {
        queue.put((name.clone(), i)).expect("it is open");
    }
}

fn main() -> Result<()> {
    proc_core::init();
    let queue = Queue::new()?;
    let mut children = Vec::new();
    for name in NAMES {
        let args = (name.to_owned(), queue.clone());
        let child = Process::new(count, args).start()?;
        children.push(child);
    }

    let mut items = Vec::new();
    for _ in 0..6 {
        items.push(queue.get()?);
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
