//! Copying this process, and what only a process with one thread may do.

use std::ffi::OsStr;
use std::io;
use std::time::{Duration, Instant};

use nix::unistd::ForkResult;

use super::exit::flush_stdout;
use super::os::thread_count;
use super::threads::never_had_threads;

/// Proof that the calling process has one thread, so that forking it copies nobody's held lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SingleThread(());

impl SingleThread {
    /// Counts the threads: `Err` holds their number, or `None` where it cannot be known.
    pub(crate) fn prove() -> Result<SingleThread, Option<usize>> {
        // A thread that was joined is still counted until the kernel has put it away.
        let patience = Instant::now() + Duration::from_millis(20);
        loop {
            match thread_count() {
                Some(1) => return Ok(SingleThread(())),
                // Where /proc is not mounted, the C library may know.
                None if never_had_threads() => return Ok(SingleThread(())),
                Some(_) if Instant::now() < patience => std::thread::yield_now(),
                other => return Err(other),
            }
        }
    }

    /// For a process that has executed nothing but constructors.
    ///
    /// Threads that a C library starts before `main` are the one exception; they are in every
    /// image of such a program, so there is no better process to fork.
    pub(crate) fn fresh_image() -> SingleThread {
        SingleThread(())
    }
}

/// Which side of a [`fork`] the caller is on.
pub(crate) enum Forked {
    Parent { child: u32 },
    Child,
}

/// Copies this process. What stdout holds is written first, so that it is not written twice.
pub(crate) fn fork(_: SingleThread) -> io::Result<Forked> {
    flush_stdout();
    // SAFETY: the token proves that no other thread can hold a lock the child would wait for.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Forked::Parent { child: child.as_raw() as u32 }),
        ForkResult::Child => Ok(Forked::Child),
    }
}

/// Changes this process's environment.
pub(crate) fn set_env(_: SingleThread, name: &OsStr, value: Option<&OsStr>) {
    match value {
        // SAFETY: the token proves that nobody reads the environment meanwhile.
        Some(value) => unsafe { std::env::set_var(name, value) },
        // SAFETY: as above.
        None => unsafe { std::env::remove_var(name) },
    }
}
