//! Sets which signals this process receives, blocks or ignores.

use std::io;

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal};

/// Returns the signals that a fork server blocks. A fork server ends when its program ends, not by
/// Ctrl-C.
pub(crate) fn fork_server_signals() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM]
        .into_iter()
        .collect()
}

/// Blocks `set` in this thread, and returns the earlier mask.
pub(crate) fn block_signals(set: &SigSet) -> io::Result<SigSet> {
    Ok(set.thread_swap_mask(SigmaskHow::SIG_BLOCK)?)
}

/// Restores a mask that [`block_signals`] returned.
pub(crate) fn restore_signals(mask: &SigSet) {
    let _ = mask.thread_set_mask();
}

/// Makes this process survive Ctrl-C, but not the programs that it executes.
///
/// It sets a handler that does nothing. Unlike "ignore", a handler is forgotten by exec. A handler
/// that the program has set before stays in place.
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

/// Makes the kernel report exits of children, even if the program was started with SIGCHLD ignored.
pub(crate) fn reset_sigchld() {
    // SAFETY: the default action runs no code.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigDfl) };
}

/// Ignores SIGPIPE, as Rust's own start-up does: writing to a closed pipe is then an error and does
/// not kill the process.
///
/// A fork server that begins before Rust's start-up has run needs this.
pub(crate) fn ignore_sigpipe() {
    // SAFETY: ignoring a signal runs no code.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigIgn) };
}

/// Returns the name of a signal, such as `SIGKILL`.
pub(crate) fn signal_name(signal: i32) -> &'static str {
    Signal::try_from(signal).map_or("unknown signal", Signal::as_str)
}
