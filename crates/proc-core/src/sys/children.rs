//! Reaps the children of this process and sends signals to them.

use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus};
use nix::unistd::Pid;

use super::descriptors::wait_readable;
use super::os::watch_process;

/// Returns the pid of this process's current parent.
pub(crate) fn parent_pid() -> u32 {
    nix::unistd::getppid().as_raw() as u32
}

/// Reaps one child that has ended, if there is one. Never blocks.
pub(crate) fn reap() -> Option<(u32, ExitStatus)> {
    wait(None, WaitPidFlag::WNOHANG)
}

/// Reaps the child `pid` if it has ended. Never blocks.
pub(crate) fn reap_one(pid: u32) -> Option<ExitStatus> {
    wait(Some(Pid::from_raw(pid as i32)), WaitPidFlag::WNOHANG).map(|(_, status)| status)
}

/// Reaps the child `pid` when it ends. Gives up at `deadline`.
pub(crate) fn reap_until(pid: u32, deadline: Instant) -> Option<ExitStatus> {
    let end = watch_process(pid);
    loop {
        let status = reap_one(pid);
        let left = deadline.saturating_duration_since(Instant::now());
        if status.is_some() || left.is_zero() || !is_child(pid) {
            return status;
        }
        let fds: Vec<_> = end.iter().map(AsFd::as_fd).collect();
        let longest = if fds.is_empty() { Duration::from_millis(1) } else { left };
        if wait_readable(&fds, Some(left.min(longest))).is_err() {
            return None;
        }
    }
}

/// Whether `pid` is a child of this process that is not reaped yet.
pub(crate) fn is_child(pid: u32) -> bool {
    use nix::sys::wait::{Id, waitid};
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(Pid::from_raw(pid as i32)), flags) != Err(Errno::ECHILD)
}

/// Whether the child `pid` has ended, reaped or not.
pub(crate) fn has_ended(pid: u32) -> bool {
    use nix::sys::wait::{Id, waitid};
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(Pid::from_raw(pid as i32)), flags) {
        Ok(status) => status != WaitStatus::StillAlive,
        Err(error) => error == Errno::ECHILD,
    }
}

fn wait(pid: Option<Pid>, flags: WaitPidFlag) -> Option<(u32, ExitStatus)> {
    loop {
        // `ExitStatus` is built from a raw wait status. POSIX does not fix its layout, but all
        // systems use this one.
        return match nix::sys::wait::waitpid(pid, Some(flags)) {
            Ok(WaitStatus::Exited(pid, code)) => {
                Some((pid.as_raw() as u32, ExitStatus::from_raw((code & 0xff) << 8)))
            }
            Ok(WaitStatus::Signaled(pid, signal, core)) => Some((
                pid.as_raw() as u32,
                ExitStatus::from_raw(signal as i32 | if core { 0x80 } else { 0 }),
            )),
            Err(Errno::EINTR) => continue,
            _ => None,
        };
    }
}

/// Sends a signal to `pid`. The caller must know that `pid` is a child that is not reaped yet.
pub(crate) fn signal_child(pid: u32, signal: Signal) {
    // Some systems return ESRCH for a zombie. EPERM means that the child has changed its user.
    // Nothing can be done about either.
    let _ = nix::sys::signal::kill(Pid::from_raw(pid as i32), signal);
}
