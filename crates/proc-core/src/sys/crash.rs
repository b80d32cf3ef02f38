//! Saying one thing before a crash: which panic it is that cannot unwind, or that there was no
//! memory.

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicPtr, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};

use super::fd_channel::Notifier;
use crate::sys::fd_channel::{LAST_WORDS, last_words};

/// The signals by which a process dies that panics where it must not, or is refused memory: an
/// abort of Rust's, or a pointer of a library's that nobody looked at.
const SIGNALS: [Signal; 3] = [Signal::SIGABRT, Signal::SIGSEGV, Signal::SIGBUS];

struct Farewell {
    ring: i32,
    /// What is to be said of want of memory.
    of_memory: Vec<u8>,
    /// What each of [`SIGNALS`] did before.
    before: [SigAction; 3],
}

/// What the handler says and to whom; never freed, as it may be looked at any time.
static FAREWELL: AtomicPtr<Farewell> = AtomicPtr::new(std::ptr::null_mut());

thread_local! {
    /// What this thread says if the panic that it is at ends the process.
    static PREPARED: Cell<*mut Vec<u8>> = const { Cell::new(std::ptr::null_mut()) };
}

/// Has `words` said if this thread aborts while it panics.
pub(crate) fn prepare_last_words(words: &[u8]) {
    let before = PREPARED.replace(Box::into_raw(Box::new(last_words(words))));
    if !before.is_null() {
        // SAFETY: from `Box::into_raw` above, and nobody has it any more.
        drop(unsafe { Box::from_raw(before) });
    }
}

fn farewell() -> Option<&'static Farewell> {
    // SAFETY: null, or from `Box::into_raw` in `say_last_words`, which is never freed.
    unsafe { FAREWELL.load(Ordering::Acquire).as_ref() }
}

/// Has what is prepared said at `ring`, which must stay open, if this process or a child of it is
/// about to be ended by a signal; and `of_memory` if a system call of the same thread had failed
/// for want of memory.
pub(crate) fn say_last_words_at(ring: &Notifier, of_memory: Vec<u8>) {
    let of_memory = last_words(&of_memory);
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    let mut before = [default; 3];
    match farewell() {
        // A copy of a process that has handlers of ours already: what was there before these.
        Some(farewell) => before = farewell.before,
        None => {
            let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK;
            let action = SigAction::new(SigHandler::SigAction(say), flags, SigSet::empty());
            for (signal, place) in SIGNALS.iter().zip(&mut before) {
                // SAFETY: `say` only calls functions that are async-signal-safe.
                *place = unsafe { sigaction(*signal, &action) }.unwrap_or(default);
            }
        }
    }
    let farewell = Farewell { ring: ring.as_raw_fd(), of_memory, before };
    FAREWELL.store(Box::into_raw(Box::new(farewell)), Ordering::Release);
}

extern "C" fn say(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let had_no_memory = Errno::last() == Errno::ENOMEM
        || (signal == libc::SIGABRT && is_called_for_want_of_memory(context.cast()));
    let Some(farewell) = farewell() else {
        // Before it is known what was there: as if nothing had been.
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        if let Ok(signal) = Signal::try_from(signal) {
            // SAFETY: the default action runs no code.
            let _ = unsafe { sigaction(signal, &default) };
            let _ = raise(signal);
        }
        return;
    };
    let prepared = PREPARED.get();
    let words = if signal == libc::SIGABRT && std::thread::panicking() && !prepared.is_null() {
        // SAFETY: from `Box::into_raw`, and freed only by this thread, which is here.
        Some(unsafe { &*prepared })
    } else {
        Some(&farewell.of_memory).filter(|_| had_no_memory)
    };
    if let Some(words) = words {
        send(farewell.ring, words);
    }
    // All is said: what was there before goes on, on a stack that may be nearly full.
    for (known, before) in SIGNALS.iter().zip(&farewell.before) {
        // SAFETY: this action was in force before ours.
        let _ = unsafe { sigaction(*known, before) };
    }
    // SAFETY: the kernel passes a valid info with SA_SIGINFO.
    let code = unsafe { (*info).si_code };
    // A fault comes again by itself as soon as this returns; what somebody sent does not.
    if code <= 0
        && let Ok(signal) = Signal::try_from(signal)
    {
        let _ = raise(signal);
    }
}

/// Sends the words with the pid of this process in their place; async-signal-safe.
fn send(ring: i32, words: &[u8]) {
    // SAFETY: it only asks.
    let pid = unsafe { libc::getpid() } as u32;
    let (start, end) = words.split_at(LAST_WORDS.len());
    let end = &end[size_of::<u32>()..];
    let pid = pid.to_le_bytes();
    let piece = |bytes: &[u8]| libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut pieces = [piece(start), piece(&pid), piece(end)];
    // SAFETY: all zero is a message of nothing to nobody.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_mut_ptr();
    message.msg_iovlen = pieces.len() as _;
    // SAFETY: the pieces live until the call returns, which only reads them.
    unsafe { libc::sendmsg(ring, &message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
}

/// Whether Rust's runtime aborts since an allocation has failed, as the stack tells: what it prints
/// before may have changed the number of the last error.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn is_called_for_want_of_memory(context: *const libc::ucontext_t) -> bool {
    /// How many pieces of the stack are looked at, of how many words (the handler's own stack is
    /// small), and how long the function may be, in bytes.
    const PIECES: usize = 64;
    const WORDS: usize = 128;
    const LONGEST: usize = 256;
    // SAFETY: the kernel passes a valid context with SA_SIGINFO.
    let stack = unsafe { (*context).uc_mcontext.gregs[libc::REG_RSP as usize] } as usize;
    let function = std::alloc::handle_alloc_error as fn(std::alloc::Layout) -> ! as usize;
    // SAFETY: it only asks.
    let pid = unsafe { libc::getpid() };
    let mut words = [0_usize; WORDS];
    let len = size_of_val(&words);
    (0..PIECES).any(|piece| {
        let here = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: len };
        let place = (stack + piece * len) as *mut libc::c_void;
        let there = libc::iovec { iov_base: place, iov_len: len };
        // SAFETY: the kernel writes to `words` alone, and says so where there is less to be read.
        let read = unsafe { libc::process_vm_readv(pid, &here, 1, &there, 1, 0) };
        let read = usize::try_from(read).unwrap_or(0) / size_of::<usize>();
        words[..read].iter().any(|word| (function..function + LONGEST).contains(word))
    })
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn is_called_for_want_of_memory(_: *const libc::ucontext_t) -> bool {
    false
}
