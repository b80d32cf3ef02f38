//! Copies descriptors, passes them on, waits for them, and sets the standard streams.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{MsgFlags, send};

use super::os;

/// Replaces the open descriptor `number` by a copy of `fd`. The owner of `number` in this process
/// owns the copy from then on.
pub(crate) fn replace_descriptor(number: i32, fd: BorrowedFd<'_>) -> io::Result<()> {
    os::copy_to(fd.as_raw_fd(), number)
}

/// Returns a copy of the open descriptor `number`. The owner of `number` keeps it.
pub(crate) fn duplicate_descriptor(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: the number is open as long as its owner lives, and the caller borrows the owner.
    unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()
}

/// Makes sending to a closed socket an error, not a signal. (nix does not have this flag on macOS.)
pub(super) const NOSIGNAL: MsgFlags = MsgFlags::from_bits_retain(libc::MSG_NOSIGNAL);

/// Whether two open sockets are the two ends of one connection: a byte that is written to `one`
/// must arrive at `other`. False if `other` is readable before that.
pub(crate) fn are_joined(one: i32, other: i32) -> io::Result<bool> {
    // SAFETY: as in `duplicate_descriptor`.
    let fd = unsafe { BorrowedFd::borrow_raw(other) };
    if wait_readable(&[fd], Some(Duration::ZERO))?[0] {
        return Ok(false);
    }
    send(one, &[0], NOSIGNAL)?;
    Ok(wait_readable(&[fd], Some(Duration::ZERO))?[0])
}

/// Waits until the open descriptor `number`, or `other`, is readable or closed, or until `timeout`
/// has passed. Returns which of both are. May also return earlier.
pub(crate) fn poll_descriptor(
    number: i32,
    other: Option<BorrowedFd<'_>>,
    timeout: Option<Duration>,
) -> io::Result<[bool; 2]> {
    // SAFETY: as in `duplicate_descriptor`.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    // poll counts whole milliseconds. Round up; otherwise the last one is spent spinning.
    let timeout = timeout.map(|timeout| timeout.saturating_add(Duration::from_micros(999)));
    match other {
        None => Ok([wait_readable(&[fd], timeout)?[0], false]),
        Some(other) => {
            let ready = wait_readable(&[fd, other], timeout)?;
            Ok([ready[0], ready[1]])
        }
    }
}

/// Returns the number by which the system knows the file or socket of a descriptor.
pub(crate) fn inode(fd: &impl AsFd) -> io::Result<u64> {
    Ok(nix::sys::stat::fstat(fd)?.st_ino as u64)
}

/// Waits until one of `fds` is readable or closed, or `timeout` has passed. Returns for each of
/// `fds` whether it is readable or closed. May also return earlier, for example after a signal.
pub(crate) fn wait_readable(
    fds: &[BorrowedFd<'_>],
    timeout: Option<Duration>,
) -> io::Result<Vec<bool>> {
    let mut polled: Vec<PollFd<'_>> =
        fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    let timeout = timeout
        .and_then(|d| PollTimeout::try_from(d.as_millis()).ok())
        .unwrap_or(PollTimeout::NONE);
    match nix::poll::poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(polled.iter().map(|fd| fd.revents().is_some_and(|r| !r.is_empty())).collect())
}

/// Lets the program that `command` executes inherit a copy of the open descriptor `fd`. Returns the
/// number of the copy, which the program must be told.
pub(crate) fn pass_on(fd: &impl AsFd, command: &mut Command) -> io::Result<i32> {
    let fd = fd.as_fd().try_clone_to_owned()?;
    let number = fd.as_raw_fd();
    let inherit = move || {
        nix::fcntl::fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(inherit) };
    Ok(number)
}

/// Takes ownership of a descriptor that [`pass_on`] has passed to this program.
pub(crate) fn take_over(number: i32) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the number is that of a descriptor which the program that executed this one has
    // passed for this process to own. Nothing else in this process knows the number.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match nix::fcntl::fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) => Ok(fd),
        Err(errno) => {
            // The number was not open. Dropping `fd` would close it, which is an error too.
            std::mem::forget(fd);
            Err(errno.into())
        }
    }
}

/// In a copy of a process: closes a descriptor whose owner is never dropped in the copy.
pub(crate) fn close_copy(fd: BorrowedFd<'_>) {
    if fd.as_raw_fd() > 2 {
        let _ = nix::unistd::close(fd.as_raw_fd());
    }
}

/// Returns a copy of the standard stream with this number.
pub(crate) fn copy_standard_stream(number: usize) -> io::Result<OwnedFd> {
    match number {
        0 => io::stdin().as_fd().try_clone_to_owned(),
        1 => io::stdout().as_fd().try_clone_to_owned(),
        _ => io::stderr().as_fd().try_clone_to_owned(),
    }
}

/// Makes `fd` the standard stream with this number.
pub(crate) fn set_standard_stream(number: u8, fd: OwnedFd) -> io::Result<()> {
    // Make a copy above the standard streams first. If `fd` had the number of the stream already,
    // it would stay close-on-exec, and dropping it here would close it.
    let above = nix::fcntl::fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    let above = unsafe { OwnedFd::from_raw_fd(above) };
    match number {
        0 => nix::unistd::dup2_stdin(above)?,
        1 => nix::unistd::dup2_stdout(above)?,
        2 => nix::unistd::dup2_stderr(above)?,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    // If the program had closed its standard streams, `fd` may have one of their numbers, and must
    // stay open.
    if fd.as_raw_fd() <= 2 {
        std::mem::forget(fd);
    }
    Ok(())
}
