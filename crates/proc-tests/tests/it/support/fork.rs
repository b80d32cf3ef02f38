//! Copies of a process that `fork` makes, without proc-core.
#![allow(unsafe_code, reason = "only fork makes these copies")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

/// Forks the caller. Returns the pid of the copy, and `None` in the copy.
pub(crate) fn fork() -> Option<Pid> {
    // SAFETY: other threads may hold locks at this moment, which stay locked in the copy. The C
    // library keeps the allocator usable. Whether proc-core can be called is what the tests find
    // out.
    match unsafe { nix::unistd::fork() }.expect("there is room for a copy") {
        ForkResult::Parent { child } => Some(child),
        ForkResult::Child => None,
    }
}

/// Ends the process at once: no handler of `atexit` runs.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no conditions.
    unsafe { nix::libc::_exit(code) }
}

/// Runs `work` in a copy. The copy ends with code 0, or with 101 after a panic.
pub(crate) fn in_copy(work: impl FnOnce()) -> Pid {
    fork().unwrap_or_else(|| {
        let done = catch_unwind(AssertUnwindSafe(work));
        exit_now(if done.is_ok() { 0 } else { 101 })
    })
}

/// Waits for a copy, which must end with code 0.
pub(crate) fn expect_success(copy: Pid) {
    let status = waitpid(copy, None).expect("the copy is a child");
    assert_eq!(status, WaitStatus::Exited(copy, 0), "the copy's assertions are on stderr");
}

/// Forks the caller. Returns true at once in the copy. Returns false in the caller when the copy
/// has ended, which must be with code 0.
pub(crate) fn fork_and_wait() -> bool {
    let copy = fork();
    copy.into_iter().for_each(expect_success);
    copy.is_none()
}
