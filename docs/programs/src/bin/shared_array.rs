//! Two processes write the halves of an array.

use anyhow::Result;
use proc_core::Process;
use proc_core::sync::Array;

fn fill((squares, start): (Array<usize>, usize)) {
    let half = [0, 1, 2, 3].map(|i| (start + i).pow(2));
    squares.write(start..start + 4, &half);
}

fn main() -> Result<()> {
    proc_core::init();
    let squares = Array::zeroed(8)?;
    let mut children = Vec::new();
    for start in [0, 4] {
        let args = (squares.clone(), start);
        children.push(Process::new(fill, args).start()?);
    }

    for child in children {
        child.join()?;
    }
    println!("{:?}", squares.snapshot());
    Ok(())
}
