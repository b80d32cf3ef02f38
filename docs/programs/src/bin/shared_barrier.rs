//! Nobody reads before all have written.

use anyhow::Result;
use proc_core::Process;
use proc_core::sync::{Array, Barrier};

type Args = (Array<u64>, Array<u64>, Barrier, usize);
fn work((parts, sums, all_written, i): Args) {
    parts.set(i, i as u64 + 1);
    all_written.wait().expect("no one died");
    sums.set(i, parts.snapshot().into_iter().sum());
}

fn main() -> Result<()> {
    proc_core::init();
    let parts = Array::zeroed(3)?;
    let sums = Array::zeroed(3)?;
    let all_written = Barrier::new(3)?;
    let mut children = Vec::new();
    for i in 0..3 {
        let [parts, sums] =
            [&parts, &sums].map(Array::clone);
        let args = (parts, sums, all_written.clone(), i);
        children.push(Process::new(work, args).start()?);
    }

    for child in children {
        child.join()?;
    }
    println!("{:?}", sums.snapshot());
    Ok(())
}
