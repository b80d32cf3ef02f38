//! The settings of a pool.

use std::ffi::OsStr;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Pool;
use crate::call::Name;
use crate::error::Error;
use crate::forkserver::{Attributes, Lifetime, Limits, StartMethod, Stdio};
use crate::pool::board::MAX_WORKERS;
use crate::pool::scheduler::{Initializer, Intensity, PoolConfig, Recipes, Scheduler};
use crate::sys;
use crate::wire::{Message, Payload};

/// The settings of a pool that is to be built; all have Python's defaults.
///
/// ```
/// # fn main() -> Result<(), proc_core::Error> {
/// # proc_core::init();
/// use std::sync::atomic::{AtomicU32, Ordering};
///
/// static FACTOR: AtomicU32 = AtomicU32::new(1);
///
/// let pool = proc_core::Pool::builder()
///     .processes(2)
///     .initializer(|factor| FACTOR.store(factor, Ordering::Relaxed), 10)
///     .max_tasks_per_child(100)
///     .build()?;
/// assert_eq!(pool.map(|x: u32| x * FACTOR.load(Ordering::Relaxed), [1, 2])?, [10, 20]);
/// # Ok(())
/// # }
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
    preload: Option<Initializer>,
    initializer: Option<Initializer>,
    state: Option<Initializer>,
    worker_exit: Option<Result<Name, String>>,
    max_tasks: Option<u64>,
    attributes: Attributes,
    idle_timeout: Option<Duration>,
    restart_intensity: Option<Intensity>,
    memory_limit: Option<usize>,
}

impl Pool {
    /// A pool of as many workers as this process may use processors: affinity and cgroup count.
    ///
    /// # Errors
    ///
    /// See [`PoolBuilder::build`].
    pub fn new() -> Result<Pool, Error> {
        Pool::builder().build()
    }

    /// A pool with other settings.
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
    /// How many workers; without it, as many as this process may use processors.
    pub fn processes(mut self, processes: usize) -> Self {
        self.settings.processes = Some(processes);
        self
    }

    /// How workers come into being.
    #[doc(alias = "context")]
    pub fn start_method(mut self, start_method: StartMethod) -> Self {
        self.settings.start_method = start_method;
        self
    }

    /// What workers are called in `ps`, before their number; 15 bytes are shown. `worker` without
    /// it.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = Some(name.into());
        self
    }

    /// A function that is called once for the whole pool, in the process from which its workers are
    /// then copied: what it leaves in memory, say in a static, every worker has, and none has a
    /// copy of its own before it writes.
    ///
    /// For what is costly to make or large, and the same in all workers. It is called in
    /// [`build`](PoolBuilder::build), which waits for it, and again where that process, a fork
    /// server, has died. The fork server is a copy of the program as it was in
    /// [`init`](crate::init), and with [`StartMethod::Fork`] as it is in `build`. Where the
    /// function panics, ends its process or leaves threads running, `build` fails with its error
    /// ([`Error::is_initializer`]).
    ///
    /// ```
    /// # fn main() -> Result<(), proc_core::Error> {
    /// # proc_core::init();
    /// use std::sync::OnceLock;
    ///
    /// static SQUARES: OnceLock<Vec<u64>> = OnceLock::new();
    ///
    /// let pool = proc_core::Pool::builder()
    ///     .processes(2)
    ///     .preload(|n| SQUARES.set((0..n).map(|x| x * x).collect()).expect("only once"), 1000)
    ///     .build()?;
    /// let look_up = |x: usize| SQUARES.get().map(|squares| squares[x]);
    /// assert_eq!(pool.map(look_up, [3, 999])?, [Some(9), Some(998_001)]);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "set_forkserver_preload")]
    pub fn preload<F, A>(mut self, function: F, argument: A) -> Self
    where
        F: Fn(A) + Copy + Send + Sync + 'static,
        A: Message + Send + Sync,
    {
        let _ = function;
        self.settings.preload = Some(Arc::new(move || {
            let name = Name::of::<F, A, ()>().map_err(Error::invalid)?;
            Ok((name, Payload::encode(&argument).map_err(Error::encode_argument)?))
        }));
        self
    }

    /// A function that each worker calls once, before its first task.
    ///
    /// Where it panics or ends its process, the worker is tried again two more times; then calls
    /// fail with its error ([`Error::is_initializer`]).
    #[doc(alias = "initargs")]
    pub fn initializer<F, A>(mut self, function: F, argument: A) -> Self
    where
        F: Fn(A) + Copy + Send + Sync + 'static,
        A: Message + Send + Sync,
    {
        let _ = function;
        self.settings.initializer = Some(Arc::new(move || {
            let name = Name::of::<F, A, ()>().map_err(Error::invalid)?;
            Ok((name, Payload::encode(&argument).map_err(Error::encode_argument)?))
        }));
        self
    }

    /// A function whose value each worker keeps for its tasks, see [`Pool::with_state`].
    ///
    /// It is called once in each worker, after the initializer and before the first task; where it
    /// fails, it is as if the initializer had. The state may be of any type: it is made where it is
    /// used and never crosses to another process. It is dropped when the worker ends, unless the
    /// worker is killed.
    ///
    /// ```
    /// # fn main() -> Result<(), proc_core::Error> {
    /// # proc_core::init();
    /// let pool = proc_core::Pool::builder().processes(1).state(|first: u32| first, 10).build()?;
    /// let next = |counter: &mut u32, step: u32| {
    ///     *counter += step;
    ///     *counter
    /// };
    /// assert_eq!(pool.with_state().map(next, [1, 1, 5])?, [11, 12, 17]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn state<F, A, T>(self, make: F, argument: A) -> PoolBuilder<T>
    where
        F: Fn(A) -> T + Copy + Send + Sync + 'static,
        A: Message + Send + Sync,
        T: 'static,
    {
        let _ = make;
        let mut settings = self.settings;
        settings.state = Some(Arc::new(move || {
            let name = Name::of_maker::<F, A, T>().map_err(Error::invalid)?;
            Ok((name, Payload::encode(&argument).map_err(Error::encode_argument)?))
        }));
        settings.worker_exit = settings.worker_exit.map(|_| {
            Err("worker_exit takes the state: call it after PoolBuilder::state, not before".into())
        });
        PoolBuilder { settings, state: PhantomData }
    }

    /// A function that each worker calls last, with its state.
    ///
    /// It is called when the worker ends in order: the pool is closed, ended or made smaller while
    /// the worker had nothing to do, or the worker has done its share. It is not called where the
    /// worker is killed or a task ends its process. A panic in it is printed to stderr and spoils
    /// nothing. Without it, the state is dropped.
    ///
    /// ```
    /// # fn main() -> Result<(), proc_core::Error> {
    /// # proc_core::init();
    /// let pool = proc_core::Pool::builder()
    ///     .processes(1)
    ///     .state(|_: ()| Vec::<u32>::new(), ())
    ///     .worker_exit(|seen| println!("this worker has seen {seen:?}"))
    ///     .build()?;
    /// pool.with_state().map(|seen: &mut Vec<u32>, x: u32| seen.push(x), [1, 2])?;
    /// pool.close();
    /// pool.join()?; // by now it is printed
    /// # Ok(())
    /// # }
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

    /// Replaces each worker after so many tasks, against leaks. Without it workers live on.
    #[doc(alias = "maxtasksperchild")]
    pub fn max_tasks_per_child(mut self, tasks: u64) -> Self {
        self.settings.max_tasks = Some(tasks);
        self
    }

    /// Limits what each worker may use, the replacements included.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.attributes.limits = limits;
        self
    }

    /// Sets an environment variable of each worker, as [`Process::env`](crate::Process::env).
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.settings.attributes.overrides.set(name.as_ref(), Some(value.as_ref()));
        self
    }

    /// Removes a variable from the environment of each worker.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.settings.attributes.overrides.set(name.as_ref(), None);
        self
    }

    /// Gives each worker an empty environment, but for what is set after this.
    pub fn env_clear(mut self) -> Self {
        self.settings.attributes.overrides.clear();
        self
    }

    /// Sets the working directory of each worker. A relative path begins at the directory that the
    /// program has when the worker starts.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.settings.attributes.overrides.enter(directory.into());
        self
    }

    /// Gives all workers a stdin, which they share; without one it is empty.
    ///
    /// A pipe that [`Stdio::piped`](Stdio) makes is an error of [`build`](PoolBuilder::build):
    /// workers come and go.
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.settings.attributes.stdio.set(0, stdin.into());
        self
    }

    /// Gives all workers another stdout than the program's, which they share.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # proc_core::init();
    /// let (reader, writer) = std::io::pipe()?;
    /// let pool = proc_core::Pool::builder().processes(1).stdout(writer).build()?;
    /// pool.apply(|name: String| println!("hello, {name}"), "you".to_owned())?;
    /// drop(pool);
    /// assert_eq!(std::io::read_to_string(reader)?, "hello, you\n");
    /// # Ok(())
    /// # }
    /// ```
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.settings.attributes.stdio.set(1, stdout.into());
        self
    }

    /// Gives all workers another stderr than the program's, which they share.
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.settings.attributes.stdio.set(2, stderr.into());
        self
    }

    /// Ends a worker that had nothing to do for so long; when there is work for it, the pool starts
    /// another. Without it, workers wait for ever.
    ///
    /// [`Pool::worker_pids`] shows who is there. A pool whose workers have all left serves the next
    /// call as promptly as a process can be started.
    ///
    /// ```
    /// # fn main() -> Result<(), proc_core::Error> {
    /// # proc_core::init();
    /// # use std::time::Duration;
    /// let patience = Duration::from_millis(10);
    /// let pool = proc_core::Pool::builder().processes(2).idle_timeout(patience).build()?;
    /// while !pool.worker_pids().is_empty() {
    ///     std::thread::sleep(patience);
    /// }
    /// assert_eq!(pool.map(|x: u32| x + 1, [1, 2])?, [2, 3]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn idle_timeout(mut self, patience: Duration) -> Self {
        self.settings.idle_timeout = Some(patience);
        self
    }

    /// Ends the pool when more than `restarts` workers died of themselves within `period`.
    ///
    /// As in OTP's supervisors. All open calls then fail with [`Error::is_restart_limit`], which
    /// names the last death. A worker that ends in order does not count, nor one that the pool ends
    /// because its task was cancelled or late, nor one that goes down with its fork server.
    ///
    /// Without it, a worker that dies at a task costs that task and is replaced at once, however
    /// often; one that dies before it is ready is tried 20 times, or 3 times where there is an
    /// initializer or a state to blame.
    ///
    /// ```
    /// # fn main() -> Result<(), proc_core::Error> {
    /// # proc_core::init();
    /// # use std::time::Duration;
    /// fn crash(_: u32) -> u32 {
    ///     std::process::abort()
    /// }
    ///
    /// let pool = proc_core::Pool::builder()
    ///     .processes(1)
    ///     .restart_intensity(2, Duration::from_secs(60))
    ///     .build()?;
    /// let fates = pool.try_map(crash, 0..10);
    /// let last = fates[9].as_ref().expect_err("the third death was too much");
    /// assert!(last.is_restart_limit() && last.exit_status().is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn restart_intensity(mut self, restarts: u32, period: Duration) -> Self {
        self.settings.restart_intensity = Some(Intensity { restarts, period });
        self
    }

    /// How many bytes of arguments and results lie in memory that the pool shares with its workers,
    /// at a time. Without it, as many as come together.
    ///
    /// Calls wait before they encode more ([`Pool::map`], [`Pool::imap`] and their like; with the
    /// `_async` calls, which never wait, what is ahead is kept by the caller). An argument that is
    /// larger than the bound is sent alone, and what was called after it waits until it has gone; a
    /// result that does not fit comes by a message of its own; and a chunk may have fewer tasks
    /// than were asked for. Results that have come are the caller's, and do not count. What counts
    /// is what is in use: memory that was is kept for the next values of about its size until the
    /// pool ends, and the pool itself takes 100 KiB and half a KiB for each worker.
    ///
    /// ```
    /// # fn main() -> Result<(), proc_core::Error> {
    /// # proc_core::init();
    /// let pool = proc_core::Pool::builder().processes(2).memory_limit(8 << 20).build()?;
    /// let pages = std::iter::repeat_n(vec![7_u8; 1 << 20], 64); // 64 MiB, some 4 at a time
    /// assert_eq!(pool.map(|page: Vec<u8>| page.len(), pages)?, [1 << 20; 64]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn memory_limit(mut self, bytes: usize) -> Self {
        self.settings.memory_limit = Some(bytes);
        self
    }

    /// Starts the workers.
    ///
    /// Returns when they exist; their initializers are not waited for.
    ///
    /// # Errors
    ///
    /// A number makes no sense, the initializer's argument cannot be encoded, or a worker cannot be
    /// started (what was started is ended).
    pub fn build(self) -> Result<Pool<S>, Error> {
        let Settings {
            processes,
            start_method,
            name,
            preload,
            initializer,
            state,
            worker_exit,
            max_tasks,
            attributes,
            idle_timeout,
            restart_intensity,
            memory_limit,
        } = self.settings;
        let max = MAX_WORKERS as usize;
        let processes = processes.unwrap_or_else(|| sys::available_processors().min(max));
        if processes == 0 {
            return Err(Error::invalid("a pool needs at least one process"));
        }
        if processes > max {
            let what = format!("a pool has at most {max} processes, not {processes}");
            return Err(Error::invalid(what));
        }
        if max_tasks == Some(0) {
            return Err(Error::invalid("a worker must do at least one task before it is replaced"));
        }
        if attributes.stdio.is_piped() {
            return Err(Error::invalid(
                "the workers of a pool cannot have pipes of their own, since they come and go: give \
                 them a file, an end of std::io::pipe, Stdio::null() or Stdio::inherit()",
            ));
        }
        let attributes = Attributes { lifetime: Lifetime::Worker, ..attributes };
        let config = PoolConfig {
            processes: processes as u32,
            start_method,
            name: name.unwrap_or_else(|| "worker".into()),
            worker_exit: worker_exit.transpose().map_err(Error::invalid)?,
            max_tasks,
            attributes,
            idle_timeout,
            restart_intensity,
            memory_limit,
        };
        let scheduler = Scheduler::build(config, Recipes { preload, initializer, state })?;
        Ok(Pool { scheduler, state: PhantomData })
    }
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
