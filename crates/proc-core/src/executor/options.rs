//! `Options`: the settings of a call, and the bodies of all calls.

use std::time::Duration;

use super::engine::{Arrived, CallOptions, Engine, Job};
use super::imap::{Imap, ImapUnordered};
use super::map::{self, Outcomes, Progress};
use super::task::Task;
use crate::error::{Error, Origin};
use crate::wire::Message;

/// The calls of a [`Pool`](crate::Pool) or a cluster (`E`), with settings of their own; returned by
/// `options()`. `P` is the function that shows the progress.
///
/// ```
/// use std::time::Duration;
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let pool = proc_core::Pool::builder().processes(2).build()?;
///     let patient = pool.options().timeout(Duration::from_secs(60)).retries(1);
///     assert_eq!(patient.map(|x: u64| x * x, [1, 2, 3])?, [1, 4, 9]);
///     assert_eq!(patient.apply(|x: u64| x + 1, 41)?, 42); // another call, the same settings
///     Ok(())
/// }
/// ```
#[must_use = "settings do nothing without a call"]
pub struct Options<'a, E, P = fn(Progress)> {
    engine: &'a E,
    call: CallOptions,
    progress: Option<P>,
}

impl<'a, E: Engine> Options<'a, E> {
    #[doc(hidden)]
    pub fn new(engine: &'a E) -> Options<'a, E> {
        Options { engine, call: CallOptions::default(), progress: None }
    }
}

/// The settings.
impl<'a, E: Engine, P> Options<'a, E, P> {
    /// Sets the chunksize: how many tasks a worker takes at a time. Tasks that the worker has not
    /// taken can go to other workers.
    ///
    /// Without this setting, a pool measures the tasks, and makes chunks of about two milliseconds,
    /// which become smaller towards the end of the call. A worker takes an eighth of a chunk at a
    /// time. `imap` and `imap_unordered`, whose inputs may come slowly, take one task at a time, as
    /// Python's do. A cluster makes chunks of about ten milliseconds. Chunks of an explicit size
    /// that take almost no time are still sent together.
    ///
    /// A chunksize of zero is an error of the call.
    ///
    /// # Examples
    ///
    /// ```
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = proc_core::Pool::builder().processes(2).build()?;
    ///     let pid = |_: u32| std::process::id();
    ///     let pids = pool.options().chunksize(3).map(pid, 0..6)?;
    ///     assert_eq!(pids[0], pids[2]); // one worker took tasks 0, 1 and 2
    ///     assert_eq!(pids[3], pids[5]);
    ///     Ok(())
    /// }
    /// ```
    pub fn chunksize(mut self, tasks: usize) -> Self {
        self.call.chunksize = Some(tasks);
        self
    }

    /// Sets how long each task may run. The time starts when a worker begins the task.
    ///
    /// When the time is over, the worker is killed and replaced, and the task fails
    /// ([`Error::is_timeout`]). If the worker has just begun another task by then, that task runs
    /// again in another worker. Each try of [`retries`](Options::retries) has the whole time.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// fn never(_: u32) -> u32 {
    ///     loop {
    ///         std::thread::park();
    ///     }
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = proc_core::Pool::builder().processes(1).build()?;
    ///     let error = pool.options().timeout(Duration::from_millis(100)).apply(never, 7);
    ///     assert!(error.expect_err("it never returns").is_timeout());
    ///     assert_eq!(pool.apply(|x: u32| x + 1, 7)?, 8); // by the next worker
    ///     Ok(())
    /// }
    /// ```
    pub fn timeout(mut self, each: Duration) -> Self {
        self.call.timeout = Some(each);
        self
    }

    /// Sets how often a task is tried again, on the same machine, after it has panicked, its worker
    /// has died or its time was over.
    ///
    /// The default is zero. The next try may run in another worker, and the error is that of the
    /// last try. An `Err` that the function returns is a result, and is not tried again. A task
    /// whose argument holds channel ends is not tried again, because the channel ends are gone. If
    /// a cluster loses a machine, its tasks run on another machine in any case: that is no failure
    /// of these tasks.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU32, Ordering};
    ///
    /// fn flaky(x: u32) -> u32 {
    ///     static CALLS: AtomicU32 = AtomicU32::new(0); // the calls in this worker
    ///     assert!(CALLS.fetch_add(1, Ordering::Relaxed) > 0, "the first call fails");
    ///     x * x
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = proc_core::Pool::builder().processes(1).build()?;
    ///     assert_eq!(pool.options().retries(1).map(flaky, [3, 4])?, [9, 16]);
    ///     Ok(())
    /// }
    /// ```
    pub fn retries(mut self, times: u32) -> Self {
        self.call.retries = times;
        self
    }

    /// Sets a function that [`map`](Options::map) and [`try_map`](Options::try_map) call whenever
    /// results have arrived. It runs in the calling thread.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::{Pool, Progress};
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(2).build()?;
    ///     let mut last = 0;
    ///     let show = |progress: Progress| last = progress.done;
    ///     let squares = pool.options().progress(show).map(|x: u64| x * x, 0..1000)?;
    ///     assert_eq!((squares.len(), last), (1000, 1000));
    ///     Ok(())
    /// }
    /// ```
    pub fn progress<Q: FnMut(Progress)>(self, show: Q) -> Options<'a, E, Q> {
        Options { engine: self.engine, call: self.call, progress: Some(show) }
    }
}

/// Declares the seven calls of a type that has options. Their functions may borrow a `$state`
/// before the argument. `$name` names such a function, and `$options` are the type's [`Options`].
macro_rules! calls_with_options {
    ($a:lifetime $engine:ty, fn($($state:ty)?), $name:path, |$self:ident| $options:expr) => {
        /// See [`Executor::map`](crate::Executor::map), and the example of
        /// [`Pool::map`](crate::Pool::map).
        ///
        /// # Errors
        ///
        /// As for [`Executor::map`](crate::Executor::map); or the chunksize is zero.
        pub fn map<F, A, R, I>($self, function: F, inputs: I) -> Result<Vec<R>, $crate::Error>
        where
            F: Fn($($state,)? A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message,
            I: IntoIterator<Item = A>,
        {
            $options.map_named($name(function), inputs)
        }

        /// See [`Executor::try_map`](crate::Executor::try_map), and the example of
        /// [`Pool::try_map`](crate::Pool::try_map). If the chunksize is zero, each input gets that
        /// error.
        pub fn try_map<F, A, R, I>(
            $self,
            function: F,
            inputs: I,
        ) -> Vec<Result<R, $crate::Error>>
        where
            F: Fn($($state,)? A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message,
            I: IntoIterator<Item = A>,
        {
            $options.try_map_named($name(function), inputs)
        }

        /// See [`Executor::imap`](crate::Executor::imap), and the example of
        /// [`Pool::imap`](crate::Pool::imap).
        pub fn imap<F, A, R, I>(
            $self,
            function: F,
            inputs: I,
        ) -> $crate::Imap<$a, $engine, R, I::IntoIter>
        where
            F: Fn($($state,)? A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message,
            I: IntoIterator<Item = A>,
        {
            $options.imap_named($name(function), inputs)
        }

        /// See [`Executor::imap_unordered`](crate::Executor::imap_unordered), and the example of
        /// [`Pool::imap_unordered`](crate::Pool::imap_unordered).
        pub fn imap_unordered<F, A, R, I>(
            $self,
            function: F,
            inputs: I,
        ) -> $crate::ImapUnordered<$a, $engine, R, I::IntoIter>
        where
            F: Fn($($state,)? A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message,
            I: IntoIterator<Item = A>,
        {
            $options.imap_unordered_named($name(function), inputs)
        }

        /// See [`Executor::apply`](crate::Executor::apply), and the example of
        /// [`Pool::apply`](crate::Pool::apply).
        ///
        /// # Errors
        ///
        /// As for [`Executor::apply`](crate::Executor::apply).
        pub fn apply<F, A, R>($self, function: F, argument: A) -> Result<R, $crate::Error>
        where
            F: Fn($($state,)? A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message,
        {
            $self.apply_async(function, argument)?.get()
        }

        /// See [`Executor::apply_async`](crate::Executor::apply_async), and the example of
        /// [`Pool::apply_async`](crate::Pool::apply_async).
        ///
        /// # Errors
        ///
        /// As for [`Executor::apply_async`](crate::Executor::apply_async).
        pub fn apply_async<F, A, R>(
            $self,
            function: F,
            argument: A,
        ) -> Result<$crate::Task<R>, $crate::Error>
        where
            F: Fn($($state,)? A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message,
        {
            $options.apply_async_named($name(function), argument)
        }

        /// See [`Executor::map_async`](crate::Executor::map_async), and the example of
        /// [`Pool::map_async`](crate::Pool::map_async).
        ///
        /// # Errors
        ///
        /// As for [`Executor::map_async`](crate::Executor::map_async).
        pub fn map_async<F, A, R, I>(
            $self,
            function: F,
            inputs: I,
        ) -> Result<$crate::Task<Vec<R>>, $crate::Error>
        where
            F: Fn($($state,)? A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message + Send,
            I: IntoIterator<Item = A>,
        {
            $options.map_async_named($name(function), inputs)
        }
    };
}
pub(crate) use calls_with_options;

/// The calls. Their names are those of the [`Executor`](crate::Executor).
impl<'a, E: Engine, P: FnMut(Progress)> Options<'a, E, P> {
    calls_with_options! { 'a E, fn(), E::function, |self| self }
}

/// The bodies of the calls. They take the name of a function, with or without a state.
impl<'a, E: Engine, P: FnMut(Progress)> Options<'a, E, P> {
    pub(crate) fn map_named<A: Message, R: Message>(
        self,
        function: Result<E::Function, Error>,
        inputs: impl IntoIterator<Item = A>,
    ) -> Result<Vec<R>, Error> {
        let (outcomes, call) = self.run(function, inputs.into_iter());
        call?;
        outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(|| Err(Error::closed())))
            .collect()
    }

    pub(crate) fn try_map_named<A: Message, R: Message>(
        self,
        function: Result<E::Function, Error>,
        inputs: impl IntoIterator<Item = A>,
    ) -> Vec<Result<R, Error>> {
        let (outcomes, call) = self.run(function, inputs.into_iter());
        let lost = call.err().unwrap_or_else(Error::closed);
        let or_lost = |(task, outcome): (usize, Option<_>)| {
            outcome.unwrap_or_else(|| Err(lost.clone().with_origin(Origin::of_task(task))))
        };
        outcomes.into_iter().enumerate().map(or_lost).collect()
    }

    pub(crate) fn imap_named<A: Message, R: Message, I: IntoIterator<Item = A>>(
        self,
        function: Result<E::Function, Error>,
        inputs: I,
    ) -> Imap<'a, E, R, I::IntoIter> {
        Imap::new(self.imap_unordered_named(function, inputs))
    }

    pub(crate) fn imap_unordered_named<A: Message, R: Message, I: IntoIterator<Item = A>>(
        self,
        function: Result<E::Function, Error>,
        inputs: I,
    ) -> ImapUnordered<'a, E, R, I::IntoIter> {
        ImapUnordered::new(self.begin(function), inputs.into_iter(), self.call.chunksize)
    }

    pub(crate) fn apply_async_named<A: Message, R: Message>(
        mut self,
        function: Result<E::Function, Error>,
        argument: A,
    ) -> Result<Task<R>, Error> {
        self.check_chunksize()?;
        self.call.chunksize = Some(1);
        let mut job = self.begin(function)?;
        job.push(std::slice::from_ref(&argument), usize::MAX)?;
        job.submit(0)?;
        job.end();
        Ok(Task::new(job, |arrived| {
            let mut only = None;
            arrived.decode(|_, result| only = Some(result));
            only
        }))
    }

    pub(crate) fn map_async_named<A: Message, R: Message + Send>(
        self,
        function: Result<E::Function, Error>,
        inputs: impl IntoIterator<Item = A>,
    ) -> Result<Task<Vec<R>>, Error> {
        let mut job = self.begin(function)?;
        for argument in inputs {
            let task = job.pushed();
            job.push(std::slice::from_ref(&argument), usize::MAX)
                .map_err(|error| error.with_origin(Origin::of_task(task)))?;
        }
        let mut unfinished = job.pushed();
        if unfinished == 0 {
            return Ok(Task::settled(Ok(Vec::new())));
        }
        job.submit(0)?;
        job.end();
        let mut results: Vec<Option<Result<R, Error>>> = Vec::new();
        results.resize_with(unfinished, || None);
        Ok(Task::new(job, move |arrived| {
            unfinished -= arrived.count();
            arrived.decode(|task, result| results[task] = Some(result));
            (unfinished == 0).then(|| results.drain(..).flatten().collect())
        }))
    }

    /// Runs a map. Returns the outcomes, and the error with which the call as a whole ended.
    fn run<A: Message, R: Message>(
        self,
        function: Result<E::Function, Error>,
        inputs: impl Iterator<Item = A>,
    ) -> (Outcomes<R>, Result<(), Error>) {
        map::run(self.begin(function), self.call.chunksize, self.progress, inputs)
    }

    fn begin(&self, function: Result<E::Function, Error>) -> Result<E::Job, Error> {
        self.check_chunksize()?;
        self.engine.begin(function?, self.call)
    }

    fn check_chunksize(&self) -> Result<(), Error> {
        match self.call.chunksize {
            Some(0) => {
                Err(Error::invalid("a chunk holds at least one task: chunksize 0 makes none"))
            }
            _ => Ok(()),
        }
    }
}

impl<E, P: Clone> Clone for Options<'_, E, P> {
    fn clone(&self) -> Self {
        Options { engine: self.engine, call: self.call, progress: self.progress.clone() }
    }
}

impl<E, P: Copy> Copy for Options<'_, E, P> {}

impl<E, P> std::fmt::Debug for Options<'_, E, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("call", &self.call).finish_non_exhaustive()
    }
}
