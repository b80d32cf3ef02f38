//! A crash of a process, and of a thread in a process.

use std::os::unix::process::ExitStatusExt;
use std::{process, thread};

use anyhow::{Context, Result};
use proc_core::{Child, Process};

/// Ends its process by a signal, as a bug in C can.
fn crash(who: String) {
    println!("{who} crashes");
    process::abort();
}

fn crash_in_a_thread(who: String) {
    let who = format!("a thread of {who}");
    let thread = thread::spawn(|| crash(who));

    thread.join().expect("the thread does not panic");
    println!("no process prints this");
}

fn show(child: Child<()>) -> Result<()> {
    let name = child.name().to_owned();
    let error = child.join().expect_err("it crashes");
    let end = error.exit_status().context("no status")?;
    let signal = end.signal().context("no signal")?;
    println!("{name} has ended by signal {signal}");
    Ok(())
}

fn main() -> Result<()> {
    proc_core::init();
    let name = "process 1";
    let child = Process::new(crash, name.into());
    show(child.name(name).start()?)?;

    let name = "process 2";
    let work = crash_in_a_thread;
    let child = Process::new(work, name.into());
    show(child.name(name).start()?)?;

    println!("the program goes on");
    Ok(())
}
