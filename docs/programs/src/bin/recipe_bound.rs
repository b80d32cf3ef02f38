//! A pool that takes no more than two tasks at a time.

use std::{thread, time::Duration};

use anyhow::Result;
use proc_core::Pool;

// Workers run this. The pool counts its tasks, so the
// program need not.
fn work(seconds: u64) {
    thread::sleep(Duration::from_secs(seconds));
}

fn main() -> Result<()> {
    proc_core::init();
    let builder = Pool::builder().processes(1);
    let pool = builder.max_pending(2).build()?;
    let mut tasks = Vec::new();
    for i in 0..3 {
        match pool.try_apply_async(work, 3600)? {
            Ok(task) => {
                println!("{i}: accepted");
                tasks.push(task.cancel_on_drop());
            }
            Err(_) => println!("{i}: refused"),
        }
    }
    // Also ends the task that runs.
    drop(tasks);
    let accepted = pool.try_apply_async(work, 0)?.is_ok();
    let word =
        if accepted { "accepted" } else { "refused" };
    println!("later: {word}");
    Ok(())
}
