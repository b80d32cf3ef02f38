//! `Options`: the settings of a call, and the bodies of the calls of many tasks.

use std::sync::Arc;
use std::time::Duration;

use super::engine::{Arrived, CallOptions, Engine, Job};
use super::imap::{Imap, ImapUnordered};
use super::map::{self, Outcomes};
use super::progress::{Meter, Progress, ShowProgress};
use super::task::Task;
use crate::error::{Error, Origin};
use crate::wire::Message;

/// The calls of a [`Pool`](crate::Pool) or a cluster (`E`), with settings of their own; returned by
/// `options()`.
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
pub struct Options<'a, E> {
    pub(crate) engine: &'a E,
    pub(crate) call: CallOptions,
    progress: Option<Arc<ShowProgress<'a>>>,
}

impl<'a, E: Engine> Options<'a, E> {
    #[doc(hidden)]
    pub fn new(engine: &'a E) -> Options<'a, E> {
        Options { engine, call: CallOptions::default(), progress: None }
    }
}

/// The settings.
impl<'a, E: Engine> Options<'a, E> {
    /// Sets the chunksize: how many tasks a worker takes at a time. Tasks that the worker has not
    /// taken can go to other workers.
    ///
    /// Without this setting, a pool measures the tasks. It hands a worker tasks for about two
    /// milliseconds, and fewer towards the end of the call. The worker takes a sixty-fourth of them
    /// at a time. `imap` and `imap_unordered`, whose inputs may come slowly, take one task at a
    /// time, as Python's do. A cluster makes chunks of about ten milliseconds. Chunks of an
    /// explicit size that take almost no time are still sent together.
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
    /// a cluster loses a machine, the machine's tasks run on another one, and that uses no retry.
    /// (A task fails if three machines in turn were lost while they had it.)
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

    /// Sets how long a task may go on after it was asked to stop. Without this setting, it may not.
    ///
    /// A task is asked to stop when its time is over ([`timeout`](Options::timeout)), when its call
    /// is [cancelled](crate::Task::cancel), or when its pool is ended. Then
    /// [`Current::stop_requested`](crate::Current::stop_requested) is true in the task, and its
    /// worker gets the signal that [`PoolBuilder::stop_signal`](crate::PoolBuilder::stop_signal)
    /// sets. A value that the task returns within the grace period is its result. When the period
    /// is over, the worker is killed.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// fn count_until_stopped(_: ()) -> u64 {
    ///     let mut count = 0;
    ///     while !proc_core::current().stop_requested() {
    ///         count += 1;
    ///     }
    ///     count
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = proc_core::Pool::builder().processes(1).build()?;
    ///     let options = pool.options().timeout(Duration::from_millis(50));
    ///     let options = options.grace(Duration::from_secs(10));
    ///     assert!(options.apply(count_until_stopped, ())? > 0); // what it had by then
    ///     Ok(())
    /// }
    /// ```
    pub fn grace(mut self, period: Duration) -> Self {
        self.call.grace = Some(period);
        self
    }

    /// Sets the priority of the call: a number from -100 to 100. The default is 0.
    ///
    /// Workers begin no task of a call while tasks of a call with a higher priority wait, with
    /// three exceptions: a worker goes on with tasks that it has taken together (see
    /// [`chunksize`](Options::chunksize)); it runs its task of a
    /// [`broadcast`](crate::Pool::broadcast) before all others; and tasks that run again, because
    /// they failed or their worker died, wait for a few chunks that were handed out before. Calls
    /// of the same priority get the same share of the workers' time, however many tasks they have.
    ///
    /// # Examples
    ///
    /// ```
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = proc_core::Pool::builder().processes(2).build()?;
    ///     let report = pool.options().priority(-1).map_async(|x: u64| x * x, 0..10_000)?;
    ///     let answer = pool.apply(|x: u64| x + 1, 41)?; // does not wait for the report
    ///     assert_eq!((answer, report.get()?.len()), (42, 10_000));
    ///     Ok(())
    /// }
    /// ```
    pub fn priority(mut self, priority: i32) -> Self {
        self.call.priority = priority;
        self
    }

    /// Sets the number from which the [seeds](crate::Current::seed) of the call's tasks are made.
    ///
    /// The seed of a task depends on this number and on the index of the task's input alone. So
    /// results do not depend on which worker has run a task, or on how often it was tried. Without
    /// this setting, each task gets a seed that nobody can predict.
    ///
    /// # Examples
    ///
    /// ```
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = proc_core::Pool::builder().processes(2).build()?;
    ///     let draw = |sides: u64| 1 + proc_core::current().seed() % sides;
    ///     let first = pool.options().seed(7).map(draw, [6; 10])?;
    ///     let again = pool.options().seed(7).map(draw, [6; 10])?;
    ///     assert_eq!(first, again);
    ///     Ok(())
    /// }
    /// ```
    pub fn seed(mut self, seed: u64) -> Self {
        self.call.seed = Some(seed);
        self
    }

    /// Ends the call with the first task that fails. Without this setting, all inputs run.
    ///
    /// Chunks that no worker has begun do not run. Those that are running end by themselves in a
    /// pool, and are stopped in a cluster; their results are dropped. `map` returns the error of
    /// the task that failed first; `try_map` returns an error for each input that has no result,
    /// which says that it was cancelled; for the iterators of `imap` and `imap_unordered`, the
    /// error is the last item.
    ///
    /// # Examples
    ///
    /// ```
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = proc_core::Pool::builder().processes(1).build()?;
    ///     let quotients = pool.options().fail_fast().map(|x: u32| 12 / x, (0..1_000_000).rev());
    ///     assert!(quotients.is_err_and(|error| error.task() == Some(999_999)));
    ///     Ok(())
    /// }
    /// ```
    pub fn fail_fast(mut self) -> Self {
        self.call.fail_fast = true;
        self
    }

    /// Sets a function that [`map`](Options::map), [`try_map`](Options::try_map) and the iterators
    /// of [`imap`](Options::imap) and [`imap_unordered`](Options::imap_unordered) call when they
    /// begin, whenever results have arrived, and when they end. It runs in the calling thread. If
    /// two threads make calls with the same options, one waits while the other is in the function.
    /// So the function must not wait for a thread that makes a call with the same options.
    ///
    /// With the cargo feature `progress`, `progress_bar()` makes a function that shows a bar.
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
    pub fn progress(mut self, show: impl FnMut(Progress) + Send + 'a) -> Self {
        self.progress = Some(ShowProgress::new(show));
        self
    }
}

/// What a call runs: a function, and the data that it borrows.
pub(crate) struct Target<E: Engine> {
    pub(crate) function: E::Function,
    pub(crate) data: Option<E::Data>,
}

/// Declares the calls of a type that has options. Their functions may borrow values of the types
/// `$borrowed` before the argument. `$options` are the type's [`Options`]. The type's method
/// `target` makes a [`Target`] of a function.
macro_rules! calls_with_options {
    ($a:lifetime $engine:ty, fn($($borrowed:ty),*), |$self:ident| $options:expr) => {
        /// See [`Executor::map`](crate::Executor::map), and the example of
        /// [`Pool::map`](crate::Pool::map).
        ///
        /// # Errors
        ///
        /// As for [`Executor::map`](crate::Executor::map); or a setting is invalid.
        pub fn map<F, A, R, I>(&$self, function: F, inputs: I) -> Result<Vec<R>, $crate::Error>
        where
            F: Fn($($borrowed,)* A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message,
            I: IntoIterator<Item = A>,
        {
            $options.map_target($self.target(function), inputs)
        }

        /// See [`Executor::try_map`](crate::Executor::try_map), and the example of
        /// [`Pool::try_map`](crate::Pool::try_map). If a setting is invalid, each input gets that
        /// error.
        pub fn try_map<F, A, R, I>(
            &$self,
            function: F,
            inputs: I,
        ) -> Vec<Result<R, $crate::Error>>
        where
            F: Fn($($borrowed,)* A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message,
            I: IntoIterator<Item = A>,
        {
            $options.try_map_target($self.target(function), inputs)
        }

        /// See [`Executor::imap`](crate::Executor::imap), and the example of
        /// [`Pool::imap`](crate::Pool::imap).
        pub fn imap<F, A, R, I>(
            &$self,
            function: F,
            inputs: I,
        ) -> $crate::Imap<$a, $engine, R, I::IntoIter>
        where
            F: Fn($($borrowed,)* A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message,
            I: IntoIterator<Item = A>,
        {
            $options.imap_target($self.target(function), inputs)
        }

        /// See [`Executor::imap_unordered`](crate::Executor::imap_unordered), and the example of
        /// [`Pool::imap_unordered`](crate::Pool::imap_unordered).
        pub fn imap_unordered<F, A, R, I>(
            &$self,
            function: F,
            inputs: I,
        ) -> $crate::ImapUnordered<$a, $engine, R, I::IntoIter>
        where
            F: Fn($($borrowed,)* A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message,
            I: IntoIterator<Item = A>,
        {
            $options.imap_unordered_target($self.target(function), inputs)
        }

        /// See [`Executor::apply`](crate::Executor::apply), and the example of
        /// [`Pool::apply`](crate::Pool::apply).
        ///
        /// # Errors
        ///
        /// As for [`Executor::apply`](crate::Executor::apply).
        pub fn apply<F, A, R>(&$self, function: F, argument: A) -> Result<R, $crate::Error>
        where
            F: Fn($($borrowed,)* A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message,
        {
            $options.apply_target($self.target(function), argument)
        }

        /// See [`Executor::apply_async`](crate::Executor::apply_async), and the example of
        /// [`Pool::apply_async`](crate::Pool::apply_async).
        ///
        /// # Errors
        ///
        /// As for [`Executor::apply_async`](crate::Executor::apply_async).
        pub fn apply_async<F, A, R>(
            &$self,
            function: F,
            argument: A,
        ) -> Result<$crate::Task<R>, $crate::Error>
        where
            F: Fn($($borrowed,)* A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message,
        {
            $options.apply_async_target($self.target(function), argument)
        }

        /// Like [`apply_async`](Self::apply_async), but gives the argument back if the pool has no
        /// room for another task. See [`Pool::try_apply_async`](crate::Pool::try_apply_async).
        ///
        /// # Errors
        ///
        /// As for [`Executor::apply_async`](crate::Executor::apply_async).
        pub fn try_apply_async<F, A, R>(
            &$self,
            function: F,
            argument: A,
        ) -> Result<Result<$crate::Task<R>, A>, $crate::Error>
        where
            F: Fn($($borrowed,)* A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message,
        {
            $options.try_apply_async_target($self.target(function), argument)
        }

        /// See [`Executor::map_async`](crate::Executor::map_async), and the example of
        /// [`Pool::map_async`](crate::Pool::map_async).
        ///
        /// # Errors
        ///
        /// As for [`Executor::map_async`](crate::Executor::map_async).
        pub fn map_async<F, A, R, I>(
            &$self,
            function: F,
            inputs: I,
        ) -> Result<$crate::Task<Vec<R>>, $crate::Error>
        where
            F: Fn($($borrowed,)* A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message + Send,
            I: IntoIterator<Item = A>,
        {
            $options.map_async_target($self.target(function), inputs)
        }
    };
}
pub(crate) use calls_with_options;

/// The calls. Their names are those of the [`Executor`](crate::Executor).
impl<'a, E: Engine> Options<'a, E> {
    calls_with_options! { 'a E, fn(), |self| self }

    pub(crate) fn target<F, A, R>(&self, function: F) -> Result<Target<E>, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        Ok(Target { function: E::function(function)?, data: None })
    }
}

/// The bodies of the calls of many tasks. They take a [`Target`], with or without data.
impl<'a, E: Engine> Options<'a, E> {
    pub(crate) fn map_target<A: Message, R: Message>(
        &self,
        target: Result<Target<E>, Error>,
        inputs: impl IntoIterator<Item = A>,
    ) -> Result<Vec<R>, Error> {
        let (outcomes, call) = self.run(target, inputs.into_iter());
        call?;
        outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(|| Err(Error::closed())))
            .collect()
    }

    pub(crate) fn try_map_target<A: Message, R: Message>(
        &self,
        target: Result<Target<E>, Error>,
        inputs: impl IntoIterator<Item = A>,
    ) -> Vec<Result<R, Error>> {
        let mut inputs = inputs.into_iter();
        let (mut outcomes, call) = self.run(target, inputs.by_ref());
        if call.is_err() {
            outcomes.resize_with(outcomes.len() + inputs.count(), || None);
        }
        let ended_early = self.call.fail_fast && outcomes.iter().flatten().any(Result::is_err);
        let lost = match call {
            Err(error) if !ended_early => error,
            Err(_) => Error::cancelled(),
            Ok(()) => Error::closed(),
        };
        let or_lost = |(task, outcome): (usize, Option<_>)| {
            outcome.unwrap_or_else(|| Err(lost.clone().with_origin(Origin::of_task(task))))
        };
        outcomes.into_iter().enumerate().map(or_lost).collect()
    }

    pub(crate) fn imap_target<A: Message, R: Message, I: IntoIterator<Item = A>>(
        &self,
        target: Result<Target<E>, Error>,
        inputs: I,
    ) -> Imap<'a, E, R, I::IntoIter> {
        Imap::new(self.imap_unordered_target(target, inputs))
    }

    pub(crate) fn imap_unordered_target<A: Message, R: Message, I: IntoIterator<Item = A>>(
        &self,
        target: Result<Target<E>, Error>,
        inputs: I,
    ) -> ImapUnordered<'a, E, R, I::IntoIter> {
        let meter = Meter::new(self.progress.clone());
        ImapUnordered::new(self.begin(target, self.call), inputs.into_iter(), self.call, meter)
    }

    pub(crate) fn map_async_target<A: Message, R: Message + Send>(
        &self,
        target: Result<Target<E>, Error>,
        inputs: impl IntoIterator<Item = A>,
    ) -> Result<Task<Vec<R>>, Error> {
        let mut job = self.begin(target, self.call)?;
        for argument in inputs {
            let task = job.pushed();
            job.push(std::slice::from_ref(&argument), usize::MAX)
                .map_err(|error| error.with_origin(Origin::of_task(task)))?;
        }
        let mut unfinished = job.pushed();
        job.reserve(unfinished, true)?;
        if unfinished == 0 {
            return Ok(Task::settled(Ok(Vec::new())));
        }
        job.submit(0)?;
        job.end();
        let mut results: Vec<Option<Result<R, Error>>> = Vec::new();
        results.resize_with(unfinished, || None);
        let fail_fast = self.call.fail_fast;
        Ok(Task::new(job, move |arrived| {
            unfinished -= arrived.count();
            let mut failure = None;
            arrived.decode(|task, result| match result {
                Err(error) if fail_fast => failure = failure.take().or(Some(error)),
                result => results[task] = Some(result),
            });
            if let Some(error) = failure {
                return Some(Err(error));
            }
            (unfinished == 0).then(|| results.drain(..).flatten().collect())
        }))
    }

    /// Runs a map. Returns the outcomes, and the error with which the call as a whole ended.
    fn run<A: Message, R: Message>(
        &self,
        target: Result<Target<E>, Error>,
        inputs: impl Iterator<Item = A>,
    ) -> (Outcomes<R>, Result<(), Error>) {
        let meter = Meter::new(self.progress.clone());
        map::run(self.begin(target, self.call), self.call, meter, inputs)
    }

    pub(super) fn begin(
        &self,
        target: Result<Target<E>, Error>,
        call: CallOptions,
    ) -> Result<E::Job, Error> {
        self.call.check()?;
        let Target { function, data } = target?;
        self.engine.begin(function, data, call)
    }
}

impl<E> Clone for Options<'_, E> {
    fn clone(&self) -> Self {
        Options { engine: self.engine, call: self.call, progress: self.progress.clone() }
    }
}

impl<E> std::fmt::Debug for Options<'_, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("call", &self.call).finish_non_exhaustive()
    }
}
