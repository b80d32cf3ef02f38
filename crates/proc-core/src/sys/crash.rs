//! Sends the last words of a process that crashes: its panic, if the panic could not unwind, or the
//! fact that there was no memory.

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicPtr, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};

use super::fd_channel::Notifier;
use crate::sys::fd_channel::{LAST_WORDS, last_words_message};

/// Signals that end a process after a panic that cannot unwind, or after memory was refused. In
/// both cases Rust aborts; a library may instead use a null pointer that it did not check.
const SIGNALS: [Signal; 3] = [Signal::SIGABRT, Signal::SIGSEGV, Signal::SIGBUS];

/// What the signal handler sends, and where to.
struct CrashSettings {
    /// Number of the notifier's descriptor.
    notifier: i32,
    /// Message that says that there was no memory.
    no_memory: Vec<u8>,
    /// Action that each of [`SIGNALS`] had before ours.
    earlier_actions: [SigAction; 3],
}

/// Settings of the signal handler. They are never freed, because the handler may read them at any
/// time.
static SETTINGS: AtomicPtr<CrashSettings> = AtomicPtr::new(std::ptr::null_mut());

thread_local! {
    /// Message that this thread sends if its current panic ends the process.
    static PREPARED: Cell<*mut Vec<u8>> = const { Cell::new(std::ptr::null_mut()) };
}

/// Prepares `words` to be sent if this thread aborts while it panics.
pub(crate) fn prepare_last_words(words: &[u8]) {
    let before = PREPARED.replace(Box::into_raw(Box::new(last_words_message(words))));
    if !before.is_null() {
        // SAFETY: the pointer is from `Box::into_raw` above, in an earlier call, and nothing else
        // has it.
        drop(unsafe { Box::from_raw(before) });
    }
}

fn settings() -> Option<&'static CrashSettings> {
    // SAFETY: the pointer is null, or it is from `Box::into_raw` in `send_last_words_at_crash` and
    // never freed.
    unsafe { SETTINGS.load(Ordering::Acquire).as_ref() }
}

/// Installs the signal handler that sends last words when a signal is about to end this process or
/// one of its children. The handler sends them through `notifier`, which must stay open. They are
/// the thread's prepared message, or the words `no_memory` if a system call or an allocation of the
/// thread had failed for lack of memory.
pub(crate) fn send_last_words_at_crash(notifier: &Notifier, no_memory: Vec<u8>) {
    let no_memory = last_words_message(&no_memory);
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    let mut earlier_actions = [default; 3];
    match settings() {
        // This process is a copy of one that has our handler already: keep the actions from before
        // it was installed.
        Some(settings) => earlier_actions = settings.earlier_actions,
        None => {
            let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK;
            let action = SigAction::new(SigHandler::SigAction(on_crash), flags, SigSet::empty());
            for (signal, earlier) in SIGNALS.iter().zip(&mut earlier_actions) {
                // SAFETY: `on_crash` only calls functions that are async-signal-safe.
                *earlier = unsafe { sigaction(*signal, &action) }.unwrap_or(default);
            }
        }
    }
    let settings = CrashSettings { notifier: notifier.as_raw_fd(), no_memory, earlier_actions };
    SETTINGS.store(Box::into_raw(Box::new(settings)), Ordering::Release);
}

/// Handler of [`SIGNALS`]: sends last words, and lets the earlier action end the process.
extern "C" fn on_crash(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    let had_no_memory = Errno::last() == Errno::ENOMEM
        || (signal == libc::SIGABRT && is_allocation_error(context.cast()));
    let Some(settings) = settings() else {
        // The earlier actions are not stored yet: use the default action.
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
        // SAFETY: the pointer is from `Box::into_raw`. Only this thread frees it, and it is in this
        // handler.
        Some(unsafe { &*prepared })
    } else {
        Some(&settings.no_memory).filter(|_| had_no_memory)
    };
    if let Some(words) = words {
        send(settings.notifier, words);
    }
    // The message is sent. Restore the earlier actions. They are not called from here, because the
    // stack may be nearly full: the signal comes again when this handler has returned.
    for (handled, earlier) in SIGNALS.iter().zip(&settings.earlier_actions) {
        // SAFETY: this action was in force before ours.
        let _ = unsafe { sigaction(*handled, earlier) };
    }
    // SAFETY: the kernel passes a valid info with SA_SIGINFO.
    let code = unsafe { (*info).si_code };
    // The kernel raises a fault again as soon as this handler returns. It does not repeat a signal
    // that somebody has sent, so raise that one here.
    if code <= 0
        && let Ok(signal) = Signal::try_from(signal)
    {
        let _ = raise(signal);
    }
}

/// Sends `words` to the socket `notifier`, with the pid of this process in the space for it.
/// Async-signal-safe.
fn send(notifier: i32, words: &[u8]) {
    // SAFETY: getpid only returns a number.
    let pid = unsafe { libc::getpid() } as u32;
    let (start, end) = words.split_at(LAST_WORDS.len());
    let end = &end[size_of::<u32>()..];
    let pid = pid.to_le_bytes();
    let piece = |bytes: &[u8]| libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut pieces = [piece(start), piece(&pid), piece(end)];
    // SAFETY: a msghdr of zeros is valid: a message without data and without an address.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_mut_ptr();
    message.msg_iovlen = pieces.len() as _;
    // SAFETY: the pieces live until the call returns, and the call only reads them.
    unsafe { libc::sendmsg(notifier, &message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
}

/// Whether Rust's runtime aborts because an allocation has failed. The stack shows this; errno may
/// not, because the runtime prints a message first, which may change errno.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn is_allocation_error(context: *const libc::ucontext_t) -> bool {
    /// Number of pieces of the stack that are searched.
    const PIECES: usize = 64;
    /// Number of words in a piece. The handler's own stack is small.
    const WORDS: usize = 128;
    /// Upper bound on the length of the function, in bytes.
    const MAX_FUNCTION_BYTES: usize = 256;
    // SAFETY: the kernel passes a valid context with SA_SIGINFO.
    let stack = unsafe { (*context).uc_mcontext.gregs[libc::REG_RSP as usize] } as usize;
    let function = std::alloc::handle_alloc_error as fn(std::alloc::Layout) -> ! as usize;
    // SAFETY: getpid only returns a number.
    let pid = unsafe { libc::getpid() };
    let mut words = [0_usize; WORDS];
    let len = size_of_val(&words);
    (0..PIECES).any(|piece| {
        let here = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: len };
        let address = (stack + piece * len) as *mut libc::c_void;
        let there = libc::iovec { iov_base: address, iov_len: len };
        // SAFETY: the kernel writes to `words` only, and returns how many bytes it could read.
        let read = unsafe { libc::process_vm_readv(pid, &here, 1, &there, 1, 0) };
        let read = usize::try_from(read).unwrap_or(0) / size_of::<usize>();
        words[..read].iter().any(|word| (function..function + MAX_FUNCTION_BYTES).contains(word))
    })
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn is_allocation_error(_: *const libc::ucontext_t) -> bool {
    false
}
