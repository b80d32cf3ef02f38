//! One process waits for what another one produces.

use anyhow::Result;
use proc_core::Process;
use proc_core::sync::{Condition, Mutex};

fn produce((stock, changed): (Mutex<u32>, Condition)) {
    for _ in 0..3 {
        *stock.lock().expect("no one died") += 1;
        changed.notify_one();
    }
}

fn main() -> Result<()> {
    proc_core::init();
    let stock = Mutex::new(0)?;
    let changed = Condition::new()?;
    let args = (stock.clone(), changed.clone());
    let child = Process::new(produce, args).start()?;

    let too_few = |stock: &mut u32| *stock < 3;
    let guard =
        changed.wait_while(stock.lock()?, too_few)?;
    println!("{} in stock", *guard);
    drop(guard);
    child.join()?;
    Ok(())
}
