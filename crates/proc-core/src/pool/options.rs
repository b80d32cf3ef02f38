//! Calls, with their settings.

use std::marker::PhantomData;
use std::time::Duration;

use super::{Task, WithState};
use crate::error::Error;
use crate::pool::calls::{Call, Imap, ImapUnordered};
use crate::pool::worker;
use crate::wire::Message;

/// A pool's calls with settings of their own; made by [`Pool::options`](crate::Pool::options).
///
/// ```
/// # fn main() -> Result<(), proc_core::Error> {
/// # proc_core::init();
/// let pool = proc_core::Pool::builder().processes(2).build()?;
/// let lengths = pool.options().chunksize(2).map(|s: String| s.len(), ["a", "bc"].map(String::from))?;
/// assert_eq!(lengths, [1, 2]);
/// # Ok(())
/// # }
/// ```
#[must_use = "settings do nothing without a call"]
pub struct Options<'a, S = ()> {
    call: Call<'a>,
    state: PhantomData<fn() -> S>,
}

impl<'a, S> Options<'a, S> {
    pub(super) fn new(call: Call<'a>) -> Options<'a, S> {
        Options { call, state: PhantomData }
    }

    /// The same settings for calls of functions that are lent the worker's state.
    ///
    /// See [`Pool::with_state`](crate::Pool::with_state).
    pub fn with_state(self) -> WithState<'a, S> {
        WithState::new(self.call)
    }

    /// How many tasks a worker takes at a time: what it has not taken, another that is idle gets.
    ///
    /// Without it the pool measures, and makes chunks of about two milliseconds that shrink towards
    /// the end, which are shared out in eighths; `imap` and `imap_unordered`, which may be fed
    /// slowly, take one at a time, as Python's do. Zero is an error of the call.
    pub fn chunksize(mut self, tasks: usize) -> Self {
        self.call.chunksize = Some(tasks);
        self
    }

    /// How long each task may run, from when a worker calls its function.
    ///
    /// When it is over the worker is killed and replaced, and the task fails
    /// ([`Error::is_timeout`]). A task that this worker has begun in the meantime, microseconds
    /// ago, is begun anew elsewhere.
    pub fn timeout(mut self, each: Duration) -> Self {
        self.call.options.timeout = Some(each);
        self
    }

    /// How often a task is tried again that panicked, whose worker died, or that ran out of time.
    ///
    /// Without it, never. A task whose arguments hold channel ends is not tried again: they are
    /// gone.
    pub fn retries(mut self, times: u32) -> Self {
        self.call.options.retries = times;
        self
    }

    /// See [`Pool::map`](crate::Pool::map).
    ///
    /// # Errors
    ///
    /// As for [`Pool::map`](crate::Pool::map), and a chunksize of zero.
    pub fn map<F, A, R, I>(self, function: F, inputs: I) -> Result<Vec<R>, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        let _ = function;
        self.call.map(worker::task::<F, A, R>(), inputs)
    }

    /// See [`Pool::try_map`](crate::Pool::try_map). A chunksize of zero is every input's error.
    pub fn try_map<F, A, R, I>(self, function: F, inputs: I) -> Vec<Result<R, Error>>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        let _ = function;
        self.call.try_map(worker::task::<F, A, R>(), inputs)
    }

    /// See [`Pool::imap`](crate::Pool::imap).
    pub fn imap<F, A, R, I>(self, function: F, inputs: I) -> Imap<'a, R, I::IntoIter>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        Imap::new(self.imap_unordered(function, inputs))
    }

    /// See [`Pool::imap_unordered`](crate::Pool::imap_unordered).
    pub fn imap_unordered<F, A, R, I>(
        self,
        function: F,
        inputs: I,
    ) -> ImapUnordered<'a, R, I::IntoIter>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        let _ = function;
        self.call.imap_unordered(worker::task::<F, A, R>(), inputs)
    }

    /// See [`Pool::apply_async`](crate::Pool::apply_async).
    ///
    /// # Errors
    ///
    /// As for [`Pool::apply_async`](crate::Pool::apply_async).
    pub fn apply_async<F, A, R>(self, function: F, argument: A) -> Result<Task<R>, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        let _ = function;
        self.call.apply_async(worker::task::<F, A, R>(), argument)
    }

    /// See [`Pool::map_async`](crate::Pool::map_async).
    ///
    /// # Errors
    ///
    /// As for [`Pool::map_async`](crate::Pool::map_async).
    pub fn map_async<F, A, R, I>(self, function: F, inputs: I) -> Result<Task<Vec<R>>, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message + Send,
        I: IntoIterator<Item = A>,
    {
        let _ = function;
        self.call.map_async(worker::task::<F, A, R>(), inputs)
    }
}

impl<S> Clone for Options<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Options<'_, S> {}

impl<S> std::fmt::Debug for Options<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("chunksize", &self.call.chunksize)
            .field("terms", &self.call.options)
            .finish_non_exhaustive()
    }
}
