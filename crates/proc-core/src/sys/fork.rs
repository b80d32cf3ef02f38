//! Forks this process and changes its environment, which only a process with one thread may do.

use std::ffi::OsStr;
use std::io;
use std::time::{Duration, Instant};

use nix::unistd::ForkResult;

use super::exit::flush_stdout;
use super::os::thread_count;
use super::signals::SignalMask;
use super::threads::never_had_threads;

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
    /// There is one exception: a C library may start threads before `main`. Every image of such a
    /// program has these threads, so there is no better process to fork.
    pub(crate) fn fresh_image() -> SingleThread {
        SingleThread(())
    }
}

/// Says on which side of a [`fork`] the caller is.
pub(crate) enum Forked {
    Parent {
        child: u32,
    },
    /// The group signals are blocked, so that none of them ends the child before it has said what
    /// they do to it.
    Child {
        /// Signal mask of the parent.
        mask: SignalMask,
    },
}

/// Forks this process. Writes out the buffer of stdout first, so that it is not written twice.
pub(crate) fn fork(_: SingleThread) -> io::Result<Forked> {
    flush_stdout(); // may take long, so nothing is blocked yet
    let mask = SignalMask::block_group_signals()?;
    // SAFETY: the token proves that no other thread can hold a lock that the child would wait for.
    let forked = unsafe { nix::unistd::fork() };
    if let Ok(ForkResult::Child) = forked {
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
