//! Sets which signals this process receives, blocks, survives or ignores.

use std::borrow::Cow;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction};

/// Signals that a terminal or a service manager sends to all processes of a program at once. The
/// program alone decides what follows.
const GROUP_SIGNALS: [Signal; 4] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// Signal mask that a thread had before it blocked signals.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignalMask(SigSet);

impl SignalMask {
    /// Blocks the group signals in this thread. Processes that it forks and programs that it
    /// executes begin with these signals blocked.
    pub(crate) fn block_group_signals() -> io::Result<SignalMask> {
        SignalMask::block(GROUP_SIGNALS.into_iter().collect())
    }

    fn block(set: SigSet) -> io::Result<SignalMask> {
        Ok(SignalMask(set.thread_swap_mask(SigmaskHow::SIG_BLOCK)?))
    }

    /// Gives this thread the mask back.
    pub(crate) fn restore(self) {
        let _ = self.0.thread_set_mask();
    }

    /// Returns the mask as text, for a program that is executed while the group signals are
    /// blocked: which of these signals were blocked before. The kernel passes the rest on.
    pub(crate) fn to_text(self) -> String {
        let is_blocked = |signal: &Signal| if self.0.contains(*signal) { '1' } else { '0' };
        GROUP_SIGNALS.iter().map(is_blocked).collect()
    }

    /// In the executed program: reads what [`to_text`](SignalMask::to_text) has written.
    pub(crate) fn from_text(text: &str) -> Option<SignalMask> {
        let mut mask = SigSet::thread_get_mask().ok()?;
        for (signal, is_blocked) in GROUP_SIGNALS.into_iter().zip(text.bytes()) {
            if is_blocked == b'0' {
                mask.remove(signal);
            }
        }
        (text.len() == GROUP_SIGNALS.len()).then_some(SignalMask(mask))
    }
}

/// Blocks the signals that a fork server does not receive. A fork server ends when its program
/// ends, not by Ctrl-C. A descriptor, not a signal, tells it that a child has exited.
pub(crate) fn block_fork_server_signals() -> io::Result<()> {
    let signals = GROUP_SIGNALS.into_iter().chain([Signal::SIGCHLD]);
    SignalMask::block(signals.collect()).map(drop)
}

/// Makes this process survive the group signals, but not the programs that it executes. The group
/// signals must be blocked.
///
/// It sets a handler that does nothing. Unlike "ignore", a handler is forgotten by exec. A handler
/// that the program has set before stays in place.
pub(crate) fn survive_group_signals() {
    HAS_SURVIVED.store(true, Ordering::Relaxed);
    replace_actions(|action| matches!(action, SigHandler::SigDfl), SigHandler::Handler(SURVIVE));
}

/// Takes back [`survive_group_signals`], in a process that is a copy of one that has called it. The
/// group signals must be blocked.
pub(crate) fn die_of_group_signals() {
    if !HAS_SURVIVED.load(Ordering::Relaxed) {
        return;
    }
    let is_ours = |action| matches!(action, SigHandler::Handler(handler) if std::ptr::fn_addr_eq(handler, SURVIVE));
    replace_actions(is_ours, SigHandler::SigDfl);
}

/// Whether this process, or one that it is a copy of, has called [`survive_group_signals`].
static HAS_SURVIVED: AtomicBool = AtomicBool::new(false);

/// Handler that does nothing. A static value, because a function may have several addresses.
static SURVIVE: extern "C" fn(libc::c_int) = survive;

extern "C" fn survive(_: libc::c_int) {}

/// Sets the action `new` for each group signal that has an action which `is_old` accepts. The group
/// signals must be blocked: each of them has the new action for a moment, even if it keeps its own.
fn replace_actions(is_old: fn(SigHandler) -> bool, new: SigHandler) {
    // System calls that a signal interrupts begin again, so that most code notices nothing.
    let new = SigAction::new(new, SaFlags::SA_RESTART, SigSet::empty());
    for signal in GROUP_SIGNALS {
        // SAFETY: the action is the default one, or a handler that does nothing.
        let before = unsafe { sigaction(signal, &new) };
        if let Ok(before) = before
            && !is_old(before.handler())
        {
            // SAFETY: this action was in force a moment ago.
            let _ = unsafe { sigaction(signal, &before) };
        }
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

/// Returns the name of a signal, such as `SIGKILL` or `SIGRTMIN+1`.
pub(crate) fn signal_name(signal: i32) -> Cow<'static, str> {
    #[cfg(target_os = "linux")]
    if (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&signal) {
        return format!("SIGRTMIN+{}", signal - libc::SIGRTMIN()).into();
    }
    Signal::try_from(signal).map_or("unknown signal", Signal::as_str).into()
}
