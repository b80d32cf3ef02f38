//! Tells whether a process is alive, by a lock that the kernel releases when the process ends.
//!
//! Each process locks one byte of a file: a *record lock* (`F_SETLK`), which belongs to the process
//! and is not copied by a fork. The byte need not exist. The kernel releases the lock before the
//! parent can reap the process, whatever ends it, so neither a zombie nor a pid that is used again
//! is taken for a living process.
//!
//! A record lock is also released when its process closes *any* descriptor of the file. So the
//! file's descriptor is never copied within a process, never sent, and never closed.
//!
//! Other files, whose descriptors are sent, have locks of another kind: an *open file description
//! lock* (`F_OFD_SETLK`). By these a process sees whether anybody else still has the file.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;

use super::os;
use super::record_lock::lock_of_byte;

/// Locks byte `number` of `file` for this process. Returns false if another process has the lock.
///
/// # Errors
///
/// The kernel has no more locks, or does not have record locks for this file.
pub(crate) fn hold_byte(file: BorrowedFd<'_>, number: u32) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_SETLK(&lock_of_byte(number, libc::F_WRLCK))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether a process other than this one has locked byte `number` of `file`. True if the kernel
/// does not tell.
pub(crate) fn is_byte_held(file: BorrowedFd<'_>, number: u32) -> bool {
    let mut lock = lock_of_byte(number, libc::F_WRLCK);
    let told = fcntl(file, FcntlArg::F_GETLK(&mut lock));
    told.is_err() || lock.l_type != libc::F_UNLCK as libc::c_short
}

/// Puts a shared lock on the open file description of `file`. While the lock is there,
/// [`is_file_ours_alone`] is false for every other description of the same file. The lock ends when
/// the last descriptor of the description is closed, in whichever process.
///
/// # Errors
///
/// The kernel has no more locks, or has no locks of open file descriptions (`F_OFD_SETLK`).
pub(crate) fn share_file(file: BorrowedFd<'_>) -> io::Result<()> {
    os::lock_description(file, libc::F_RDLCK)
}

/// Removes the lock that [`share_file`] has made.
pub(crate) fn unshare_file(file: BorrowedFd<'_>) -> io::Result<()> {
    os::lock_description(file, libc::F_UNLCK)
}

/// Whether no other open file description of the same file has a [lock](share_file). False if the
/// system does not tell.
pub(crate) fn is_file_ours_alone(file: BorrowedFd<'_>) -> bool {
    os::is_description_locked_by_others(file).is_some_and(|is_locked| !is_locked)
}

/// Opens the same file again, with an open file description of its own.
///
/// # Errors
///
/// There is no descriptor left, or `/proc` is not mounted.
pub(crate) fn reopen(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
    Ok(file.into())
}

/// Lets the program that `command` executes inherit `fd` itself, not a copy. Returns its number.
/// `fd` must never be closed.
pub(crate) fn pass_on_itself(fd: &'static impl AsFd, command: &mut Command) -> i32 {
    let fd = fd.as_fd();
    let inherit = move || {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(inherit) };
    fd.as_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(all(target_os = "linux", not(proc_core_portable)))]
    #[test]
    fn file_is_ours_alone_when_the_last_other_description_is_closed() {
        let file = super::super::memory::create(1).expect("there is memory");
        share_file(file.as_fd()).expect("there are locks");
        let other = reopen(file.as_fd()).expect("there are descriptors");
        assert!(is_file_ours_alone(file.as_fd()), "the other one is not marked");
        share_file(other.as_fd()).expect("there are locks");
        let copy = other.try_clone().expect("there are descriptors");
        drop(other);
        assert!(!is_file_ours_alone(file.as_fd()));
        drop(copy);
        assert!(is_file_ours_alone(file.as_fd()));
    }

    #[test]
    fn process_can_hold_a_byte_again_and_sees_only_the_locks_of_others() {
        let file = super::super::memory::create(1).expect("there is memory");
        assert!(hold_byte(file.as_fd(), 7).expect("there are locks"));
        assert!(hold_byte(file.as_fd(), 7).expect("there are locks"), "it has the lock already");
        let is_held_by_another = is_byte_held(file.as_fd(), 7);
        assert!(!is_held_by_another, "a process's own lock does not count");
        assert!(!is_byte_held(file.as_fd(), 8));
    }
}
