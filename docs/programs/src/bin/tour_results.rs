//! Results that come later, and one that does not.

use std::{thread, time::Duration};

use anyhow::Result;
use proc_core::Pool;

fn length(word: String) -> usize {
    word.len()
}

fn nap(seconds: u64) {
    thread::sleep(Duration::from_secs(seconds));
}

fn main() -> Result<()> {
    proc_core::init();
    let pool = Pool::builder().processes(4).build()?;
    let mut tasks = Vec::new();
    for word in ["one", "two", "three"] {
        let word = word.to_owned();
        tasks.push(pool.apply_async(length, word)?);
    }
    for task in tasks {
        println!("{}", task.get()?);
    }

    let mut task = pool.apply_async(nap, 3600)?;
    let patience = Duration::from_millis(100);
    if task.get_timeout(patience)?.is_none() {
        println!("no result yet");
    }
    Ok(())
}
