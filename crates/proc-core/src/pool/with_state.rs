//! Calls of functions that are lent their worker's state.

use std::marker::PhantomData;

use super::Task;
use crate::error::Error;
use crate::pool::calls::{Call, Imap, ImapUnordered};
use crate::pool::worker;
use crate::wire::Message;

/// A pool's calls for functions that are lent the worker's state; made by
/// [`Pool::with_state`](crate::Pool::with_state).
///
/// Each call is that of [`Pool`](crate::Pool) with the same name.
#[must_use = "it does nothing without a call"]
pub struct WithState<'a, S> {
    call: Call<'a>,
    state: PhantomData<fn() -> S>,
}

impl<'a, S> WithState<'a, S> {
    pub(super) fn new(call: Call<'a>) -> WithState<'a, S> {
        WithState { call, state: PhantomData }
    }
}

impl<'a, S: 'static> WithState<'a, S> {
    /// See [`Pool::map`](crate::Pool::map).
    ///
    /// # Errors
    ///
    /// As for [`Pool::map`](crate::Pool::map), and a chunksize of zero.
    pub fn map<F, A, R, I>(self, function: F, inputs: I) -> Result<Vec<R>, Error>
    where
        F: Fn(&mut S, A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        let _ = function;
        self.call.map(worker::stateful_task::<F, S, A, R>(), inputs)
    }

    /// See [`Pool::try_map`](crate::Pool::try_map). A chunksize of zero is every input's error.
    pub fn try_map<F, A, R, I>(self, function: F, inputs: I) -> Vec<Result<R, Error>>
    where
        F: Fn(&mut S, A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        let _ = function;
        self.call.try_map(worker::stateful_task::<F, S, A, R>(), inputs)
    }

    /// See [`Pool::imap`](crate::Pool::imap).
    pub fn imap<F, A, R, I>(self, function: F, inputs: I) -> Imap<'a, R, I::IntoIter>
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
    ) -> ImapUnordered<'a, R, I::IntoIter>
    where
        F: Fn(&mut S, A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        let _ = function;
        self.call.imap_unordered(worker::stateful_task::<F, S, A, R>(), inputs)
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
        let _ = function;
        self.call.apply_async(worker::stateful_task::<F, S, A, R>(), argument)
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
        let _ = function;
        self.call.map_async(worker::stateful_task::<F, S, A, R>(), inputs)
    }
}

impl<S> Clone for WithState<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for WithState<'_, S> {}

impl<S> std::fmt::Debug for WithState<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WithState")
            .field("chunksize", &self.call.chunksize)
            .field("terms", &self.call.options)
            .finish_non_exhaustive()
    }
}
