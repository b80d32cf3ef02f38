//! The settings of a pool.

use std::ffi::OsStr;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::Pool;
use crate::call::Name;
use crate::error::Error;
use crate::forkserver::{Attributes, Lifetime, Limits, StartMethod, Stdio};
use crate::pool::board::MAX_WORKERS;
use crate::pool::job::Pending;
use crate::pool::scheduler::{Intensity, PoolConfig, Scheduler, StartFunction, StartFunctions};
use crate::sys;
use crate::wire::{Message, Payload};

/// Builds a pool with settings. The defaults are Python's.
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

    /// Sets a function that is called once for the whole pool, in a fork server of its own. All
    /// workers are forked from that process. So they have the memory that the function leaves, such
    /// as a static; a page of it is copied only when a worker writes to it.
    ///
    /// Use this for data that is the same in all workers, and large or costly to make.
    /// [`build`](PoolBuilder::build) calls the function and waits for it. If the fork server dies,
    /// the function is called again in the next one. The fork server is a copy of the program as it
    /// was in [`init`](crate::init), or, with [`StartMethod::Fork`], as it is in `build`. If the
    /// function panics, ends its process or leaves threads running, `build` fails
    /// ([`ErrorKind::Initializer`](crate::ErrorKind::Initializer)).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::OnceLock;
    ///
    /// use proc_core::Pool;
    ///
    /// static SQUARES: OnceLock<Vec<u64>> = OnceLock::new();
    ///
    /// fn make(n: u64) {
    ///     SQUARES.set((0..n).map(|x| x * x).collect()).expect("it is called once");
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(2).preload(make, 1000).build()?;
    ///     let look_up = |x: usize| SQUARES.get().map(|squares| squares[x]);
    ///     assert_eq!(pool.map(look_up, [3, 999])?, [Some(9), Some(998_001)]);
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "set_forkserver_preload")]
    pub fn preload<F, A>(mut self, function: F, argument: A) -> Self
    where
        F: Fn(A) + Copy + Send + Sync + 'static,
        A: Message + Send + Sync,
    {
        let _ = function;
        self.settings.start_functions.preload =
            Some(start_function(Name::of::<F, A, ()>, argument));
        self
    }

    /// Sets a function that each worker calls once, before its first task.
    ///
    /// If it panics or ends its process, the next worker tries again. After three failures, calls
    /// fail with the error of the function
    /// ([`ErrorKind::Initializer`](crate::ErrorKind::Initializer)).
    ///
    /// See the example of [`PoolBuilder`].
    #[doc(alias = "initargs")]
    pub fn initializer<F, A>(mut self, function: F, argument: A) -> Self
    where
        F: Fn(A) + Copy + Send + Sync + 'static,
        A: Message + Send + Sync,
    {
        let _ = function;
        self.settings.start_functions.initializer =
            Some(start_function(Name::of::<F, A, ()>, argument));
        self
    }

    /// Sets a function that makes the state of each worker, see [`Pool::with_state`].
    ///
    /// Each worker calls it once, after the initializer and before the first task. A failure counts
    /// like one of the initializer. The state may have any type, because it never crosses to
    /// another process. It is dropped when the worker exits, unless the worker is killed.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(1).state(|first: u32| first, 10).build()?;
    ///     let next = |counter: &mut u32, step: u32| {
    ///         *counter += step;
    ///         *counter
    ///     };
    ///     assert_eq!(pool.with_state().map(next, [1, 1, 5])?, [11, 12, 17]);
    ///     Ok(())
    /// }
    /// ```
    pub fn state<F, A, T>(self, make: F, argument: A) -> PoolBuilder<T>
    where
        F: Fn(A) -> T + Copy + Send + Sync + 'static,
        A: Message + Send + Sync,
        T: 'static,
    {
        let _ = make;
        let mut settings = self.settings;
        settings.start_functions.state = Some(start_function(Name::of_maker::<F, A, T>, argument));
        settings.worker_exit = settings.worker_exit.map(|_| {
            Err("worker_exit takes the state: call it after PoolBuilder::state, not before".into())
        });
        PoolBuilder { settings, state: PhantomData }
    }

    /// Sets a function that each worker calls last, with its state.
    ///
    /// A worker calls it when it exits normally: because the pool is closed, ended or made smaller,
    /// because the worker was idle (`idle_timeout`), or because it has run as many tasks as it may
    /// (`max_tasks_per_child`). A worker that is killed does not call it, and neither does one
    /// whose task ends the process. If the function panics, the message goes to stderr, and nothing
    /// else happens. Without this setting, the state is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    /// use proc_core::ipc::{self, IpcSender};
    ///
    /// type State = (u32, IpcSender<u32>); // a sum, and where it goes
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     proc_core::init();
    ///     let (sender, receiver) = ipc::channel()?;
    ///     let pool = Pool::builder()
    ///         .processes(1)
    ///         .state(|to: IpcSender<u32>| (0, to), sender)
    ///         .worker_exit(|(sum, to): State| to.send(sum).expect("main receives"))
    ///         .build()?;
    ///     pool.with_state().map(|state: &mut State, x: u32| state.0 += x, [3, 4])?;
    ///     pool.close();
    ///     assert_eq!(receiver.recv()?, 7); // what the worker has added up
    ///     Ok(())
    /// }
    /// ```
    pub fn worker_exit<F>(mut self, function: F) -> Self
    where
        F: Fn(S) + Copy + 'static,
        S: 'static,
    {
        let _ = function;
        self.settings.worker_exit = Some(Name::of_taker::<F, S>());
        self
    }

    /// Replaces each worker after this number of tasks, so that leaks of tasks stay small. Without
    /// this setting, workers are not replaced.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(1).max_tasks_per_child(2).build()?;
    ///     let pids = pool.map(|_: u32| std::process::id(), 0..4)?;
    ///     assert_eq!(pids[0], pids[1]);
    ///     assert_ne!(pids[1], pids[2]); // the next worker
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "maxtasksperchild")]
    pub fn max_tasks_per_child(mut self, tasks: u64) -> Self {
        self.settings.max_tasks = Some(tasks);
        self
    }

    /// Replaces each worker that has more than this number of bytes of memory for itself alone after
    /// a task. Without this setting, workers are not replaced because of their memory.
    ///
    /// What counts are pages that no file backs (`RssAnon` in `/proc/PID/status`), also those that
    /// the worker has inherited; shared memory does not count. After fast tasks, the memory is
    /// measured once in a millisecond. If a worker has more before its first task, that is an error
    /// like one of the initializer. To *stop* a task that takes too much, use
    /// [`Limits::address_space`].
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    ///
    /// fn leak(bytes: usize) -> u32 {
    ///     vec![1_u8; bytes].leak();
    ///     std::process::id()
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(1).max_memory_per_child(100 << 20).build()?;
    ///     let pids = pool.map(leak, [1000, 200 << 20, 1000])?;
    ///     assert_eq!(pids[0], pids[1]);
    ///     assert_ne!(pids[1], pids[2]); // the next worker
    ///     Ok(())
    /// }
    /// ```
    pub fn max_memory_per_child(mut self, bytes: u64) -> Self {
        self.settings.max_memory = Some(bytes);
        self
    }

    /// Limits how many tasks of the pool are queued or running. Without this setting, there is no
    /// limit.
    ///
    /// At the limit, [`Pool::apply`], [`Pool::apply_async`] and [`Pool::map_async`] wait until there
    /// is room, and [`Pool::try_apply_async`] gives the argument back. [`Pool::map`],
    /// [`Pool::try_map`] and the iterators hand out one chunk at a time then.
    ///
    /// See the example of [`Pool::try_apply_async`].
    pub fn max_pending(mut self, tasks: usize) -> Self {
        self.settings.max_pending = Some(tasks);
        self
    }

    /// Limits the resources that each worker may use.
    ///
    /// See the example of [`Limits`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.attributes.limits = limits;
        self
    }

    /// Sets an environment variable of each worker, as [`Process::env`](crate::Process::env).
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(1).env_clear().env("GREETING", "hello").build()?;
    ///     let read = |name: String| std::env::var(name).ok();
    ///     let values = pool.map(read, ["GREETING", "PATH"].map(String::from))?;
    ///     assert_eq!(values, [Some("hello".to_owned()), None]);
    ///     Ok(())
    /// }
    /// ```
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.settings.attributes.overrides.set(name.as_ref(), Some(value.as_ref()));
        self
    }

    /// Removes a variable from the environment of each worker.
    ///
    /// See the example of [`env`](PoolBuilder::env).
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.settings.attributes.overrides.set(name.as_ref(), None);
        self
    }

    /// Clears the environment of each worker. Variables that are set after this are kept.
    ///
    /// See the example of [`env`](PoolBuilder::env).
    pub fn env_clear(mut self) -> Self {
        self.settings.attributes.overrides.clear();
        self
    }

    /// Sets the working directory of each worker. A relative path begins at the directory that the
    /// program has when the worker starts.
    ///
    /// See the example of [`Process::current_dir`](crate::Process::current_dir).
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.settings.attributes.overrides.enter(directory.into());
        self
    }

    /// Gives all workers a stdin, which they share. By default it is empty.
    ///
    /// With [`Stdio::piped`](Stdio), [`build`](PoolBuilder::build) fails: a pipe belongs to one
    /// process, but workers are replaced.
    ///
    /// See the example of [`stdout`](PoolBuilder::stdout).
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.settings.attributes.stdio.set(0, stdin.into());
        self
    }

    /// Gives all workers a stdout, which they share. By default it is the program's.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     proc_core::init();
    ///     let (reader, writer) = std::io::pipe()?;
    ///     let pool = Pool::builder().processes(1).stdout(writer).build()?;
    ///     pool.apply(|name: String| println!("hello, {name}"), "you".to_owned())?;
    ///     drop(pool); // the last writer
    ///     assert_eq!(std::io::read_to_string(reader)?, "hello, you\n");
    ///     Ok(())
    /// }
    /// ```
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.settings.attributes.stdio.set(1, stdout.into());
        self
    }

    /// Gives all workers a stderr, which they share. By default it is the program's.
    ///
    /// See the example of [`stdout`](PoolBuilder::stdout).
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.settings.attributes.stdio.set(2, stderr.into());
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
    /// worker exits normally, if the pool kills the worker because its task was cancelled or late,
    /// or if the worker dies with its fork server.
    ///
    /// Without this setting, a worker that dies while it runs a task is replaced at once, no matter
    /// how often. Workers that die before they are ready are tried 20 times in a row, or 3 times if
    /// the pool has an initializer or a state.
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

    /// Limits how much of the memory that the pool shares with its workers arguments and results
    /// may use, in bytes. Without this setting, there is no limit.
    ///
    /// This does not limit what a task allocates: [`Limits::address_space`] does. If that is set,
    /// arguments and results may use at most a quarter of the address space.
    ///
    /// At the limit, calls such as [`Pool::map`] and [`Pool::imap`] wait before they encode more
    /// inputs. The `_async` calls never wait: their further arguments stay in the caller's memory.
    /// An argument that is larger than the limit is sent alone, and later ones wait until it is
    /// done. A result that does not fit comes in a message of its own. A chunk may have fewer tasks
    /// than the call asks for.
    ///
    /// Results that have arrived do not count. Memory that is no longer in use does not count
    /// either: the pool keeps it for later values until the pool ends. The pool itself takes 100
    /// KiB, and half a KiB for each worker.
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
    ///     let action = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
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

/// Makes a start function from the name of the user's function and its argument.
fn start_function<A>(name: fn() -> Result<Name, String>, argument: A) -> StartFunction
where
    A: Message + Send + Sync,
{
    Arc::new(move || {
        let name = name().map_err(Error::invalid)?;
        Ok((name, Payload::encode(&argument).map_err(Error::encode_argument)?))
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
