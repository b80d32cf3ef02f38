//! Counts threads, and starts them.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

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
        safe static __libc_single_threaded: AtomicBool;
    }
    __libc_single_threaded.load(Ordering::Relaxed)
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn never_had_threads() -> bool {
    false
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
