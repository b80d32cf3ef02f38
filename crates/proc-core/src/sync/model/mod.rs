//! The model check of shared state: loom runs it in every order that its memory model allows, with
//! a limited number of interruptions.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p proc-core --lib --target-dir target/loom
//! sync::model`
//!
//! Each process of a model is one thread. In about half of the models, one process is killed before
//! each of its operations in turn. The thread that played it then does what the system does: the
//! kernel releases the record lock of the process, and the fork server announces the death.
//! README.md in the folder above says what is checked and what cannot be.

mod barrier;
mod lock;
mod queue;
mod semaphore;
mod signal;
mod sleepers;
mod value;

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use loom::thread::{self, JoinHandle};

use super::raw_lock::{Locker, Patience};
use crate::memory::Family;
use crate::memory::loom::{check, live_as, release_byte};

/// Life of a process that is not killed.
const UNHARMED: usize = usize::MAX;

/// Duration after which the clock of a model has ticked once.
const ONE_TICK: Duration = Duration::from_nanos(1);

const KILLED: i32 = 9;
const EXITED: i32 = 0;

/// Begins the processes 1 to `count`. The calling thread, which is the main one, plays process 1.
fn begin(count: u32) {
    let family = Family::get().expect("a model has a family");
    (1..=count).for_each(|id| family.begin(id));
    assert!(live_as(1, UNHARMED, || ()));
}

/// Returns the process that the current thread plays.
fn me() -> Locker {
    Locker::current(Family::get().expect("a model has a family")).expect("it has a number")
}

/// Plays process `id`, and kills it before its operation number `life`. Calls `at_death` when it
/// has been killed and nobody can know that yet. Returns whether the process was not killed.
fn play(id: u32, life: usize, process: impl FnOnce(), at_death: impl FnOnce()) -> bool {
    let is_alive = live_as(id, life, process);
    if !is_alive {
        at_death();
        end(id, KILLED);
    }
    is_alive
}

/// Starts a thread that [plays](play) process `id`.
fn start(
    id: u32,
    life: usize,
    process: impl FnOnce() + 'static,
    at_death: impl FnOnce() + 'static,
) -> JoinHandle<bool> {
    thread::spawn(move || play(id, life, process, at_death))
}

/// Waits for the ends of processes that are not killed.
fn join_all(processes: impl IntoIterator<Item = JoinHandle<bool>>) {
    for process in processes {
        assert!(process.join().expect("it does not panic"));
    }
}

/// Does what the system does when process `id` has ended.
fn end(id: u32, status: i32) {
    release_byte(id);
    Family::announce_death(id, ExitStatus::from_raw(status));
}

/// Checks `model` again and again. Each time, the model kills a process one operation later, until
/// it says that the process was not killed any more. That must take at least `operations`.
fn check_killed(interruptions: usize, operations: usize, model: fn(usize) -> bool) {
    let mut life = 0;
    loop {
        let was_killed = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&was_killed);
        check(interruptions, move || {
            if !model(life) {
                noted.store(true, Ordering::Relaxed);
            }
        });
        if !was_killed.load(Ordering::Relaxed) {
            break;
        }
        life += 1;
    }
    assert!(life >= operations, "the process was killed at {life} moments only");
}

/// Does nothing at the death of a process.
fn ignore() {}
