//! Ends this process, and writes out what it has printed before.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::libc;

use super::identity::{PerProcess, pid};
use super::threads::{SMALL_STACK, has_one_thread, never_had_threads, spawn_thread};

/// Writes out the buffers of stdout and of C's streams, and ends the process without running any
/// exit handlers.
pub(crate) fn exit_now(code: i32) -> ! {
    flush(FLUSH_TIMEOUT);
    // SAFETY: _exit only ends the process.
    unsafe { libc::_exit(code) }
}

/// Registers `run` to be called when this process returns from `main` or calls `exit`.
pub(crate) fn at_exit(run: extern "C" fn()) {
    // SAFETY: atexit only stores the function, which lives as long as the program. The call fails
    // if there is no memory; then the function is not called.
    let _ = unsafe { libc::atexit(run) };
}

/// How long a process that ends waits for threads that hold its output streams.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Writes out the buffer of stdout.
pub(super) fn flush_stdout() {
    // An error, such as a closed pipe, is left to the code that prints next.
    let _ = io::stdout().flush();
}

/// Writes out the buffer of stdout, unless another thread might hold stdout.
pub(crate) fn flush_line() {
    if never_had_threads() {
        flush_stdout();
    }
}

/// Writes out the buffers of stdout and of C's streams.
///
/// A thread that a task left behind may hold a stream forever (a thread that waits in C for input
/// holds the input stream). So if there are other threads, a new thread writes the buffers out, and
/// this call waits for that thread no longer than `patience`.
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

/// Ends this process if it is a copy: the user's function has forked it, and the copy has returned
/// from the function too. The copy must not run the code that follows. `known` is the pid of the
/// process that called the function.
#[inline]
pub(crate) fn end_copy_of(known: u32) {
    if pid() != known {
        end_now()
    }
}

#[cold]
fn end_now() -> ! {
    // Do not write out stdout: the copy's buffer may begin with text that the original writes out
    // too.
    // SAFETY: _exit only ends the process.
    unsafe { libc::_exit(0) }
}
