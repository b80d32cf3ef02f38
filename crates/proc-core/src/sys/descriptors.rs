//! Descriptors: copying, passing on, waiting for, and the standard streams.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::os;

/// Puts a copy of `fd` in the place of an open descriptor, whose number somebody of ours owns.
pub(crate) fn put_at(number: i32, fd: BorrowedFd<'_>) -> io::Result<()> {
    os::copy_to(fd.as_raw_fd(), number)
}

/// A copy of the open descriptor `number`, whose owner keeps it.
pub(crate) fn copy_at(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: the number is open as long as its owner lives, who is borrowed by the caller.
    unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()
}

/// Whether what is written to one of two open descriptors comes out at the other, where nothing is
/// yet.
pub(crate) fn are_joined(one: i32, other: i32) -> io::Result<bool> {
    // SAFETY: as in `copy_at`.
    let fd = unsafe { BorrowedFd::borrow_raw(other) };
    if wait_readable(&[fd], Some(Duration::ZERO))?[0] {
        return Ok(false);
    }
    nix::sys::socket::send(one, &[0], nix::sys::socket::MsgFlags::MSG_NOSIGNAL)?;
    Ok(wait_readable(&[fd], Some(Duration::ZERO))?[0])
}

/// Waits until something can be read from the open descriptor `number`, or `timeout` has passed.
pub(crate) fn wait_at(number: i32, timeout: Option<Duration>) -> io::Result<bool> {
    // SAFETY: as in `copy_at`.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(wait_readable(&[fd], timeout)?[0])
}

/// Waits until one of `fds` is readable or closed, or `timeout` has passed; says which are.
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

/// Makes an already open descriptor survive the execution of `command`; the number to tell it.
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

/// Takes over a descriptor that [`pass_on`] sent along.
pub(crate) fn take_over(number: i32) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the program that executed this one names a descriptor that it passed for us to own;
    // nothing else in this process has heard of it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match nix::fcntl::fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) => Ok(fd),
        Err(errno) => {
            // The number was not open, and closing it is an error too.
            std::mem::forget(fd);
            Err(errno.into())
        }
    }
}

/// In a copy of a process: closes a descriptor that its owner there never will.
pub(crate) fn close_copy(fd: BorrowedFd<'_>) {
    if fd.as_raw_fd() > 2 {
        let _ = nix::unistd::close(fd.as_raw_fd());
    }
}

/// A copy of the standard stream with this number.
pub(crate) fn own_stream(number: usize) -> io::Result<OwnedFd> {
    match number {
        0 => io::stdin().as_fd().try_clone_to_owned(),
        1 => io::stdout().as_fd().try_clone_to_owned(),
        _ => io::stderr().as_fd().try_clone_to_owned(),
    }
}

/// Makes `fd` the standard stream with this number.
pub(crate) fn put_stream(number: u8, fd: OwnedFd) -> io::Result<()> {
    // A copy at its place would be closed when executing, and here when dropped.
    let above = nix::fcntl::fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    let above = unsafe { OwnedFd::from_raw_fd(above) };
    match number {
        0 => nix::unistd::dup2_stdin(above)?,
        1 => nix::unistd::dup2_stdout(above)?,
        2 => nix::unistd::dup2_stderr(above)?,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    // Where the program had closed its standard streams, it may have come as one of them.
    if fd.as_raw_fd() <= 2 {
        std::mem::forget(fd);
    }
    Ok(())
}
