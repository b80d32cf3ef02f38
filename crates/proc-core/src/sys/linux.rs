//! What Linux has for it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

/// The number of threads of this process, `None` where `/proc` is not mounted.
pub(crate) fn thread_count() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count())
}

/// Asks for SIGKILL at the death of the thread that forked this process.
///
/// Only meant for children of a template, whose one thread is its life.
pub(crate) fn die_with_parent() {
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
}

/// What `ps -o comm` shows; the kernel keeps 15 bytes.
pub(crate) fn name_process(name: &str) {
    let bytes: Vec<u8> = name.bytes().filter(|b| *b != 0).take(15).collect();
    if let Ok(name) = CString::new(bytes) {
        let _ = nix::sys::prctl::set_name(&name);
    }
}

/// Sets the processors that this process may run on.
pub(crate) fn set_affinity(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// A descriptor that becomes readable when process `pid` ends; `None` where the kernel has none.
pub(crate) fn watch_process(pid: u32) -> Option<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Readable when a child may have ended. SIGCHLD must be blocked.
#[derive(Debug)]
pub(crate) struct ExitBell(SignalFd);

impl ExitBell {
    pub(crate) fn new() -> io::Result<ExitBell> {
        let set: SigSet = [Signal::SIGCHLD].into_iter().collect();
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(ExitBell(SignalFd::with_flags(&set, flags)?))
    }

    /// Forgets the exits so far, to be called before collecting them.
    pub(crate) fn quiet(&self) {
        while let Ok(Some(_)) = self.0.read_signal() {}
    }

    /// The descriptor to wait on; `None` where waiting means looking now and then.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}
