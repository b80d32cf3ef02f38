//! Copies of the program and of workers, which `fork` makes without the library.

use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, pipe2, read, write};
use proc_core::Error;

/// How many seconds a copy of the program may take for its calls, which must all return at once.
const COPY_LIMIT_SECS: u32 = 5;

/// A running copy of this program.
pub(crate) struct ForkedCopy {
    pid: Pid,
    /// What the copy writes before each of its calls.
    diary: OwnedFd,
}

/// What a copy does with its pools, tasks and iterators.
pub(crate) struct Misuse {
    diary: OwnedFd,
}

impl Misuse {
    /// Makes a call that must return an error.
    pub(crate) fn fails<T: Debug>(&self, what: &str, call: impl FnOnce() -> Result<T, Error>) {
        self.write(&format!("{what}\n"));
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Err(_)) => {}
            Ok(Ok(value)) => self.end(&format!("it gave {value:?}")),
            Err(_) => self.end("it panicked"),
        }
    }

    /// Makes a call that cannot return an error, and must do nothing.
    pub(crate) fn does_nothing<T>(&self, what: &str, call: impl FnOnce() -> T) {
        self.write(&format!("{what}\n"));
        if catch_unwind(AssertUnwindSafe(call)).is_err() {
            self.end("it panicked");
        }
    }

    /// Writes to the diary without any lock: a lock that another thread held at the fork stays
    /// locked in the copy.
    fn write(&self, text: &str) {
        let _ = write(&self.diary, text.as_bytes());
    }

    fn end(&self, why: &str) -> ! {
        self.write(why);
        leave(1)
    }
}

impl ForkedCopy {
    /// Forks. The copy runs `misuse`, and ends. Returns `None` if the system cannot fork.
    pub(crate) fn start(misuse: impl FnOnce(&Misuse)) -> Option<ForkedCopy> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
        match fork()? {
            ForkResult::Parent { child } => Some(ForkedCopy { pid: child, diary: reader }),
            ForkResult::Child => {
                nix::unistd::alarm::set(COPY_LIMIT_SECS);
                misuse(&Misuse { diary: writer });
                leave(0)
            }
        }
    }

    /// Waits for the end of the copy. The error says what the copy has done wrong.
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

/// Forks. Returns `None` if the system cannot.
#[expect(unsafe_code, reason = "a fault that safe code cannot make")]
pub(crate) fn fork() -> Option<ForkResult> {
    // SAFETY: the copy of a program with threads may use locks that these threads held, which is
    // the fault that is tested. glibc lets it allocate, and an alarm ends it. Workers have one
    // thread, so their copies may run any code.
    unsafe { nix::unistd::fork() }.ok()
}

/// Ends this process at once: no exit handler runs.
#[expect(unsafe_code, reason = "std only ends processes in order")]
pub(crate) fn leave(code: i32) -> ! {
    // SAFETY: the call takes a number and touches no memory.
    unsafe { nix::libc::_exit(code) }
}
