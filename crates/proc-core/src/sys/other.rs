//! What every POSIX system has: coarser than Linux, with the same signatures.
//!
//! Built and run on Linux with `RUSTFLAGS="--cfg proc_core_portable"`, so that it stays true.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Threads cannot be counted portably, so `init` never forks and everything is spawned.
pub(crate) fn thread_count() -> Option<usize> {
    None
}

/// There is no such request; the template kills its children when it sees its program gone.
pub(crate) fn die_with_parent() {}

/// There is no common way to rename a process.
pub(crate) fn name_process(_: &str) {}

/// There is no common way to choose processors.
pub(crate) fn set_affinity(_: &[usize]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// There is no such descriptor; the template looks at its parent's pid now and then.
pub(crate) fn watch_process(_: u32) -> Option<OwnedFd> {
    None
}

/// Without a descriptor for exits the template looks for them at every turn.
#[derive(Debug)]
pub(crate) struct ExitBell;

impl ExitBell {
    pub(crate) fn new() -> io::Result<ExitBell> {
        Ok(ExitBell)
    }

    pub(crate) fn quiet(&self) {}

    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
