//! Reaps the children of this process and sends signals to them.

use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::Signal;
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, waitid, waitpid};

use super::descriptors::wait_readable;
use super::os::{processor_time, watch_process};

/// Returns the pid of this process's current parent.
pub(crate) fn parent_pid() -> u32 {
    nix::unistd::getppid().as_raw() as u32
}

/// Child that was reaped.
pub(crate) struct Reaped {
    pub(crate) pid: u32,
    pub(crate) status: ExitStatus,
    /// Processor time that the child has used, without its own children; 0 if the system does not
    /// tell.
    pub(crate) processor_time: Duration,
}

/// Reaps one child that has ended, if there is one. Never blocks.
pub(crate) fn reap() -> Option<Reaped> {
    let pid = ended_child()?;
    let processor_time = processor_time(pid).unwrap_or_default();
    reap_one(pid).map(|status| Reaped { pid, status, processor_time })
}

/// Returns the pid of a child that has ended, if there is one. The child is not reaped.
fn ended_child() -> Option<u32> {
    // rustix does not tell the pid. nix knows no real-time signals: its `waitpid` reaps a child
    // that such a signal has killed, and then returns an error.
    // SAFETY: zeros are a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the kernel writes to `info` only.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, &mut info, flags) };
    // SAFETY: waitid has set the pid, or it is 0.
    let pid = unsafe { info.si_pid() };
    (result == 0 && pid > 0).then_some(pid as u32)
}

/// Reaps the child `pid` if it has ended. Never blocks.
pub(crate) fn reap_one(pid: u32) -> Option<ExitStatus> {
    let pid = Pid::from_raw(pid as i32)?; // without a pid, this would reap any child
    let reaped = retry_on_intr(|| waitpid(Some(pid), WaitOptions::NOHANG));
    reaped.ok()?.map(|(_, status)| ExitStatus::from_raw(status.as_raw()))
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
    has_child_ended(pid) != Err(Errno::CHILD)
}

/// Whether the child `pid` has ended, reaped or not.
pub(crate) fn has_ended(pid: u32) -> bool {
    has_child_ended(pid).unwrap_or_else(|error| error == Errno::CHILD)
}

/// Whether the child `pid` has ended. It is not reaped.
///
/// # Errors
///
/// [`Errno::CHILD`]: this process has no such child, or has reaped it.
fn has_child_ended(pid: u32) -> rustix::io::Result<bool> {
    let pid = Pid::from_raw(pid as i32).ok_or(Errno::CHILD)?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    retry_on_intr(|| waitid(WaitId::Pid(pid), options)).map(|status| status.is_some())
}

/// Sends a signal to `pid`. The caller must know that `pid` is a child that is not reaped yet.
pub(crate) fn signal_child(pid: u32, signal: Signal) {
    // Some systems return ESRCH for a zombie. EPERM means that the child has changed its user.
    // Nothing can be done about either.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal);
}
