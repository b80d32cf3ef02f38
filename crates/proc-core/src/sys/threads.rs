//! Counts threads, proves that there is only one, numbers and starts them.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::os::thread_count;
use super::reserve::has_address_space;

/// Whether this process is known to have one thread now.
pub(crate) fn has_one_thread() -> bool {
    never_had_threads() || thread_count() == Some(1)
}

/// Whether this process has had one thread all its life, as far as the C library tells.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn never_had_threads() -> bool {
    unsafe extern "C" {
        /// Flag of glibc 2.32 and newer; false as soon as there was a second thread.
        safe static __libc_single_threaded: std::sync::atomic::AtomicBool;
    }
    __libc_single_threaded.load(Ordering::Relaxed)
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn never_had_threads() -> bool {
    false
}

/// Proof that the calling process has one thread. A fork of such a process copies no lock that
/// another thread holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SingleThread(());

impl SingleThread {
    /// Proves, by counting, that this process has one thread. The error holds the number of
    /// threads, or `None` if the number cannot be known.
    pub(crate) fn prove() -> Result<SingleThread, Option<usize>> {
        // The kernel still counts a joined thread until it has removed the thread. So wait a
        // little.
        let deadline = Instant::now() + Duration::from_millis(20);
        loop {
            match thread_count() {
                Some(1) => return Ok(SingleThread(())),
                // If /proc is not mounted, the C library may know that there is one thread.
                None if never_had_threads() => return Ok(SingleThread(())),
                Some(_) if Instant::now() < deadline => std::thread::yield_now(),
                other => return Err(other),
            }
        }
    }

    /// Returns the proof for a process that has executed nothing but constructors.
    ///
    /// The proof is wrong in one case: a library in another language may start threads before
    /// `main`. Each process that executes such a program has these threads, so there is no better
    /// process to fork.
    pub(crate) fn fresh_image() -> SingleThread {
        SingleThread(())
    }
}

/// Stack size of a thread that only runs code of this library, in bytes.
pub(crate) const SMALL_STACK: usize = 256 << 10;

/// Stack size of a thread that calls functions of the user, in bytes. Rust's default is the same.
pub(crate) const USUAL_STACK: usize = 2 << 20;

/// Starts a thread of this library.
///
/// # Errors
///
/// The system allows no more threads, or there is no memory.
pub(crate) fn spawn_thread<T: Send + 'static>(
    name: &str,
    stack: usize,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<std::thread::JoinHandle<T>> {
    // Bytes that a thread needs besides its stack when it starts. Without them, Rust's runtime
    // aborts the process.
    const STARTUP_BYTES: usize = 1 << 20;
    if !has_address_space(stack + STARTUP_BYTES) {
        return Err(Errno::ENOMEM.into());
    }
    std::thread::Builder::new().name(name.into()).stack_size(stack).spawn(run)
}

/// Whether the calling thread is the main thread. Always false on systems other than Linux.
pub(crate) fn is_main_thread() -> bool {
    #[cfg(target_os = "linux")]
    return nix::unistd::gettid() == nix::unistd::getpid();
    #[cfg(not(target_os = "linux"))]
    return false;
}

/// Returns how many processors this process may use, by its affinity and its cgroup quota.
pub(crate) fn available_processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Returns a number for the calling thread that no other thread has, if `process` is a number that
/// no other process has. It is never 0.
#[inline]
pub(crate) fn thread_number(process: u32) -> u64 {
    thread_local! {
        static NUMBER: Cell<u64> = const { Cell::new(0) };
    }
    static LAST: AtomicU32 = AtomicU32::new(0);

    // A copy of the process has another number than its original, but begins with the original's
    // values of `NUMBER` and `LAST`.
    match NUMBER.get() {
        number if (number >> 32) as u32 == process => number,
        _ => {
            let thread = LAST.fetch_add(1, Ordering::Relaxed);
            NUMBER.set(u64::from(process) << 32 | u64::from(thread));
            NUMBER.get()
        }
    }
}
