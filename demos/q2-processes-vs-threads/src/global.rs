//! A global, changed on one side and looked at on the other.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use proc_core::{Error, Process};

/// What the global is here before and after, and what `join` gave back: what the other side saw.
pub(crate) struct Seen {
    pub(crate) before: u64,
    pub(crate) joined: u64,
    pub(crate) after: u64,
}

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Returns what it sees after its change.
fn add(n: u64) -> u64 {
    COUNTER.fetch_add(n, Relaxed);
    // An atomic, since threads may change it at once.
    COUNTER.load(Relaxed)
}

pub(crate) fn by_thread(n: u64) -> Seen {
    let before = reset();
    // `spawn` makes the thread and starts it.
    let other = thread::spawn(move || add(n));
    let joined = other.join().expect("it only adds");
    let after = COUNTER.load(Relaxed);
    Seen { before, joined, after }
}

pub(crate) fn by_process(n: u64) -> Result<Seen, Error> {
    let before = reset();
    let other = Process::new(add, n);
    let other = other.start()?;
    let joined = other.join()?;
    let after = COUNTER.load(Relaxed);
    Ok(Seen { before, joined, after })
}

fn reset() -> u64 {
    COUNTER.store(0, Relaxed);
    COUNTER.load(Relaxed)
}
