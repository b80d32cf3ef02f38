//! What every POSIX system has: coarser than Linux, with the same signatures.
//!
//! Built and run on Linux with `RUSTFLAGS="--cfg proc_core_portable"`, so that it stays true.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::mman::{shm_open, shm_unlink};
use nix::sys::stat::Mode;

use super::access::Access;

/// Threads cannot be counted portably, so `init` never forks and everything is spawned.
pub(crate) fn thread_count() -> Option<usize> {
    None
}

/// There is no such request; the fork server kills its children when it sees its program gone.
pub(crate) fn die_with_parent() {}

/// There is no common way to rename a process.
pub(crate) fn name_process(_: &str) {}

/// There is no common way to choose processors.
pub(crate) fn set_affinity(_: &[usize]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// There is no common way to ask.
pub(crate) fn affinity() -> Option<Affinity> {
    None
}

/// There is no common way to ask.
pub(crate) fn affinity_of_main_thread() -> Option<Affinity> {
    None
}

/// Processors to run on, which cannot be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Affinity;

impl Affinity {
    pub(crate) fn numbers(&self) -> Vec<usize> {
        Vec::new()
    }
}

/// Shared memory of POSIX, which loses its name at once.
pub(crate) fn nameless_file() -> io::Result<OwnedFd> {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let name =
        format!("/proc-core.{}.{}", super::identity::pid(), MADE.fetch_add(1, Ordering::Relaxed));
    let fd = shm_open(
        name.as_str(),
        OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL,
        Mode::S_IRUSR | Mode::S_IWUSR,
    )?;
    shm_unlink(name.as_str())?;
    Ok(fd)
}

/// There is no common way to ask.
pub(crate) fn system_memory() -> Option<usize> {
    None
}

/// There are no cgroups.
pub(crate) fn cgroup_memory() -> Option<usize> {
    None
}

/// There are no seals.
pub(crate) fn seal(_: &OwnedFd, _: Access) -> io::Result<()> {
    Ok(())
}

/// There are no seals to look for.
pub(crate) fn is_sealed(_: BorrowedFd<'_>, _: Access) -> bool {
    true
}

/// Without seals it does not matter.
pub(crate) fn keep_from_copies(_: std::ptr::NonNull<u8>, _: usize) {}

/// In two steps, between which another thread may execute a program that inherits the copy.
pub(crate) fn copy_to(from: i32, to: i32) -> io::Result<()> {
    // SAFETY: dup2 takes two integers; what it closes belongs to the caller, who has the copy
    // instead.
    if unsafe { libc::dup2(from, to) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fcntl takes three integers here.
    match unsafe { libc::fcntl(to, libc::F_SETFD, libc::FD_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// There are no such pages.
pub(crate) fn page_emptied_by_fork() -> Option<NonNull<u8>> {
    None
}

/// There is no such descriptor; the fork server looks at its parent's pid now and then.
pub(crate) fn watch_process(_: u32) -> Option<OwnedFd> {
    None
}

/// Without a descriptor for exits the fork server looks for them at every turn.
#[derive(Debug)]
pub(crate) struct ChildExits;

impl ChildExits {
    pub(crate) fn new() -> io::Result<ChildExits> {
        Ok(ChildExits)
    }

    pub(crate) fn quiet(&self) {}

    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
