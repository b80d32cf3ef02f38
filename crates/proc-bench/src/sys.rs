//! The two system calls that no safe crate offers.
#![expect(unsafe_code, reason = "fork and sched_setscheduler have no safe wrapper")]

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{ForkResult, Pid};

/// Runs `work` in a bare copy of this process, which then ends without cleaning up.
pub(crate) fn fork(work: impl FnOnce()) -> nix::Result<Pid> {
    // SAFETY: contenders that fork have one thread, so no lock of another one stays locked.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            work();
            // SAFETY: ends this process; nothing of it is used afterwards.
            unsafe { libc::_exit(0) }
        }
    }
}

/// Lets this thread run only where no other wants to.
pub(crate) fn run_when_idle() -> nix::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread, and the parameters outlive the call.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
    Errno::result(result).map(drop)
}
