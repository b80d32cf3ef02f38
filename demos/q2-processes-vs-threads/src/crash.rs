//! One part of a program panics, or it aborts, as after a null pointer or a stack overflow.

use std::{panic, process, thread};

use anyhow::Result;
use proc_core::Process;

use crate::fate::{Fate, LONG, run};

fn faulty((): ()) {
    panic::set_hook(Box::new(|_| {})); // no report
    panic!("no such customer")
}

/// As after a null pointer or a stack overflow.
fn crash((): ()) {
    process::abort()
}

fn in_thread(part: impl Fn(()) + Send + 'static) -> String {
    match thread::spawn(move || part(())).join() {
        Ok(()) => "the thread returned".into(),
        Err(payload) => {
            let text = payload.downcast_ref::<&str>();
            let text = text.unwrap_or(&"(no text)");
            format!("the thread panicked: {text}")
        }
    }
}

fn in_process(
    part: impl Fn(()) + Copy + 'static,
) -> String {
    let part = Process::new(part, ()).name("part");
    match part.start().and_then(|part| part.join()) {
        Ok(()) => "the process returned".into(),
        Err(error) => error.to_string(),
    }
}

pub(crate) fn panic_in_thread() -> Result<Fate> {
    run(|()| in_thread(faulty), (), LONG)
}

pub(crate) fn panic_in_process() -> Result<Fate> {
    run(|()| in_process(faulty), (), LONG)
}

pub(crate) fn abort_in_thread() -> Result<Fate> {
    run(|()| in_thread(crash), (), LONG)
}

pub(crate) fn abort_in_process() -> Result<Fate> {
    run(|()| in_process(crash), (), LONG)
}
