//! The end of this process, and what it has printed by then.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::libc;

use super::identity::{PerProcess, pid};
use super::threads::{SMALL_STACK, has_one_thread, never_had_threads, spawn_thread};

/// Writes out stdout and C's buffers and ends the process without running anybody's exit handlers.
pub(crate) fn exit_now(code: i32) -> ! {
    flush(FLUSH_TIMEOUT);
    // SAFETY: _exit only ends the process.
    unsafe { libc::_exit(code) }
}

/// Has `run` called when this process ends by a return from `main` or by `exit`.
pub(crate) fn at_exit(run: extern "C" fn()) {
    // SAFETY: atexit only notes the function, which lives as long as the program. It fails where
    // there is no memory; then nothing is called.
    let _ = unsafe { libc::atexit(run) };
}

/// How long a dying process waits for threads that hold its output streams.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Writes out what stdout holds.
pub(super) fn flush_stdout() {
    // A closed pipe is the business of whoever prints next.
    let _ = io::stdout().flush();
}

/// Writes out what stdout holds, unless another thread might be holding it.
pub(crate) fn flush_line() {
    if never_had_threads() {
        flush_stdout();
    }
}

/// Writes out what stdout and C's streams hold.
///
/// A thread that a task left behind may hold a stream for ever (C's input streams while they wait);
/// where there are threads, another one flushes, and is waited for no longer than `patience`.
pub(crate) fn flush(patience: Duration) {
    static STUCK: PerProcess<AtomicBool> = PerProcess::new();
    if has_one_thread() {
        return flush_all();
    }
    if STUCK.get().swap(true, Ordering::SeqCst) {
        return;
    }
    let (done, flushed) = std::sync::mpsc::channel();
    let flusher = spawn_thread("proc-core flush", SMALL_STACK, move || {
        flush_all();
        STUCK.get().store(false, Ordering::SeqCst);
        let _ = done.send(());
    });
    if flusher.is_ok() {
        let _ = flushed.recv_timeout(patience);
    }
}

fn flush_all() {
    flush_stdout();
    // SAFETY: a null stream means every open one; C's streams lock themselves.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

/// In a copy of this process that a function of the user's has forked, and that has returned from
/// it: ends the copy, which has no business in what comes then. `known` is the pid of the process
/// that has called the function.
#[inline]
pub(crate) fn end_copy_of(known: u32) {
    if pid() != known {
        end_now()
    }
}

#[cold]
fn end_now() -> ! {
    // Not even what it has printed is written out: the original writes the beginning of that, too.
    // SAFETY: _exit only ends the process.
    unsafe { libc::_exit(0) }
}
