//! Tasks that take turns.

use anyhow::Result;
use proc_core::Pool;
use proc_core::sync::Lock;

fn report(lock: &Lock, i: u32) {
    let _guard = lock.lock().expect("not taken twice");
    println!("{i}: begun");
    println!("{i}: done");
}

fn main() -> Result<()> {
    proc_core::init();
    let pool = Pool::builder().processes(3).build()?;
    pool.with(Lock::new()?).map(report, 0..4)?;
    Ok(())
}
