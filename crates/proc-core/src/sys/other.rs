//! Implements, for every POSIX system, the calls that differ between systems. The results are
//! coarser than on Linux, the signatures are the same.
//!
//! This module is built and run on Linux with `RUSTFLAGS="--cfg proc_core_portable"`, so that it
//! stays correct.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::mman::{shm_open, shm_unlink};
use nix::sys::stat::Mode;

use super::access::Access;

/// Returns `None`: threads cannot be counted portably. Only the C library may know that a process
/// has one thread. If it does not know this, `init` does not fork (the first fork server is
/// executed), and `StartMethod::Fork` and a pool's `preload` fail.
pub(crate) fn thread_count() -> Option<usize> {
    None
}

/// POSIX has no such number.
pub(crate) fn own_memory() -> std::io::Result<u64> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Does nothing: POSIX has no such request. The fork server kills its children when it sees that
/// the program has ended.
pub(crate) fn die_with_parent() {}

/// Does nothing: there is no portable way to rename a process.
pub(crate) fn name_process(_: &str) {}

/// Fails: there is no portable way to choose processors.
pub(crate) fn set_affinity(_: &[usize]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Returns `None`: there is no portable way to ask.
pub(crate) fn affinity() -> Option<Affinity> {
    None
}

/// Returns `None`: there is no portable way to ask.
pub(crate) fn affinity_of_main_thread() -> Option<Affinity> {
    None
}

/// Set of processors to run on, which cannot be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Affinity;

impl Affinity {
    pub(crate) fn numbers(&self) -> Vec<usize> {
        Vec::new()
    }
}

/// Makes POSIX shared memory and removes its name at once.
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

/// Returns `None`: there is no portable way to ask.
pub(crate) fn system_memory() -> Option<usize> {
    None
}

/// Returns `None`: there are no cgroups.
pub(crate) fn cgroup_memory() -> Option<usize> {
    None
}

/// Does nothing: there are no seals.
pub(crate) fn seal(_: &OwnedFd, _: Access) -> io::Result<()> {
    Ok(())
}

/// Returns true: there are no seals to look for.
pub(crate) fn is_sealed(_: BorrowedFd<'_>, _: Access) -> bool {
    true
}

/// Does nothing: without seals, a mapping in a copy does no harm.
pub(crate) fn exclude_from_fork(_: NonNull<u8>, _: usize) {}

/// Fails: not every POSIX system has locks of open file descriptions.
pub(crate) fn lock_description(_: BorrowedFd<'_>, _: impl Into<libc::c_int>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Returns `None`: not every POSIX system has locks of open file descriptions.
pub(crate) fn is_description_locked_by_others(_: BorrowedFd<'_>) -> Option<bool> {
    None
}

/// Does nothing: this system cannot free a part of a file.
pub(crate) fn give_back(_: BorrowedFd<'_>, _: u64, _: u64) {}

/// Replaces the open descriptor `to` by a copy of `from`. This takes two steps. Between them,
/// another thread may execute a program, which then inherits the copy.
pub(crate) fn copy_to(from: i32, to: i32) -> io::Result<()> {
    // SAFETY: dup2 takes two integers. The descriptor that it closes belongs to the caller, who
    // gets the copy instead.
    if unsafe { libc::dup2(from, to) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fcntl takes three integers here.
    match unsafe { libc::fcntl(to, libc::F_SETFD, libc::FD_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Returns `None`: there are no such pages.
pub(crate) fn page_emptied_by_fork() -> Option<NonNull<u8>> {
    None
}

/// Returns `None`: there is no such descriptor. The fork server checks its parent's pid now and
/// then.
pub(crate) fn watch_process(_: u32) -> Option<OwnedFd> {
    None
}

/// Does nothing: POSIX has no way to find a process by its descriptors.
pub(crate) fn kill_holders_of_socket(_: u64, _: &str) {}

/// Returns `None`: not every POSIX system tells the processor time of another process.
pub(crate) fn processor_time(_: u32) -> Option<Duration> {
    None
}

/// Stands for the descriptor of exits, which is missing here: the fork server looks for exits in
/// each turn of its loop.
#[derive(Debug)]
pub(crate) struct ChildExits;

impl ChildExits {
    pub(crate) fn new() -> io::Result<ChildExits> {
        Ok(ChildExits)
    }

    pub(crate) fn clear(&self) {}

    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
