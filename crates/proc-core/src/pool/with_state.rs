//! Calls of functions that borrow the worker's state.

use super::engine::PoolFunction;
use super::{Pool, worker};
use crate::error::Error;
use crate::executor::{Options, Target, With, calls_with_options};
use crate::wire::Message;

/// The calls of a pool, for functions that borrow the worker's state; returned by
/// [`Pool::with_state`](crate::Pool::with_state).
///
/// Each call does the same as the call of [`Pool`](crate::Pool) with that name.
///
/// # Examples
///
/// ```
/// use proc_core::Pool;
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let pool = Pool::builder().processes(1).state(|()| Vec::<u32>::new(), ()).build()?;
///     let seen = |seen: &mut Vec<u32>, x: u32| {
///         seen.push(x);
///         seen.len()
///     };
///     assert_eq!(pool.with_state().map(seen, [7, 8, 9])?, [1, 2, 3]);
///     assert_eq!(pool.with_state().apply(seen, 10)?, 4); // the worker still has its state
///     Ok(())
/// }
/// ```
#[must_use = "it does nothing without a call"]
pub struct WithState<'a, S> {
    pub(super) options: Options<'a, Pool<S>>,
}

/// The calls of a pool, for functions that borrow the worker's state and data of type `D`; returned
/// by [`With::with_state`].
///
/// Each call does the same as the call of [`Pool`](crate::Pool) with that name.
///
/// See the example of [`With::with_state`].
#[must_use = "it does nothing without a call"]
pub struct WithStateAndData<'a, S, D> {
    pub(super) with: With<'a, Pool<S>, D>,
}

impl<S> Pool<S> {
    /// Returns a [`WithState`]: the same calls, for functions that borrow the worker's state beside
    /// their argument.
    ///
    /// [`PoolBuilder::state`](crate::PoolBuilder::state) makes the state; without it, the state is
    /// `()`. A worker runs one task at a time, so no lock is needed. If a task panics, its worker's
    /// state may be half changed: it is dropped, and made again before the next task.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::collections::HashMap;
    ///
    /// use proc_core::Pool;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder()
    ///         .processes(2)
    ///         .state(|seed: u64| HashMap::from([(0, seed)]), 7)
    ///         .build()?;
    ///     let cached = |cache: &mut HashMap<u64, u64>, x: u64| *cache.entry(x).or_insert(x * x);
    ///     assert_eq!(pool.with_state().map(cached, [3, 0])?, [9, 7]);
    ///     assert_eq!(pool.map(|x: u64| x + 1, [1])?, [2]); // needs no state
    ///     Ok(())
    /// }
    /// ```
    pub fn with_state(&self) -> WithState<'_, S> {
        self.options().with_state()
    }
}

impl<'a, S> Options<'a, Pool<S>> {
    /// Returns a [`WithState`]: the same calls and settings, for functions that borrow the worker's
    /// state.
    ///
    /// See [`Pool::with_state`](crate::Pool::with_state).
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
    ///     let steps = pool.options().chunksize(3).with_state().map(next, [1, 1, 5])?;
    ///     assert_eq!(steps, [11, 12, 17]);
    ///     Ok(())
    /// }
    /// ```
    pub fn with_state(self) -> WithState<'a, S> {
        WithState { options: self }
    }
}

impl<'a, S, D> With<'a, Pool<S>, D> {
    /// Returns a [`WithStateAndData`]: the same calls, for functions that borrow the worker's state
    /// and the data.
    ///
    /// See [`Pool::with_state`](crate::Pool::with_state).
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(1).state(|first: u32| first, 10).build()?;
    ///     let add = |sum: &mut u32, factor: &u32, x: u32| {
    ///         *sum += factor * x;
    ///         *sum
    ///     };
    ///     assert_eq!(pool.with(2).with_state().map(add, [1, 2, 3])?, [12, 16, 22]);
    ///     Ok(())
    /// }
    /// ```
    pub fn with_state(self) -> WithStateAndData<'a, S, D> {
        WithStateAndData { with: self }
    }
}

impl<'a, S: 'static> WithState<'a, S> {
    calls_with_options! { 'a Pool<S>, fn(&mut S), |self| self.options }

    pub(super) fn target<F, A, R>(&self, _: F) -> Result<Target<Pool<S>>, Error>
    where
        F: Fn(&mut S, A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        check_no_seed(&self.options)?;
        let name = worker::stateful_task::<F, S, A, R>().map_err(Error::invalid)?;
        Ok(Target { function: PoolFunction(name), data: None })
    }
}

impl<'a, S: 'static, D: Message> WithStateAndData<'a, S, D> {
    calls_with_options! { 'a Pool<S>, fn(&mut S, &D), |self| self.with.options }

    pub(super) fn target<F, A, R>(&self, _: F) -> Result<Target<Pool<S>>, Error>
    where
        F: Fn(&mut S, &D, A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        check_no_seed(&self.with.options)?;
        let name = worker::stateful_task_with_data::<F, S, D, A, R>().map_err(Error::invalid)?;
        Ok(Target { function: PoolFunction(name), data: Some(self.with.data.clone()?) })
    }
}

/// Refuses a seed for functions that borrow the worker's state.
fn check_no_seed<S>(options: &Options<'_, Pool<S>>) -> Result<(), Error> {
    if options.call.seed.is_none() {
        return Ok(());
    }
    Err(Error::invalid(
        "a seed makes results that can be repeated, but the worker's state depends on the tasks that \
         the worker has run before: give the call its data by with(), and make the generator in the \
         task, from current().seed()",
    ))
}

impl<S> Clone for WithState<'_, S> {
    fn clone(&self) -> Self {
        WithState { options: self.options.clone() }
    }
}

impl<S, D> Clone for WithStateAndData<'_, S, D> {
    fn clone(&self) -> Self {
        WithStateAndData { with: self.with.clone() }
    }
}

impl<S> std::fmt::Debug for WithState<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("WithState").field(&self.options).finish()
    }
}

impl<S, D> std::fmt::Debug for WithStateAndData<'_, S, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("WithStateAndData").field(&self.with).finish()
    }
}
