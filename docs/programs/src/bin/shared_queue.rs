//! Two consumers take items from one queue.

use anyhow::Result;
use proc_core::Process;
use proc_core::sync::Queue;

fn square((numbers, squares): (Queue<u32>, Queue<u32>)) {
    for x in numbers.iter() {
        squares.put(x * x).expect("it is open");
    }
}

fn main() -> Result<()> {
    proc_core::init();
    let numbers = Queue::new()?;
    let squares = Queue::new()?;
    let mut children = Vec::new();
    for _ in 0..2 {
        let args = (numbers.clone(), squares.clone());
        children.push(Process::new(square, args).start()?);
    }

    numbers.put_all(0..10)?;
    numbers.close();
    for child in children {
        child.join()?;
    }
    let mut all = squares.get_many(10)?;
    all.sort();
    println!("{all:?}");
    Ok(())
}
