//! The settings of the worker processes.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::PoolBuilder;
use crate::forkserver::{Limits, Stdio};

/// Settings of the worker processes.
impl<S> PoolBuilder<S> {
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

    /// Replaces each worker that has more than this number of bytes of memory for itself alone
    /// after a task. Without this setting, workers are not replaced because of their memory.
    ///
    /// What counts are pages that no file backs (`RssAnon` in `/proc/PID/status`), also those that
    /// the worker has inherited; shared memory does not count. After fast tasks, the memory is
    /// measured once in a millisecond. If a worker has more before its first task, it exits; if all
    /// workers do, the pool ends as if its initializer had failed
    /// ([`Initializer`](crate::ErrorKind::Initializer)), and calls fail with an error that says
    /// so. To *stop* a task that takes too much, use [`Limits::address_space`].
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

    /// Gives all workers a stdout, which they share. By default it is the stdout that the calling
    /// process was given, if it is a `Process` or a worker. Otherwise it is the program's.
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

    /// Gives all workers a stderr, which they share. By default it is the stderr that the calling
    /// process was given, if it is a `Process` or a worker. Otherwise it is the program's.
    ///
    /// See the example of [`stdout`](PoolBuilder::stdout).
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.settings.attributes.stdio.set(2, stderr.into());
        self
    }
}
