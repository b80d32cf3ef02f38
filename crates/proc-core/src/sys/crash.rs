//! Saying one thing before a crash: that there was no memory.

use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};

use super::Ring;

/// The signals by which a process dies that is refused memory: an abort of Rust's, or a pointer of a
/// library's that nobody looked at.
const SIGNALS: [Signal; 3] = [Signal::SIGABRT, Signal::SIGSEGV, Signal::SIGBUS];

struct Farewell {
    ring: i32,
    message: Vec<u8>,
    /// What each of [`SIGNALS`] did before.
    before: [SigAction; 3],
}

static FAREWELL: OnceLock<Farewell> = OnceLock::new();

/// Has `words` said at `ring`, which must stay open, if this process is about to be ended by a signal
/// after a system call of the same thread had failed for want of memory.
pub(crate) fn before_a_crash_without_memory(ring: &Ring, words: &[u8]) {
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK;
    let action = SigAction::new(SigHandler::SigAction(say), flags, SigSet::empty());
    let mut before = [SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty()); 3];
    // What was there is asked for first: the handler needs it.
    for (signal, place) in SIGNALS.iter().zip(&mut before) {
        // SAFETY: the default action runs no code; the one before is put back at once.
        let Ok(old) = (unsafe { sigaction(*signal, place) }) else { return };
        // SAFETY: this action was in force a moment ago.
        let _ = unsafe { sigaction(*signal, &old) };
        *place = old;
    }
    let ring = ring.as_raw_fd();
    let message = super::bell::last_words(words);
    if FAREWELL.set(Farewell { ring, message, before }).is_ok() {
        for signal in SIGNALS {
            // SAFETY: `say` only calls functions that are async-signal-safe.
            let _ = unsafe { sigaction(signal, &action) };
        }
    }
}

extern "C" fn say(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let had_no_memory = Errno::last() == Errno::ENOMEM;
    let Some(farewell) = FAREWELL.get() else { return };
    if had_no_memory {
        let (bytes, len) = (farewell.message.as_ptr().cast(), farewell.message.len());
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the message lives as long as the program.
        unsafe { libc::send(farewell.ring, bytes, len, flags) };
    }
    let known = SIGNALS.iter().zip(&farewell.before).find(|(known, _)| **known as i32 == signal);
    let Some((signal, before)) = known else { return };
    // SAFETY: this action was in force before ours.
    let _ = unsafe { sigaction(*signal, before) };
    // SAFETY: the kernel passes a valid info with SA_SIGINFO.
    let code = unsafe { (*info).si_code };
    // A fault comes again by itself as soon as this returns; what somebody sent does not.
    if code <= 0 {
        let _ = raise(*signal);
    }
}
