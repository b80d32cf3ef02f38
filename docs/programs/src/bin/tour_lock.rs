//! Three processes print two lines each, in one piece.

use anyhow::Result;
use proc_core::Process;
use proc_core::sync::Lock;

// The guard releases the lock when the function ends.
fn hello((lock, i): (Lock, u32)) {
    let _guard = lock.lock().expect("not taken twice");
    println!("{i}: hello");
    println!("{i}: world");
}

fn main() -> Result<()> {
    proc_core::init();
    // The lock crosses as a part of the argument.
    let lock = Lock::new()?;
    let mut children = Vec::new();
    for i in 0..3 {
        let args = (lock.clone(), i);
        children.push(Process::new(hello, args).start()?);
    }

    for child in children {
        child.join()?;
    }
    Ok(())
}
