//! Ends this process, and writes out what it has printed before.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::libc;

use super::identity::{PerProcess, pid};
use super::profile;
use super::threads::{SMALL_STACK, has_one_thread, never_had_threads, spawn_thread};

/// Ends the process after its work: writes out the buffers of stdout and of C's streams,
/// and the counts of what it has executed, if the program counts that. Runs no exit handlers.
pub(crate) fn end_process(code: i32) -> ! {
    flush(FLUSH_TIMEOUT);
    profile::write_counts();
    // SAFETY: _exit only ends the process.
    unsafe { libc::_exit(code) }
}

/// Writes out the buffers of stdout and of C's streams, and ends the process without running any
/// exit handlers.
///
/// This is for a process that cannot do its work. It writes no counts of what it has executed:
/// often the reason is that its program is gone. It may then be killed at any moment, and a file
/// that is half written would spoil the report about the whole program.
pub(crate) fn exit_now(code: i32) -> ! {
    flush(FLUSH_TIMEOUT);
    // SAFETY: _exit only ends the process.
    unsafe { libc::_exit(code) }
}

/// Registers `run` to be called when this process returns from `main` or calls `exit`.
pub(crate) fn register_exit_handler(run: extern "C" fn()) {
    // SAFETY: atexit only stores the function, which lives as long as the program. The call fails
    // if there is no memory; then the function is not called.
    let _ = unsafe { libc::atexit(run) };
}

/// How long a process that ends waits for threads that hold its output streams.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Writes out the buffer of stdout.
pub(super) fn flush_stdout() {
    // Ignore an error such as a closed pipe: the code that prints next gets it too.
    let _ = io::stdout().flush();
}

/// Writes out the buffer of stdout, if this process has never had a second thread. Such a thread
/// might hold stdout, and this call would then wait for it.
pub(crate) fn try_flush_stdout() {
    if never_had_threads() {
        flush_stdout();
    }
}

/// Writes out the buffers of stdout and of C's streams.
///
/// A thread that a task left behind may hold a stream forever (a thread that waits in C for input
/// holds the input stream). So if there are other threads, a new thread writes the buffers out, and
/// this call waits for that thread no longer than `timeout`.
pub(crate) fn flush(timeout: Duration) {
    /// Whether the new thread of an earlier call is still writing out the buffers.
    static IS_FLUSHING: PerProcess<AtomicBool> = PerProcess::new();
    if has_one_thread() {
        return flush_all();
    }
    if IS_FLUSHING.get().swap(true, Ordering::SeqCst) {
        return;
    }
    let (done, flushed) = std::sync::mpsc::channel();
    let flusher = spawn_thread("proc-core flush", SMALL_STACK, move || {
        flush_all();
        IS_FLUSHING.get().store(false, Ordering::SeqCst);
        let _ = done.send(());
    });
    match flusher {
        Ok(_) => drop(flushed.recv_timeout(timeout)),
        // There is no thread. A later call tries again.
        Err(_) => IS_FLUSHING.get().store(false, Ordering::SeqCst),
    }
}

fn flush_all() {
    flush_stdout();
    // SAFETY: a null stream means every open one; C's streams lock themselves.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

/// Ends this process if it is a copy of the process `original`, which called the user's function:
/// the function has called `fork`, and has returned in the copy too. A copy must not run the code
/// that follows the function.
#[inline]
pub(crate) fn exit_if_copy_of(original: u32) {
    if pid() != original {
        exit_without_flush()
    }
}

#[cold]
fn exit_without_flush() -> ! {
    // Do not write out stdout: the copy's buffer may begin with text that the original writes out
    // too.
    // SAFETY: _exit only ends the process.
    unsafe { libc::_exit(0) }
}
