//! Interrupts a system call that waits for too long.

use std::time::Duration;

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction};

/// Runs `function` in this process, which has one thread. If a system call of `function` waits for
/// longer than `limit`, that call fails with `EINTR`.
///
/// This is for system calls of a library that has no timeout for them.
pub(crate) fn with_time_limit<T>(limit: Duration, function: impl FnOnce() -> T) -> T {
    // Without SA_RESTART, a system call does not begin again after the handler has run.
    let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    let Ok(before) = (unsafe { sigaction(Signal::SIGALRM, &action) }) else { return function() };
    let mask = SigSet::from(Signal::SIGALRM).thread_swap_mask(SigmaskHow::SIG_UNBLOCK);
    let time = libc::timeval {
        tv_sec: limit.as_secs() as libc::time_t,
        tv_usec: limit.subsec_micros() as libc::suseconds_t,
    };
    // The signal is repeated, because the first one may arrive before the system call begins.
    let earlier = set_timer(libc::itimerval { it_interval: time, it_value: time });
    let result = function();
    set_timer(earlier);
    let _ = mask.and_then(|mask| mask.thread_set_mask());
    // SAFETY: this action was in force before.
    let _ = unsafe { sigaction(Signal::SIGALRM, &before) };
    result
}

extern "C" fn ignore(_: libc::c_int) {}

/// Sets the timer that sends SIGALRM. Returns what it was before.
fn set_timer(timer: libc::itimerval) -> libc::itimerval {
    let none = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let mut earlier = libc::itimerval { it_interval: none, it_value: none };
    // SAFETY: the kernel reads `timer` and writes `earlier`.
    let _ = unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, &mut earlier) };
    earlier
}
