//! A global, changed on one side and looked at on the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use proc_core::Process;

static COUNTER: AtomicU64 = AtomicU64::new(0);

fn add(n: u64) -> u64 {
    COUNTER.fetch_add(n, Ordering::Relaxed);
    COUNTER.load(Ordering::Relaxed)
}

/// The global here, before and after; what the other side saw; and what join gave back.
pub(crate) struct Seen {
    pub(crate) before: u64,
    pub(crate) other: u64,
    pub(crate) after: u64,
    pub(crate) joined: u64,
}

pub(crate) fn by_thread(n: u64) -> Seen {
    let before = reset();
    let joined = thread::spawn(move || add(n)).join().expect("it only adds");
    Seen { before, other: joined, after: COUNTER.load(Ordering::Relaxed), joined }
}

pub(crate) fn by_process(n: u64) -> Result<Seen, proc_core::Error> {
    let before = reset();
    let joined = Process::new(add, n).start()?.join()?;
    Ok(Seen { before, other: joined, after: COUNTER.load(Ordering::Relaxed), joined })
}

fn reset() -> u64 {
    COUNTER.store(0, Ordering::Relaxed);
    COUNTER.load(Ordering::Relaxed)
}
