//! How processes end, and how the parent can end them.

use std::time::Duration;
use std::{process, thread};

use anyhow::Result;
use proc_core::{Child, Process};

fn leave(code: i32) {
    process::exit(code);
}

fn nap(seconds: u64) {
    thread::sleep(Duration::from_secs(seconds));
}

fn show(child: Child<()>) {
    match child.join() {
        Ok(()) => println!("exit status: 0"),
        Err(error) => match error.exit_status() {
            Some(status) => println!("{status}"),
            None => println!("{error}"),
        },
    }
}

fn main() -> Result<()> {
    proc_core::init();
    let child = Process::new(nap, 0); // it returns
    let child = child.start()?;
    show(child);

    // It exits by itself.
    let child = Process::new(leave, 3);
    let child = child.start()?;
    show(child);

    // It is asked to end.
    let child = Process::new(nap, 3600);
    let child = child.start()?;
    child.terminate()?;
    show(child);

    // It is killed.
    let child = Process::new(nap, 3600);
    let child = child.start()?;
    child.kill()?;
    show(child);
    Ok(())
}
