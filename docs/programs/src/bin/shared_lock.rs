//! A lock for two numbers that belong together.

use anyhow::Result;
use proc_core::Process;
use proc_core::sync::{Array, Lock};

fn transfer((accounts, lock): (Array<i64>, Lock)) {
    for _ in 0..1000 {
        let _guard = lock.lock().expect("not taken twice");
        accounts.set(0, accounts.get(0) - 1);
        accounts.set(1, accounts.get(1) + 1);
    }
}

fn main() -> Result<()> {
    proc_core::init();
    let accounts = Array::from_slice(&[5000, 0])?;
    let lock = Lock::new()?;
    let mut children = Vec::new();
    for _ in 0..4 {
        let args = (accounts.clone(), lock.clone());
        let child = Process::new(transfer, args);
        children.push(child.start()?);
    }

    for child in children {
        child.join()?;
    }
    println!("{:?}", accounts.snapshot());
    Ok(())
}
