//! A queue with several consumers.

use anyhow::Result;
use proc_core::Process;
use proc_core::sync::Queue;

fn square((numbers, squares): (Queue<u32>, Queue<u32>)) {
    while let Ok(x) = numbers.lease() {
        squares.put(x.pow(2)).expect("it is open");
        x.done();
    }
}

fn main() -> Result<()> {
    proc_core::init();
    let (numbers, squares) = (Queue::new()?, Queue::new()?);
    for _ in 0..3 {
        let args = (numbers.clone(), squares.clone());
        let child = Process::new(square, args);
        drop(child.daemon(true).start()?); // never joined
    }

    numbers.put_all(0..10)?;
    numbers.join()?;
    let mut all = squares.get_many(squares.len())?;
    all.sort();
    all.dedup(); // a killed consumer's item may come twice
    println!("{all:?}");
    Ok(())
}
