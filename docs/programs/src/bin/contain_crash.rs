//! A function that crashes or hangs, in a pool.

use std::hint;
use std::os::unix::process::ExitStatusExt;
use std::process;
use std::time::Duration;

use anyhow::Result;
use proc_core::{Error, ErrorKind, Limits, Pool, Stdio};

/// Stands for a call of a C library.
fn call(input: u64) -> u64 {
    match input {
        1 => process::abort(),
        2 => overflow(input),
        3 => loop {
            hint::spin_loop(); // forever
        },
        4 => panic!("a bug in Rust"),
        _ => input * input,
    }
}

/// Calls itself until the stack is full.
fn overflow(n: u64) -> u64 {
    let page = hint::black_box([n; 512]);
    if n == u64::MAX {
        0
    } else {
        overflow(n + 1) + page[0]
    }
}

/// What became of a task.
fn fate(error: &Error) -> String {
    let end = error.exit_status();
    let signal = end.and_then(|end| end.signal());
    match (error.kind(), signal) {
        (ErrorKind::Death, Some(n)) => {
            format!("signal {n}")
        }
        (ErrorKind::Timeout, _) => "too late".into(),
        (ErrorKind::Panic, _) => "a panic".into(),
        // Its text names task, worker and pid.
        _ => error.to_string(),
    }
}

fn main() -> Result<()> {
    proc_core::init();
    let pool = Pool::builder()
        .processes(2)
        // Hides what the library prints when it crashes.
        .stderr(Stdio::null())
        .limits(Limits::new().no_core_dumps())
        .build()?;

    let patience = Duration::from_secs(2);
    let options = pool.options().timeout(patience);
    let results = options.try_map(call, 0..6);
    for (input, result) in results.iter().enumerate() {
        match result {
            Ok(square) => println!("{input}: {square}"),
            Err(error) => {
                // Which process it was, and which task.
                assert!(error.pid().is_some());
                assert_eq!(error.task(), Some(input));
                println!("{input}: {}", fate(error));
            }
        }
    }
    println!("later: {}", pool.apply(call, 8)?);
    Ok(())
}
