//! Calls of functions that borrow the worker's state.

use super::engine::PoolFunction;
use super::{Pool, worker};
use crate::error::Error;
use crate::executor::{Options, Progress, calls_with_options};
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

impl<'a, S, P> Options<'a, Pool<S>, P> {
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
    pub fn with_state(self) -> WithState<'a, S, P> {
        WithState { options: self }
    }
}

impl<'a, S: 'static, P: FnMut(Progress)> WithState<'a, S, P> {
    calls_with_options! { 'a Pool<S>, fn(&mut S), function_of, |self| self.options }
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
