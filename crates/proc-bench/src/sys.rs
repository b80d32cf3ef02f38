//! System calls that no safe crate offers.
#![expect(unsafe_code, reason = "fork and sched_setscheduler have no safe wrapper")]

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{ForkResult, Pid};

/// Runs `work` in a copy of this process, which then ends without any cleanup.
pub(crate) fn fork(work: impl FnOnce()) -> nix::Result<Pid> {
    // SAFETY: contenders that fork have one thread, so no other thread holds a lock in the copy.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            work();
            // SAFETY: this ends the process, so nothing of it is used afterwards.
            unsafe { libc::_exit(0) }
        }
    }
}

/// Lets this thread run only while no other thread wants the processor.
pub(crate) fn run_when_idle() -> nix::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 means the calling thread, and the parameters outlive the call.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
    Errno::result(result).map(drop)
}
