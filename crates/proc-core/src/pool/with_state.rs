//! Calls of functions that borrow the worker's state.

use super::engine::PoolFunction;
use super::{Pool, worker};
use crate::error::Error;
use crate::executor::{Imap, ImapUnordered, Options, Progress, Task};
use crate::wire::Message;

/// The calls of a pool, for functions that borrow the worker's state; returned by
/// [`Pool::with_state`](crate::Pool::with_state).
///
/// Each call does the same as the call of [`Pool`](crate::Pool) with that name.
#[must_use = "it does nothing without a call"]
pub struct WithState<'a, S, P = fn(Progress)> {
    options: Options<'a, Pool<S>, P>,
}

/// Returns the name of a function that borrows the worker's state.
fn function_of<F, S, A, R>(_: F) -> Result<PoolFunction, Error>
where
    F: Fn(&mut S, A) -> R + Copy + 'static,
    S: 'static,
    A: Message,
    R: Message,
{
    let name = worker::stateful_task::<F, S, A, R>().map_err(Error::invalid)?;
    Ok(PoolFunction(name))
}

impl<S> Pool<S> {
    /// Returns the calls for functions that borrow the worker's state, beside their argument.
    ///
    /// [`PoolBuilder::state`](crate::PoolBuilder::state) makes the state; without it, the state is
    /// `()`. A worker runs one task at a time, so no lock is needed. If a task panics, its worker's
    /// state may be half changed: it is dropped, and made again before the next task.
    ///
    /// ```
    /// # fn main() -> Result<(), proc_core::Error> {
    /// # proc_core::init();
    /// use std::collections::HashMap;
    ///
    /// let pool = proc_core::Pool::builder()
    ///     .processes(2)
    ///     .state(|seed: u64| HashMap::from([(0, seed)]), 7)
    ///     .build()?;
    /// let cached = |cache: &mut HashMap<u64, u64>, x: u64| *cache.entry(x).or_insert(x * x);
    /// assert_eq!(pool.with_state().map(cached, [3, 0])?, [9, 7]);
    /// assert_eq!(pool.with_state().apply(cached, 4)?, 16);
    /// assert_eq!(pool.map(|x: u64| x + 1, [1])?, [2]); // needs no state
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_state(&self) -> WithState<'_, S> {
        self.options().with_state()
    }
}

impl<'a, S, P> Options<'a, Pool<S>, P> {
    /// Returns the calls for functions that borrow the worker's state, with the same settings.
    ///
    /// See [`Pool::with_state`](crate::Pool::with_state).
    pub fn with_state(self) -> WithState<'a, S, P> {
        WithState { options: self }
    }
}

impl<'a, S: 'static, P: FnMut(Progress)> WithState<'a, S, P> {
    /// See [`Pool::map`](crate::Pool::map).
    ///
    /// # Errors
    ///
    /// As for [`Pool::map`](crate::Pool::map); or the chunksize is zero.
    pub fn map<F, A, R, I>(self, function: F, inputs: I) -> Result<Vec<R>, Error>
    where
        F: Fn(&mut S, A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        self.options.map_named(function_of(function), inputs)
    }

    /// See [`Pool::try_map`](crate::Pool::try_map). If the chunksize is zero, each input gets that
    /// error.
    pub fn try_map<F, A, R, I>(self, function: F, inputs: I) -> Vec<Result<R, Error>>
    where
        F: Fn(&mut S, A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        self.options.try_map_named(function_of(function), inputs)
    }

    /// See [`Pool::imap`](crate::Pool::imap).
    pub fn imap<F, A, R, I>(self, function: F, inputs: I) -> Imap<'a, Pool<S>, R, I::IntoIter>
    where
        F: Fn(&mut S, A) -> R + Copy + 'static,
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
    ) -> ImapUnordered<'a, Pool<S>, R, I::IntoIter>
    where
        F: Fn(&mut S, A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        self.options.imap_unordered_named(function_of(function), inputs)
    }

    /// See [`Pool::apply`](crate::Pool::apply).
    ///
    /// # Errors
    ///
    /// As for [`Pool::apply`](crate::Pool::apply).
    pub fn apply<F, A, R>(self, function: F, argument: A) -> Result<R, Error>
    where
        F: Fn(&mut S, A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        self.apply_async(function, argument)?.get()
    }

    /// See [`Pool::apply_async`](crate::Pool::apply_async).
    ///
    /// # Errors
    ///
    /// As for [`Pool::apply_async`](crate::Pool::apply_async).
    pub fn apply_async<F, A, R>(self, function: F, argument: A) -> Result<Task<R>, Error>
    where
        F: Fn(&mut S, A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        self.options.apply_async_named(function_of(function), argument)
    }

    /// See [`Pool::map_async`](crate::Pool::map_async).
    ///
    /// # Errors
    ///
    /// As for [`Pool::map_async`](crate::Pool::map_async).
    pub fn map_async<F, A, R, I>(self, function: F, inputs: I) -> Result<Task<Vec<R>>, Error>
    where
        F: Fn(&mut S, A) -> R + Copy + 'static,
        A: Message,
        R: Message + Send,
        I: IntoIterator<Item = A>,
    {
        self.options.map_async_named(function_of(function), inputs)
    }
}

impl<S, P: Clone> Clone for WithState<'_, S, P> {
    fn clone(&self) -> Self {
        WithState { options: self.options.clone() }
    }
}

impl<S, P: Copy> Copy for WithState<'_, S, P> {}

impl<S, P> std::fmt::Debug for WithState<'_, S, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("WithState").field(&self.options).finish()
    }
}
