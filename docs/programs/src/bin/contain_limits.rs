//! A decoder with a limit of memory, and one of time.

use std::hint;
use std::time::Duration;

use anyhow::Result;
use proc_core::{Limits, Pool, Stdio};

const MIB: usize = 1 << 20;

/// The first byte says how the input misbehaves.
fn decode(input: Vec<u8>) -> Result<usize, String> {
    match input.first() {
        None => Err("an empty input".into()),
        Some(b'm') => Ok(vec![1_u8; 400 * MIB].len()),
        Some(b't') => loop {
            hint::spin_loop(); // forever
        },
        Some(_) => Ok(input.len()),
    }
}

fn main() -> Result<()> {
    proc_core::init();
    // All memory of a worker, also that of its values.
    let limits = Limits::new()
        .address_space(200 * MIB as u64)
        .no_core_dumps();
    let pool = Pool::builder()
        .processes(2)
        .limits(limits)
        // The values that are on their way, together.
        .memory_limit(50 * MIB)
        // Hides Rust's report of a failed allocation.
        .stderr(Stdio::null())
        .build()?;

    // One more try for each failed task. Each try has a
    // second.
    let second = Duration::from_secs(1);
    let options = pool.options().timeout(second).retries(1);
    let inputs = ["fine", "", "memory", "time"];
    let inputs = inputs.map(|text| text.into());
    for result in options.try_map(decode, inputs) {
        match result {
            Ok(Ok(length)) => println!("length {length}"),
            Ok(Err(why)) => println!("refused: {why}"),
            Err(e) if e.is_limit() => println!("memory"),
            Err(e) if e.is_timeout() => println!("time"),
            Err(e) => println!("{e}"),
        }
    }
    Ok(())
}
