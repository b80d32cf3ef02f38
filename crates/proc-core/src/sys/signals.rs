//! Signals that this process takes, blocks or ignores.

use std::io;

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal};

/// The signals a fork server does not take: it ends when its program does, not by Ctrl-C.
pub(crate) fn fork_server_signals() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM]
        .into_iter()
        .collect()
}

/// Blocks `set` in this thread and returns the mask that was in force.
pub(crate) fn block_signals(set: &SigSet) -> io::Result<SigSet> {
    Ok(set.thread_swap_mask(SigmaskHow::SIG_BLOCK)?)
}

/// Puts back a mask that [`block_signals`] returned.
pub(crate) fn restore_signals(mask: &SigSet) {
    let _ = mask.thread_set_mask();
}

/// Makes Ctrl-C pass by this process but not by programs that it executes.
///
/// A handler that does nothing, unlike "ignore", is forgotten by exec. A handler the program
/// installed is left alone.
pub(crate) fn survive_sigint() {
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing, so it is async-signal-safe.
    let old = unsafe { nix::sys::signal::sigaction(Signal::SIGINT, &action) };
    if let Ok(old) = old
        && !matches!(old.handler(), SigHandler::SigDfl)
    {
        // SAFETY: this handler was in force a moment ago.
        let _ = unsafe { nix::sys::signal::sigaction(Signal::SIGINT, &old) };
    }
}

/// Makes exits of children reported, also where the program was started with SIGCHLD ignored.
pub(crate) fn reset_sigchld() {
    // SAFETY: the default action runs no code.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigDfl) };
}

/// SIGPIPE as Rust's own start-up sets it: writing to a closed pipe is an error, not a death.
///
/// Needed where a fork server is born before Rust's start-up has run.
pub(crate) fn ignore_sigpipe() {
    // SAFETY: ignoring a signal runs no code.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigIgn) };
}

/// The name of a signal, such as `SIGKILL`.
pub(crate) fn signal_name(signal: i32) -> &'static str {
    Signal::try_from(signal).map_or("unknown signal", Signal::as_str)
}
