//! The progress of a call: what it counts, and the function that shows it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// The function that shows the progress of a call. The clones of the call's options share it.
pub(super) struct ShowProgress<'a> {
    show: Mutex<Box<dyn FnMut(Progress) + Send + 'a>>,
    /// The thread that calls the function now.
    caller: Mutex<Option<ThreadId>>,
}

impl<'a> ShowProgress<'a> {
    pub(super) fn new(show: impl FnMut(Progress) + Send + 'a) -> Arc<ShowProgress<'a>> {
        Arc::new(ShowProgress { show: Mutex::new(Box::new(show)), caller: Mutex::default() })
    }

    /// Calls the function. Waits while another thread calls it.
    fn tell(&self, progress: Progress) {
        let this_thread = Some(std::thread::current().id());
        // If the function itself makes a call with the same options, that call shows nothing.
        if *self.caller() == this_thread {
            return;
        }
        // The function may have panicked in an earlier call.
        let mut show = self.show.lock().unwrap_or_else(PoisonError::into_inner);
        *self.caller() = this_thread;
        let told = catch_unwind(AssertUnwindSafe(|| show(progress)));
        *self.caller() = None;
        drop(show);
        told.unwrap_or_else(|panic| resume_unwind(panic));
    }

    fn caller(&self) -> MutexGuard<'_, Option<ThreadId>> {
        self.caller.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The progress of a call, counted in tasks; given to the function that
/// [`progress`](crate::Options::progress) sets.
///
/// ```
/// use proc_core::{Pool, Progress};
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let pool = Pool::builder().processes(2).build()?;
///     let show = |Progress { done, all, .. }: Progress| eprint!("\r{done} of {all}");
///     let squares = pool.options().progress(show).map(|x: u64| x * x, 0..1000)?;
///     assert_eq!(squares[999], 998_001);
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// How many tasks have a result or an error.
    pub done: usize,
    /// How many tasks the call has, as far as is known: all inputs that were taken, and those that
    /// the iterator's `size_hint` promises.
    pub all: usize,
    /// How many of the tasks that are done have an error.
    pub failed: usize,
    /// How many times a task that failed was tried again. A cluster also counts the tasks that it
    /// has handed out again because a machine returned or lost them. It does not count those that a
    /// machine returned because all its workers were busy.
    pub retried: usize,
    /// How long ago the call began.
    pub elapsed: Duration,
    /// Whether no more than `all` tasks will come.
    pub(super) is_all: bool,
    /// Whether the call has ended.
    pub(super) is_over: bool,
}

impl Progress {
    /// How many tasks were done in a second, on average.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::{Pool, Progress};
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(2).build()?;
    ///     let show = |progress: Progress| eprint!("\r{:.0} tasks a second", progress.rate());
    ///     let squares = pool.options().progress(show).map(|x: u64| x * x, 0..1000)?;
    ///     assert_eq!(squares[999], 998_001);
    ///     Ok(())
    /// }
    /// ```
    pub fn rate(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// How long the other tasks will take, if they are as fast as those that are done.
    ///
    /// Returns `None` if no task is done yet, or if the number of inputs is not known: the
    /// iterator's `size_hint` is not exact.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use proc_core::{Pool, Progress};
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(2).build()?;
    ///     let mut last = None;
    ///     let show = |progress: Progress| last = progress.remaining();
    ///     pool.options().progress(show).map(|x: u64| x * x, 0..1000)?;
    ///     assert_eq!(last, Some(Duration::ZERO)); // all are done
    ///     Ok(())
    /// }
    /// ```
    pub fn remaining(&self) -> Option<Duration> {
        let left = self.all.saturating_sub(self.done) as f64;
        (self.is_all && self.done > 0)
            .then(|| Duration::try_from_secs_f64(left / self.rate()).unwrap_or(Duration::MAX))
    }

    /// Whether the call has ended, so that this is the last that the function is told of it.
    ///
    /// Tasks may be missing then: the call has ended with an error, or its iterator was dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::{Pool, Progress};
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(2).build()?;
    ///     let show = |progress: Progress| match progress.is_over() {
    ///         false => eprint!("\r{} tasks are done", progress.done),
    ///         true => eprintln!(),
    ///     };
    ///     let sum: u64 = pool.options().progress(show).imap(|x: u64| x, 1..=4).flatten().sum();
    ///     assert_eq!(sum, 10);
    ///     Ok(())
    /// }
    /// ```
    pub fn is_over(&self) -> bool {
        self.is_over
    }
}

/// Counts the failures of a call, and shows its progress.
pub(super) struct Meter<'a> {
    show: Option<Arc<ShowProgress<'a>>>,
    began: Instant,
    failed: usize,
    /// What was shown last, if the call has begun and has not ended.
    last: Option<Progress>,
}

impl<'a> Meter<'a> {
    pub(super) fn new(show: Option<Arc<ShowProgress<'a>>>) -> Meter<'a> {
        Meter { show, began: Instant::now(), failed: 0, last: None }
    }

    /// Counts tasks that failed.
    pub(super) fn add_failed(&mut self, tasks: usize) {
        self.failed += tasks;
    }

    /// Shows the progress: of `taken` inputs, `done` have a result or an error, and `more` is the
    /// `size_hint` of the others.
    pub(super) fn show(
        &mut self,
        done: usize,
        taken: usize,
        more: (usize, Option<usize>),
        retried: impl FnOnce() -> usize,
    ) {
        if self.show.is_none() {
            return;
        }
        let progress = Progress {
            done,
            all: taken.saturating_add(more.0),
            failed: self.failed,
            retried: retried(),
            elapsed: self.began.elapsed(),
            is_all: more.1 == Some(more.0),
            is_over: false,
        };
        self.last = Some(progress);
        self.tell(progress);
    }

    /// Shows that the call has ended.
    pub(super) fn end(&mut self) {
        if let Some(last) = self.last.take() {
            self.tell(Progress { elapsed: self.began.elapsed(), is_over: true, ..last });
        }
    }

    fn tell(&self, progress: Progress) {
        if let Some(show) = &self.show {
            show.tell(progress);
        }
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        // The function might panic too, and a second panic would abort the program.
        if !std::thread::panicking() {
            self.end();
        }
    }
}
