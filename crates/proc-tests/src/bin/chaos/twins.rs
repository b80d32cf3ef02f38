//! Copies of a process that `fork` makes behind the library's back: of the program, and of workers.

use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, pipe2, read, write};
use proc_core::Error;

/// How many seconds a copy of the program may take for its calls, none of which does anything.
const COPY_LIMIT_SECS: u32 = 5;

/// A copy of this program that runs.
pub(crate) struct Twin {
    pid: Pid,
    /// Where it writes what it is about to do.
    diary: OwnedFd,
}

/// What a copy does with its copies of the handles.
pub(crate) struct Misuse {
    diary: OwnedFd,
}

impl Misuse {
    /// A call that must be an error.
    pub(crate) fn fails<T: Debug>(&self, what: &str, call: impl FnOnce() -> Result<T, Error>) {
        self.write(&format!("{what}\n"));
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Err(_)) => {}
            Ok(Ok(value)) => self.end(&format!("it gave {value:?}")),
            Err(_) => self.end("it panicked"),
        }
    }

    /// A call that has no result, and must do nothing.
    pub(crate) fn does_nothing<T>(&self, what: &str, call: impl FnOnce() -> T) {
        self.write(&format!("{what}\n"));
        if catch_unwind(AssertUnwindSafe(call)).is_err() {
            self.end("it panicked");
        }
    }

    /// Locks nothing, as the copy has no thread that would unlock it.
    fn write(&self, text: &str) {
        let _ = write(&self.diary, text.as_bytes());
    }

    fn end(&self, why: &str) -> ! {
        self.write(why);
        leave(1)
    }
}

impl Twin {
    /// Forks; the copy misuses its handles, and leaves. `None` where the system has no room for it.
    pub(crate) fn start(misuse: impl FnOnce(&Misuse)) -> Option<Twin> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
        match fork()? {
            ForkResult::Parent { child } => Some(Twin { pid: child, diary: reader }),
            ForkResult::Child => {
                nix::unistd::alarm::set(COPY_LIMIT_SECS);
                misuse(&Misuse { diary: writer });
                leave(0)
            }
        }
    }

    /// Waits for the copy to leave. An error says what it did that it should not have done.
    pub(crate) fn join(self) -> Result<(), String> {
        let status = waitpid(self.pid, None).map_err(|error| format!("waiting for it: {error}"))?;
        let mut diary = [0; 4096];
        let len = read(&self.diary, &mut diary).unwrap_or(0);
        let diary = String::from_utf8_lossy(&diary[..len]);
        let diary = diary.trim_end().replace('\n', ", ");
        match status {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Signaled(_, Signal::SIGALRM, _) => {
                Err(format!("the last of its calls hangs: {diary}"))
            }
            other => Err(format!("{other:?}; its calls: {diary}")),
        }
    }
}

/// Forks; `None` where the system has no room for it.
#[expect(unsafe_code, reason = "a fault that safe code cannot make")]
pub(crate) fn fork() -> Option<ForkResult> {
    // SAFETY: that a copy of a program with threads uses what they may have locked is the fault:
    // the copy allocates, which glibc allows there, ends by an alarm where it hangs, and returns to
    // nobody.
    unsafe { nix::unistd::fork() }.ok()
}

/// Ends this process without running anything of it.
#[expect(unsafe_code, reason = "std only ends processes in order")]
pub(crate) fn leave(code: i32) -> ! {
    // SAFETY: it takes a number and touches no memory.
    unsafe { nix::libc::_exit(code) }
}
