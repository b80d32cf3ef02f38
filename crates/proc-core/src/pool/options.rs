//! Calls, with their settings.

use std::time::Duration;

use super::imap::{Imap, ImapUnordered};
use super::job::{Delivery, Feed, Inbox, Terms};
use super::map::{self, Fates};
use super::{Pool, Task};
use crate::error::{Error, Place};
use crate::function::{Message, Name, refuse_captures};

/// A pool's calls with settings of their own; made by [`Pool::options`].
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
#[derive(Clone, Copy, Debug)]
#[must_use = "settings do nothing without a call"]
pub struct Options<'a> {
    pool: &'a Pool,
    chunksize: Option<usize>,
    terms: Terms,
}

impl<'a> Options<'a> {
    pub(super) fn new(pool: &'a Pool) -> Options<'a> {
        Options { pool, chunksize: None, terms: Terms::default() }
    }

    /// How many tasks a worker takes at a time.
    ///
    /// Without it the pool measures, and makes chunks of about a millisecond that shrink towards
    /// the end. Zero is an error of the call.
    pub fn chunksize(mut self, tasks: usize) -> Self {
        self.chunksize = Some(tasks);
        self
    }

    /// How long each task may run, from when a worker calls its function.
    ///
    /// When it is over the worker is killed and replaced, and the task fails ([`Error::is_timeout`]).
    /// A task that this worker has begun in the meantime, microseconds ago, is begun anew elsewhere.
    pub fn timeout(mut self, each: Duration) -> Self {
        self.terms.timeout = Some(each);
        self
    }

    /// How often a task is tried again that panicked, whose worker died, or that ran out of time.
    ///
    /// Without it, never. A task whose arguments hold channel ends is not tried again: they are gone.
    pub fn retries(mut self, times: u32) -> Self {
        self.terms.retries = times;
        self
    }

    /// See [`Pool::map`].
    ///
    /// # Errors
    ///
    /// As for [`Pool::map`], and a chunksize of zero.
    pub fn map<F, A, R, I>(self, function: F, inputs: I) -> Result<Vec<R>, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        let (results, call) = self.run(function, inputs);
        call?;
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(Error::closed()))).collect()
    }

    /// See [`Pool::try_map`]. A chunksize of zero is every input's error.
    pub fn try_map<F, A, R, I>(self, function: F, inputs: I) -> Vec<Result<R, Error>>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        let (results, call) = self.run(function, inputs);
        let lost = call.err().unwrap_or_else(Error::closed);
        let fill = |(task, result): (usize, Option<_>)| {
            let place = Place { task: Some(task), ..Place::default() };
            result.unwrap_or_else(|| Err(lost.clone().at(place)))
        };
        results.into_iter().enumerate().map(fill).collect()
    }

    fn run<F, A, R, I>(self, function: F, inputs: I) -> (Fates<R>, Result<(), Error>)
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        refuse_captures!(F);
        let _ = function;
        let name = self.checked().and_then(|()| Name::of::<F, A, R>().map_err(Error::invalid));
        map::run(&self.pool.crew, self.terms, self.chunksize, name, inputs.into_iter())
    }

    /// See [`Pool::imap`].
    pub fn imap<F, A, R, I>(self, function: F, inputs: I) -> Imap<'a, F, R, I::IntoIter>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        Imap::new(self.imap_unordered(function, inputs))
    }

    /// See [`Pool::imap_unordered`].
    pub fn imap_unordered<F, A, R, I>(
        self,
        function: F,
        inputs: I,
    ) -> ImapUnordered<'a, F, R, I::IntoIter>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        refuse_captures!(F);
        let _ = function;
        let name = self.checked().and_then(|()| Name::of::<F, A, R>().map_err(Error::invalid));
        let inbox = Inbox::new(self.terms);
        ImapUnordered::new(&self.pool.crew, inbox, name, inputs.into_iter(), self.chunksize)
    }

    /// See [`Pool::apply_async`].
    ///
    /// # Errors
    ///
    /// As for [`Pool::apply_async`].
    pub fn apply_async<F, A, R>(self, function: F, argument: A) -> Result<Task<R>, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        refuse_captures!(F);
        let _ = function;
        self.checked()?;
        let inbox = Inbox::new(self.terms);
        let name = Name::of::<F, A, R>().map_err(Error::invalid)?;
        let mut feed = Feed::new(name, &inbox, 0, Some(1));
        feed.push(&argument)?;
        self.pool.crew.submit(feed)?;
        let gather = |delivery: Delivery| {
            let mut only = None;
            delivery.open(|_, result| only = Some(result));
            only
        };
        Ok(Task::new(&self.pool.crew, inbox, Box::new(gather)))
    }

    /// See [`Pool::map_async`].
    ///
    /// # Errors
    ///
    /// As for [`Pool::map_async`].
    pub fn map_async<F, A, R, I>(self, function: F, inputs: I) -> Result<Task<Vec<R>>, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message + Send,
        I: IntoIterator<Item = A>,
    {
        refuse_captures!(F);
        let _ = function;
        self.checked()?;
        let inbox = Inbox::new(self.terms);
        let name = Name::of::<F, A, R>().map_err(Error::invalid)?;
        let mut feed = Feed::new(name, &inbox, 0, self.chunksize);
        for argument in inputs {
            let place = Place { task: Some(feed.left), ..Place::default() };
            feed.push(&argument).map_err(|error| error.at(place))?;
        }
        let mut open = feed.left;
        if open == 0 {
            return Ok(Task::settled(&self.pool.crew, inbox, Ok(Vec::new())));
        }
        let mut results: Vec<Option<Result<R, Error>>> = Vec::new();
        results.resize_with(open, || None);
        let gather = move |delivery: Delivery| {
            open -= delivery.count();
            delivery.open(|task, result| results[task] = Some(result));
            (open == 0).then(|| results.drain(..).flatten().collect())
        };
        self.pool.crew.submit(feed)?;
        Ok(Task::new(&self.pool.crew, inbox, Box::new(gather)))
    }

    fn checked(&self) -> Result<(), Error> {
        if self.chunksize == Some(0) {
            return Err(Error::invalid("a chunk holds at least one task: chunksize 0 makes none"));
        }
        Ok(())
    }
}
