//! A process dies in the middle of a change, and another
//! one repairs the data.

use std::process;

use anyhow::Result;
use proc_core::sync::Mutex;
use proc_core::{ErrorKind, Process};

/// Moves 30 from the first account to the second one. The
/// sum of both is always 100, except in between.
fn transfer(accounts: Mutex<[i64; 2]>) {
    let mut money = accounts.lock().expect("no one died");
    money[0] -= 30;
    process::exit(1); // and never money[1] += 30
}

fn main() -> Result<()> {
    proc_core::init();
    let accounts = Mutex::new([100, 0])?;
    let child = Process::new(transfer, accounts.clone());
    assert!(child.start()?.join().is_err());

    let error = accounts.lock().expect_err("it died");
    assert_eq!(error.kind(), ErrorKind::Abandoned);
    assert!(error.pid().is_some()); // who it was

    let mut money = accounts.recover()?;
    println!("found {:?}", *money);
    money[1] = 100 - money[0];
    drop(money);
    println!("repaired {:?}", *accounts.lock()?);
    Ok(())
}
