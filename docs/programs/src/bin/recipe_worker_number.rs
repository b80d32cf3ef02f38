//! A number for each worker, here for a port of its own.

use std::collections::BTreeSet;
use std::{thread, time::Duration};

use anyhow::Result;
use proc_core::{Pool, current};

fn port(_: u32) -> usize {
    thread::sleep(Duration::from_millis(10));
    8000 + current().worker().expect("a worker")
}

fn main() -> Result<()> {
    proc_core::init();
    let mut ports = BTreeSet::new();
    let pool = Pool::builder().processes(2).build()?;
    // Until each worker has had a task.
    while ports.len() < 2 {
        ports.extend(pool.map(port, 0..10)?);
    }
    println!("{:?}", Vec::from_iter(ports));
    Ok(())
}
