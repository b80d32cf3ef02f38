//! The settings of a pool: those of the pool as a whole here, those of its worker processes in
//! `worker_processes`, and the functions that workers call besides tasks in `functions`.

mod functions;
mod worker_processes;

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::Pool;
use crate::call::Name;
use crate::error::Error;
use crate::forkserver::{Attributes, Lifetime, StartMethod};
use crate::pool::board::MAX_WORKERS;
use crate::pool::job::Pending;
use crate::pool::scheduler::{Intensity, PoolConfig, Scheduler, StartFunctions};
use crate::sys;

/// Builds a pool with settings.
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering};
///
/// use proc_core::Pool;
///
/// static FACTOR: AtomicU32 = AtomicU32::new(1);
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let pool = Pool::builder()
///         .processes(2)
///         .name("scale")
///         .initializer(|factor| FACTOR.store(factor, Ordering::Relaxed), 10)
///         .max_tasks_per_child(100)
///         .build()?;
///     assert_eq!(pool.map(|x: u32| x * FACTOR.load(Ordering::Relaxed), [1, 2])?, [10, 20]);
///     Ok(())
/// }
/// ```
#[must_use = "no worker is started before `build`"]
pub struct PoolBuilder<S = ()> {
    settings: Settings,
    state: PhantomData<fn() -> S>,
}

#[derive(Default)]
struct Settings {
    processes: Option<usize>,
    start_method: StartMethod,
    name: Option<String>,
    start_functions: StartFunctions,
    worker_exit: Option<Result<Name, String>>,
    max_tasks: Option<u64>,
    attributes: Attributes,
    idle_timeout: Option<Duration>,
    restart_intensity: Option<Intensity>,
    memory_limit: Option<usize>,
    stop_signal: Option<i32>,
    max_memory: Option<u64>,
    max_pending: Option<usize>,
}

impl Pool {
    /// Starts a pool with one worker for each processor that this process may use. Affinity and
    /// cgroups limit that number.
    ///
    /// # Errors
    ///
    /// See [`PoolBuilder::build`].
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::new()?;
    ///     println!("{} workers", pool.processes());
    ///     assert_eq!(pool.map(|x: u32| x * x, [3, 4])?, [9, 16]);
    ///     Ok(())
    /// }
    /// ```
    pub fn new() -> Result<Pool, Error> {
        Pool::builder().build()
    }

    /// Returns a builder, for a pool with other settings.
    ///
    /// See the example of [`PoolBuilder`].
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }
}

impl Default for PoolBuilder {
    fn default() -> PoolBuilder {
        PoolBuilder { settings: Settings::default(), state: PhantomData }
    }
}

/// Settings of the pool as a whole.
impl<S> PoolBuilder<S> {
    /// Sets the number of workers; by default one for each processor that this process may use.
    ///
    /// See the example of [`PoolBuilder`].
    pub fn processes(mut self, processes: usize) -> Self {
        self.settings.processes = Some(processes);
        self
    }

    /// Sets how workers are made.
    ///
    /// See the example of [`Process::start_method`](crate::Process::start_method).
    #[doc(alias = "context")]
    pub fn start_method(mut self, start_method: StartMethod) -> Self {
        self.settings.start_method = start_method;
        self
    }

    /// Sets the name that `ps` shows for each worker, before the worker's number. The default is
    /// `worker`. `ps` shows the first 15 bytes.
    ///
    /// See the example of [`PoolBuilder`].
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = Some(name.into());
        self
    }

    /// Limits how many tasks of the pool are queued or running. Without this setting, there is no
    /// limit.
    ///
    /// At the limit, [`Pool::apply`], [`Pool::apply_async`] and [`Pool::map_async`] wait until
    /// there is room, and [`Pool::try_apply_async`] gives the argument back. [`Pool::map`],
    /// [`Pool::try_map`] and the iterators hand out one chunk at a time then. A `map_async` of more
    /// inputs than the limit, or a [`Pool::broadcast`] to more workers, is an error
    /// ([`Invalid`](crate::ErrorKind::Invalid)): use `map` or `imap`.
    ///
    /// See the example of [`Pool::try_apply_async`].
    pub fn max_pending(mut self, tasks: usize) -> Self {
        self.settings.max_pending = Some(tasks);
        self
    }

    /// Ends a worker that has had no work for this time. The pool starts the next one when there is
    /// work for it. Without this setting, workers wait forever.
    ///
    /// [`Pool::worker_pids`] shows the present workers. If all have left, the next call first has
    /// to start one.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use proc_core::Pool;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let patience = Duration::from_millis(10);
    ///     let pool = Pool::builder().processes(2).idle_timeout(patience).build()?;
    ///     while !pool.worker_pids().is_empty() {
    ///         std::thread::yield_now();
    ///     }
    ///     assert_eq!(pool.map(|x: u32| x + 1, [1, 2])?, [2, 3]); // by new workers
    ///     Ok(())
    /// }
    /// ```
    pub fn idle_timeout(mut self, patience: Duration) -> Self {
        self.settings.idle_timeout = Some(patience);
        self
    }

    /// Ends the pool if more than `restarts` workers die within `period`, as OTP's supervisors do.
    ///
    /// All open calls then fail with an error that names the last death
    /// ([`ErrorKind::RestartLimit`](crate::ErrorKind::RestartLimit)). A death does not count if the
    /// worker leaves by itself (see [`worker_exit`](PoolBuilder::worker_exit)), if the pool kills
    /// the worker because its task was cancelled or late, or if the worker dies with its fork
    /// server.
    ///
    /// Without this setting, a worker that dies while it runs a task is replaced at once, no matter
    /// how often. If 20 workers in a row die in one place of the pool before they are ready, the
    /// place stays empty until a later call. If the pool has an initializer or a state, it is 3
    /// workers, and the place stays empty until [`resize`](crate::Pool::resize).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use proc_core::{ErrorKind, Pool};
    ///
    /// fn crash(_: u32) -> u32 {
    ///     std::process::abort()
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let hour = Duration::from_secs(3600);
    ///     let pool = Pool::builder().processes(1).restart_intensity(2, hour).build()?;
    ///     let results = pool.try_map(crash, 0..10);
    ///     let last = results[9].as_ref().expect_err("the third death was too much");
    ///     assert_eq!(last.kind(), ErrorKind::RestartLimit);
    ///     assert!(last.exit_status().is_some()); // of the last death
    ///     Ok(())
    /// }
    /// ```
    pub fn restart_intensity(mut self, restarts: u32, period: Duration) -> Self {
        self.settings.restart_intensity = Some(Intensity { restarts, period });
        self
    }

    /// Limits how many bytes arguments and results may use in the memory that the pool shares with
    /// its workers. Without this setting, there is no limit.
    ///
    /// This does not limit what a task allocates:
    /// [`Limits::address_space`](crate::Limits::address_space) does. If that is set, arguments and
    /// results may use at most a quarter of the address space.
    ///
    /// At the limit, calls such as [`Pool::map`] and [`Pool::imap`] wait before they encode more
    /// inputs. The `_async` calls never wait: their further arguments stay in the caller's memory.
    /// An argument that is larger than the limit is sent alone, and later ones wait until it is
    /// done. A result that does not fit comes in a message of its own. A chunk may have fewer tasks
    /// than the call asks for.
    ///
    /// Results that have arrived do not count, except large ones that are not decoded yet. Memory
    /// that is no longer in use does not count either: the pool keeps it for later values until the
    /// pool ends. The pool itself takes at most 100 KiB, and from 65 workers on at most 3 KiB for
    /// each worker.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(2).memory_limit(8 << 20).build()?;
    ///     let pages = std::iter::repeat_n(vec![7_u8; 1 << 20], 64); // 64 MiB, about 4 at a time
    ///     assert_eq!(pool.map(|page: Vec<u8>| page.len(), pages)?, [1 << 20; 64]);
    ///     Ok(())
    /// }
    /// ```
    pub fn memory_limit(mut self, bytes: usize) -> Self {
        self.settings.memory_limit = Some(bytes);
        self
    }

    /// Sets the signal that a worker gets when its task is asked to stop, see
    /// [`Options::grace`](crate::Options::grace). By default it gets none.
    ///
    /// A signal interrupts a system call that blocks, such as a `read`, if the worker has a handler
    /// for it that was set without `SA_RESTART`: set one in the [`initializer`](Self::initializer).
    /// Without a handler, most signals end the worker. `signal` is the signal's number, such as
    /// `libc::SIGUSR1`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::atomic::{AtomicBool, Ordering};
    /// use std::time::Duration;
    ///
    /// use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    ///
    /// static SIGNALLED: AtomicBool = AtomicBool::new(false);
    ///
    /// extern "C" fn note(_: i32) {
    ///     SIGNALLED.store(true, Ordering::Relaxed);
    /// }
    ///
    /// fn handle(_: ()) {
    ///     let handler = SigHandler::Handler(note);
    ///     let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    ///     // SAFETY: the handler only writes to an atomic.
    ///     unsafe { sigaction(Signal::SIGUSR1, &action) }.expect("SIGUSR1 can be handled");
    /// }
    ///
    /// fn wait_for_signal(_: ()) -> bool {
    ///     while !SIGNALLED.load(Ordering::Relaxed) {
    ///         std::thread::yield_now(); // or a call that blocks
    ///     }
    ///     true
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = proc_core::Pool::builder()
    ///         .processes(1)
    ///         .initializer(handle, ())
    ///         .stop_signal(Signal::SIGUSR1 as i32)
    ///         .build()?;
    ///     let options = pool.options().timeout(Duration::from_millis(50));
    ///     assert!(options.grace(Duration::from_secs(10)).apply(wait_for_signal, ())?);
    ///     Ok(())
    /// }
    /// ```
    pub fn stop_signal(mut self, signal: i32) -> Self {
        self.settings.stop_signal = Some(signal);
        self
    }

    /// Starts the workers.
    ///
    /// Returns when they exist. Does not wait for their initializers.
    ///
    /// # Errors
    ///
    /// A setting is invalid, the argument of an initializer cannot be encoded, or a worker cannot
    /// be started. In the last case the other workers are ended.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::{ErrorKind, Pool};
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(2).build()?;
    ///     assert_eq!(pool.map(|x: u32| x * x, [3, 4])?, [9, 16]);
    ///     let error = Pool::builder().processes(0).build().expect_err("a pool has a worker");
    ///     assert_eq!(error.kind(), ErrorKind::Invalid);
    ///     Ok(())
    /// }
    /// ```
    pub fn build(self) -> Result<Pool<S>, Error> {
        let settings = self.settings;
        let max = MAX_WORKERS as usize;
        let processes = settings.processes.unwrap_or_else(|| sys::available_processors().min(max));
        if processes == 0 {
            return Err(Error::invalid("a pool needs at least one process"));
        }
        if processes > max {
            let what = format!("a pool has at most {max} processes, not {processes}");
            return Err(Error::invalid(what));
        }
        if settings.max_tasks == Some(0) {
            return Err(Error::invalid("a worker must do at least one task before it is replaced"));
        }
        if settings.max_memory == Some(0) {
            return Err(Error::invalid(
                "max_memory_per_child of 0 allows no worker: a worker has some MiB before its first \
                 task",
            ));
        }
        if settings.max_memory.is_some()
            && let Err(error) = sys::own_memory()
        {
            return Err(Error::start("a pool with max_memory_per_child, which reads /proc", error));
        }
        if settings.max_pending == Some(0) {
            return Err(Error::invalid("a pool with max_pending of 0 can run no task: allow one"));
        }
        if settings.attributes.stdio.is_piped() {
            return Err(Error::invalid(
                "the workers of a pool cannot have pipes of their own, since they come and go: give \
                 them a file, an end of std::io::pipe, Stdio::null() or Stdio::inherit()",
            ));
        }
        // A worker maps all shared memory, and needs address space for its own memory too. The
        // regions can be twice as large as the shared memory that is in use.
        let address_space = settings.attributes.limits.max_address_space();
        let quarter = address_space.map(|bytes| bytes / 4);
        let config = PoolConfig {
            processes: processes as u32,
            start_method: settings.start_method,
            name: settings.name.unwrap_or_else(|| "worker".into()),
            worker_exit: settings.worker_exit.transpose().map_err(Error::invalid)?,
            max_tasks: settings.max_tasks,
            attributes: Attributes { lifetime: Lifetime::Worker, ..settings.attributes },
            idle_timeout: settings.idle_timeout,
            restart_intensity: settings.restart_intensity,
            memory_limit: settings.memory_limit.into_iter().chain(quarter).min(),
            max_argument: address_space.map_or(usize::MAX, |bytes| bytes / 2),
            stop_signal: settings.stop_signal.map(signal).transpose()?,
            max_memory: settings.max_memory,
            pending: settings.max_pending.map(Pending::new).map(Arc::new),
        };
        let scheduler = Scheduler::build(config, settings.start_functions)?;
        Ok(Pool { scheduler, state: PhantomData })
    }
}

/// Returns the signal with this number.
fn signal(number: i32) -> Result<Signal, Error> {
    Signal::try_from(number).map_err(|_| {
        Error::invalid(format!("there is no signal {number}: give one such as libc::SIGUSR1"))
    })
}

impl<S> std::fmt::Debug for PoolBuilder<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolBuilder")
            .field("processes", &self.settings.processes)
            .field("start_method", &self.settings.start_method)
            .field("max_tasks", &self.settings.max_tasks)
            .finish_non_exhaustive()
    }
}
