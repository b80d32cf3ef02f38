//! Defines [`Limits`] on what a process may use. The new process sets them just before it runs its
//! job.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use nix::sys::resource::Resource;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Exit, LastWords};
use crate::sys;

/// Limits on what a process, or each worker of a pool, may use. Without a limit, the program's own
/// limit holds.
///
/// Code that runs under a limit cannot raise it again, unless it runs as root. It can choose other
/// processors than those of [`cpus`](Limits::cpus). If a process dies because it exceeded its
/// limit of memory or processor time, the error says so
/// ([`Error::is_limit`](crate::Error::is_limit)). For memory, the error says so only if the system
/// refused memory to the process just before the process died. In a pool, such a death costs one
/// task, and the worker that replaces the dead one has the same limits. A limit that cannot be set
/// is an error of [`join`](crate::Child::join), or of the pool's calls.
///
/// ```
/// use std::time::Duration;
///
/// use proc_core::{Limits, Pool};
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let limits = Limits::new()
///         .address_space(1 << 30) // 1 GiB
///         .cpu_time(Duration::from_secs(60))
///         .open_files(100)
///         .niceness(19)
///         .no_core_dumps();
///     let pool = Pool::builder().processes(1).limits(limits).build()?;
///     let allocate = |bytes: usize| vec![1_u8; bytes].len();
///     assert!(pool.apply(allocate, 2 << 30).is_err_and(|error| error.is_limit()));
///     assert_eq!(pool.apply(allocate, 1 << 20)?, 1 << 20);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[must_use = "limits do nothing until they are given to a process or a pool"]
pub struct Limits {
    address_space: Option<u64>,
    cpu_time: Option<Duration>,
    open_files: Option<u64>,
    core_dumps: Option<u64>,
    niceness: Option<i32>,
    cpus: Option<Vec<usize>>,
}

impl Limits {
    /// Makes a set without any limits.
    ///
    /// See the example of [`Limits`].
    pub fn new() -> Limits {
        Limits::default()
    }

    /// Limits the memory that the process may map, in bytes. The program's own image and the stacks
    /// of threads count too.
    ///
    /// Rust aborts the process if an allocation fails.
    ///
    /// A worker itself needs less than 10 MiB in a small program. The pool's shared memory counts
    /// too: it holds the arguments and results that are on their way, of all workers. So with this
    /// limit, the pool's [`memory_limit`](crate::PoolBuilder::memory_limit) is at most a quarter of
    /// `bytes`, and an argument that takes more than half of `bytes` is an error of its task.
    ///
    /// See the example of [`Limits`].
    #[doc(alias = "RLIMIT_AS")]
    pub fn address_space(mut self, bytes: u64) -> Limits {
        self.address_space = Some(bytes);
        self
    }

    /// Returns the limit of address space in bytes, if there is one.
    pub(crate) fn max_address_space(&self) -> Option<usize> {
        self.address_space.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// Limits the processor time over the whole life of the process, in whole seconds, rounded up.
    ///
    /// See the example of [`Limits`].
    #[doc(alias = "RLIMIT_CPU")]
    pub fn cpu_time(mut self, time: Duration) -> Limits {
        self.cpu_time = Some(time);
        self
    }

    /// Limits how many files, pipes and sockets may be open. proc-core itself needs about twenty.
    ///
    /// See the example of [`Limits`].
    #[doc(alias = "RLIMIT_NOFILE")]
    pub fn open_files(mut self, count: u64) -> Limits {
        self.open_files = Some(count);
        self
    }

    /// Makes a crash write no core file.
    ///
    /// See the example of [`Limits`].
    #[doc(alias = "RLIMIT_CORE")]
    pub fn no_core_dumps(mut self) -> Limits {
        self.core_dumps = Some(0);
        self
    }

    /// Sets the nice value, from -20 (served first) to 19. Only root may set it below the program's
    /// own.
    ///
    /// See the example of [`Limits`].
    #[doc(alias = "setpriority")]
    pub fn niceness(mut self, niceness: i32) -> Limits {
        self.niceness = Some(niceness);
        self
    }

    /// Sets the processors to run on, counted from 0. Linux only; an error on other systems.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use proc_core::{Limits, Pool};
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let limits = Limits::new().cpus(0..2); // the first two processors
    ///     let pool = Pool::builder().processes(2).limits(limits).build()?;
    ///     assert_eq!(pool.map(|x: u32| x * x, [3, 4])?, [9, 16]);
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "sched_setaffinity")]
    pub fn cpus(mut self, cpus: impl IntoIterator<Item = usize>) -> Limits {
        self.cpus = Some(cpus.into_iter().collect());
        self
    }

    /// In a new process: sets the limits. The error names the limit.
    pub(crate) fn set(&self) -> Result<(), String> {
        let Limits { address_space, cpu_time, open_files, core_dumps, niceness, cpus } = self;
        let named = |action: String, set: std::io::Result<()>| {
            set.map_err(|error| format!("cannot {action}: {error}"))
        };
        if let Some(niceness) = niceness {
            named(format!("set the niceness to {niceness}"), sys::set_niceness(*niceness))?;
        }
        if let Some(cpus) = cpus {
            let action = format!("limit the process to processors {cpus:?}");
            named(action, sys::set_affinity(cpus))?;
        }
        if let Some(size) = core_dumps {
            let set = sys::set_limit(Resource::RLIMIT_CORE, *size, *size);
            named("switch off core dumps".into(), set)?;
        }
        if let Some(time) = cpu_time {
            let seconds = whole_seconds(*time);
            // A process that ignores SIGXCPU has one second more.
            let set = sys::set_limit(Resource::RLIMIT_CPU, seconds, seconds.saturating_add(1));
            named(format!("limit processor time to {seconds} s"), set)?;
        }
        if let Some(count) = open_files {
            let set = sys::set_limit(Resource::RLIMIT_NOFILE, *count, *count);
            named(format!("limit open files to {count}"), set)?;
        }
        if let Some(bytes) = address_space {
            let set = sys::set_limit(Resource::RLIMIT_AS, *bytes, *bytes);
            named(format!("limit the address space to {}", in_words(*bytes)), set)?;
        }
        Ok(())
    }

    /// Returns in words which limit a process has exceeded, if that is known. It is concluded from
    /// the way in which the process ended, and from whether memory was refused to it just before.
    pub(crate) fn exceeded(&self, exit: &Exit) -> Option<String> {
        let had_no_memory = exit.last_words == Some(LastWords::NoMemory);
        match Signal::try_from(exit.status?.signal()?).ok()? {
            // The kernel sends SIGKILL to a process that survives SIGXCPU.
            signal @ (Signal::SIGXCPU | Signal::SIGKILL) => {
                let seconds = whole_seconds(self.cpu_time?);
                let is_passed =
                    signal == Signal::SIGXCPU || exit.processor_time.as_secs() >= seconds;
                is_passed.then(|| format!("its processor time was limited to {seconds} s"))
            }
            Signal::SIGABRT | Signal::SIGSEGV | Signal::SIGBUS if had_no_memory => Some(format!(
                "its address space was limited to {}, and it had just been refused memory",
                in_words(self.address_space?)
            )),
            _ => None,
        }
    }

    /// Returns the error of a process with these limits that has ended in this way.
    pub(crate) fn died(&self, exit: Exit) -> Error {
        let exceeded = self.exceeded(&exit);
        Error::died(exit, exceeded)
    }
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)).max(1)
}

/// Writes a number of bytes in the largest unit that leaves no fraction.
fn in_words(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fits = |(shift, _): &(u32, &str)| bytes > 0 && bytes.is_multiple_of(1 << shift);
    units.into_iter().find(fits).map_or_else(
        || format!("{bytes} bytes"),
        |(shift, unit)| format!("{} {unit}", bytes >> shift),
    )
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn in_words_uses_the_largest_whole_unit() {
        let told = [0, 1, 1 << 10, 3 << 20, 4 << 30, (1 << 30) + 1].map(in_words);
        let expected = ["0 bytes", "1 bytes", "1 KiB", "3 MiB", "4 GiB", "1073741825 bytes"];
        assert_eq!(told, expected);
    }

    #[test]
    fn whole_seconds_rounds_up() {
        let told = [0, 1, 1000, 1001].map(|millis| whole_seconds(Duration::from_millis(millis)));
        assert_eq!(told, [1, 1, 1, 2]);
        assert_eq!(whole_seconds(Duration::MAX), u64::MAX);
    }

    #[test]
    fn exceeded_names_only_limits_that_were_set() {
        let limits = Limits::new().cpu_time(Duration::from_secs(2)).open_files(10);
        let exit = |status: i32, had_no_memory: bool| Exit {
            status: Some(ExitStatus::from_raw(status)),
            processor_time: Duration::from_millis(2100),
            last_words: had_no_memory.then_some(LastWords::NoMemory),
        };
        let exceeded = |limits: &Limits, signal| limits.exceeded(&exit(signal as i32, true));
        assert!(exceeded(&limits, Signal::SIGXCPU).is_some_and(|text| text.contains("2 s")));
        assert!(exceeded(&limits, Signal::SIGKILL).is_some_and(|text| text.contains("2 s")));
        assert_eq!(exceeded(&limits, Signal::SIGABRT), None);
        let limits = Limits::new().cpu_time(Duration::from_secs(3));
        assert!(exceeded(&limits, Signal::SIGXCPU).is_some(), "the clocks differ a little");
        assert_eq!(exceeded(&limits, Signal::SIGKILL), None, "somebody else has sent it");
        let limits = Limits::new().address_space(1 << 30);
        assert_eq!(exceeded(&limits, Signal::SIGXCPU), None);
        assert_eq!(exceeded(&limits, Signal::SIGKILL), None);
        assert!(exceeded(&limits, Signal::SIGSEGV).is_some_and(|text| text.contains("1 GiB")));
        assert_eq!(limits.exceeded(&exit(Signal::SIGSEGV as i32, false)), None, "a wild pointer");
        assert_eq!(limits.exceeded(&exit(1 << 8, true)), None);
    }
}
