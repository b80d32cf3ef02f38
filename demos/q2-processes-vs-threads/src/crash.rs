//! One part of a program panics, or it aborts, as after a null pointer or a stack overflow.

use std::{panic, process, thread};

use anyhow::Result;
use proc_core::Process;

use crate::fate::{Fate, LONG, run};

fn faulty(_: ()) {
    panic::set_hook(Box::new(|_| {})); // the report below is enough
    panic!("no such customer")
}

pub(crate) fn panic_in_thread() -> Result<Fate> {
    run(
        |()| match thread::spawn(|| faulty(())).join() {
            Ok(()) => "the thread returned".into(),
            Err(payload) => format!(
                "the thread panicked: {}",
                payload.downcast_ref::<&str>().unwrap_or(&"(no text)")
            ),
        },
        (),
        LONG,
    )
}

pub(crate) fn panic_in_process() -> Result<Fate> {
    run(|()| part_as_process(faulty), (), LONG)
}

fn crash(_: ()) {
    process::abort()
}

pub(crate) fn abort_in_thread() -> Result<Fate> {
    run(|()| format!("the thread ended: {:?}", thread::spawn(|| crash(())).join()), (), LONG)
}

pub(crate) fn abort_in_process() -> Result<Fate> {
    run(|()| part_as_process(crash), (), LONG)
}

/// A program that starts a process and goes on, whatever becomes of it.
fn part_as_process(part: impl Fn(()) + Copy + 'static) -> String {
    match Process::new(part, ()).name("part").start().and_then(|child| child.join()) {
        Ok(()) => "the process returned".into(),
        Err(error) => error.to_string(),
    }
}
