//! Forks this process and changes its environment, which only a process with one thread may do.

use std::cell::Cell;
use std::ffi::OsStr;
use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc;
use nix::unistd::ForkResult;

use super::exit::flush_stdout;
use super::identity::{pid, renew_pid};
use super::profile;
use super::signals::SignalMask;
use super::threads::SingleThread;

/// Says on which side of a [`fork`] the caller is.
pub(crate) enum Forked {
    Parent {
        child: u32,
    },
    /// The group signals are blocked, so that none of them ends the child before the child has set
    /// its actions for these signals.
    Child {
        /// Signal mask of the parent.
        mask: SignalMask,
    },
}

/// Forks this process. Writes out the buffer of stdout first, so that it is not written twice. If
/// the program counts what it executes, the child counts anew.
pub(crate) fn fork(alone: SingleThread) -> io::Result<Forked> {
    flush_stdout(); // may take long, so nothing is blocked yet
    let original = pid();
    // Looked up before the fork, so that the child touches fewer pages.
    let writes_counts = profile::writes_counts();
    let mask = SignalMask::block_group_signals()?;
    // SAFETY: the token proves that no other thread can hold a lock that the child would wait for.
    let forked = unsafe { nix::unistd::fork() };
    if let Ok(ForkResult::Child) = forked {
        renew_pid();
        if writes_counts {
            profile::begin_copy(alone, original);
        }
        return Ok(Forked::Child { mask });
    }
    mask.restore();
    match forked? {
        ForkResult::Parent { child } => Ok(Forked::Parent { child: child.as_raw() as u32 }),
        ForkResult::Child => Ok(Forked::Child { mask }),
    }
}

/// Sets an environment variable of this process, or removes it if `value` is `None`.
pub(crate) fn set_env(_: SingleThread, name: &OsStr, value: Option<&OsStr>) {
    match value {
        // SAFETY: the token proves that no other thread reads the environment meanwhile.
        Some(value) => unsafe { std::env::set_var(name, value) },
        // SAFETY: as above.
        None => unsafe { std::env::remove_var(name) },
    }
}

thread_local! {
    /// Whether this thread forks only to execute a program.
    static EXECUTES: Cell<bool> = const { Cell::new(false) };
}

/// Calls `spawn`, which forks only to execute a program at once.
pub(crate) fn to_execute<T>(spawn: impl FnOnce() -> T) -> T {
    EXECUTES.set(true);
    let spawned = spawn();
    EXECUTES.set(false);
    spawned
}

/// Returns how often this process has been forked, by this library or by anybody else. A copy goes
/// on counting from the number of its original.
///
/// Only forks after the first call count, and not those for a program that is
/// [executed](to_execute) at once.
pub(crate) fn count_of_forks() -> u64 {
    static COUNTING: Once = Once::new();
    static FORKS: AtomicU64 = AtomicU64::new(0);

    /// The system calls this in the thread that forks.
    extern "C" fn count() {
        if !EXECUTES.get() {
            FORKS.fetch_add(1, Ordering::Relaxed);
        }
    }

    COUNTING.call_once(|| {
        // SAFETY: the handler adds to a counter, which is allowed in any state of the process.
        unsafe { libc::pthread_atfork(Some(count), None, None) };
    });
    FORKS.load(Ordering::Relaxed)
}
