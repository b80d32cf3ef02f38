//! Calls and what they return, for a pool and for a cluster: the trait [`Executor`] with its seven
//! calls.
//!
//! `engine` says what an engine does for a call. `options` has the bodies of the calls of many
//! tasks, which use `map`, `imap` and `task`. `apply` has those of the calls of one task. All that
//! the files here know of workers is how many there are.

mod apply;
mod callback;
pub(crate) mod engine;
mod imap;
mod in_process;
mod map;
mod options;
mod progress;
#[cfg(feature = "progress")]
mod progress_bar;
mod task;
mod with;

use crate::executor_calls;
use crate::wire::Message;

pub(crate) use engine::{Arrived, CallOptions, Engine, Job};
pub use imap::{Imap, ImapUnordered, Indexed};
pub use in_process::InProcess;
pub use options::Options;
pub(crate) use options::{Target, calls_with_options};
pub use progress::Progress;
#[cfg(feature = "progress")]
pub use progress_bar::progress_bar;
pub use task::Task;
pub use with::With;

/// Declares the seven calls, with `$vis` before each. Used in the trait [`Executor`], and for each
/// executor, which has the calls as inherent methods too, so that users need not import the trait.
///
/// More documentation, such as an example, may stand before each name.
#[doc(hidden)]
#[macro_export]
macro_rules! executor_calls {
    (
        [$($vis:tt)*]
        $(#[$map:meta])* map
        $(#[$try_map:meta])* try_map
        $(#[$imap:meta])* imap
        $(#[$imap_unordered:meta])* imap_unordered
        $(#[$apply:meta])* apply
        $(#[$apply_async:meta])* apply_async
        $(#[$map_async:meta])* map_async
    ) => {
        /// Calls `function` with each input, and returns the results in the order of the inputs.
        ///
        /// # Errors
        ///
        /// The error of the first input that failed, in the order of the inputs. All inputs run in
        /// any case; [`try_map`](Self::try_map) also returns the other results.
        $(#[$map])*
        #[doc(alias = "starmap")]
        $($vis)* fn map<F, A, R, I>(&self, function: F, inputs: I) -> Result<Vec<R>, $crate::Error>
        where
            F: Fn(A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message,
            I: IntoIterator<Item = A>,
        {
            self.options().map(function, inputs)
        }

        /// Like [`map`](Self::map), but returns a result or an error for each input.
        $(#[$try_map])*
        $($vis)* fn try_map<F, A, R, I>(
            &self,
            function: F,
            inputs: I,
        ) -> Vec<Result<R, $crate::Error>>
        where
            F: Fn(A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message,
            I: IntoIterator<Item = A>,
        {
            self.options().try_map(function, inputs)
        }

        /// Returns an iterator over the results, in the order of the inputs. While the caller uses
        /// a result, later tasks run.
        ///
        /// The iterator takes inputs lazily, never more than a window ahead of the results that the
        /// caller has taken. The window is 16 inputs for each worker, and at least 64 inputs and
        /// two chunks. The inputs may be endless. When the iterator is dropped, workers begin no
        /// more chunks of its tasks.
        ///
        /// `next` of the iterator takes inputs. If `next` of the inputs waits, so does `next` of
        /// the iterator. Inputs that wait for a result of the same iterator would wait forever: use
        /// [`apply_async`](Self::apply_async) instead.
        $(#[$imap])*
        $($vis)* fn imap<F, A, R, I>(
            &self,
            function: F,
            inputs: I,
        ) -> $crate::Imap<'_, Self, R, I::IntoIter>
        where
            F: Fn(A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message,
            I: IntoIterator<Item = A>,
        {
            self.options().imap(function, inputs)
        }

        /// Like [`imap`](Self::imap), but in the order in which the results arrive.
        $(#[$imap_unordered])*
        $($vis)* fn imap_unordered<F, A, R, I>(
            &self,
            function: F,
            inputs: I,
        ) -> $crate::ImapUnordered<'_, Self, R, I::IntoIter>
        where
            F: Fn(A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message,
            I: IntoIterator<Item = A>,
        {
            self.options().imap_unordered(function, inputs)
        }

        /// Calls `function` once and waits for its result.
        ///
        /// # Errors
        ///
        /// The function panicked, its worker died, the argument or the result could not be encoded
        /// or decoded, or no more calls are accepted.
        $(#[$apply])*
        $($vis)* fn apply<F, A, R>(&self, function: F, argument: A) -> Result<R, $crate::Error>
        where
            F: Fn(A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message,
        {
            self.options().apply(function, argument)
        }

        /// Calls `function` once, without waiting for its result.
        ///
        /// # Errors
        ///
        /// The argument cannot be encoded, or no more calls are accepted.
        $(#[$apply_async])*
        $($vis)* fn apply_async<F, A, R>(
            &self,
            function: F,
            argument: A,
        ) -> Result<$crate::Task<R>, $crate::Error>
        where
            F: Fn(A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message,
        {
            self.options().apply_async(function, argument)
        }

        /// Calls `function` with each input, without waiting. The returned task has the result that
        /// [`map`](Self::map) returns.
        ///
        /// # Errors
        ///
        /// An argument cannot be encoded, there are more inputs than the `max_pending` of the pool
        /// allows, or no more calls are accepted.
        $(#[$map_async])*
        $($vis)* fn map_async<F, A, R, I>(
            &self,
            function: F,
            inputs: I,
        ) -> Result<$crate::Task<Vec<R>>, $crate::Error>
        where
            F: Fn(A) -> R + Copy + 'static,
            A: $crate::Message,
            R: $crate::Message + Send,
            I: IntoIterator<Item = A>,
        {
            self.options().map_async(function, inputs)
        }
    };
}

/// Runs functions over inputs: a [`Pool`](crate::Pool) on this machine, the cluster of the crate
/// `proc-cluster` on many, or [`InProcess`] in the caller.
///
/// A function that takes `&impl Executor` works with all of them. The types have methods with the
/// same names, so only such functions need to import the trait. Other crates cannot implement the
/// trait.
///
/// ```
/// use proc_core::{Error, Executor, Pool};
///
/// fn sum_of_squares(on: &impl Executor, numbers: Vec<u64>) -> Result<u64, Error> {
///     Ok(on.map(|x: u64| x * x, numbers)?.into_iter().sum())
/// }
///
/// fn main() -> Result<(), Error> {
///     proc_core::init();
///     let pool = Pool::builder().processes(2).build()?;
///     assert_eq!(sum_of_squares(&pool, vec![1, 2, 3])?, 14);
///     Ok(())
/// }
/// ```
#[doc(alias = "concurrent.futures")]
pub trait Executor: Engine + Sized {
    /// Returns an [`Options`]: the same calls, with settings such as a timeout for each task.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::{Error, Executor, Pool};
    ///
    /// fn halves(on: &impl Executor, numbers: Vec<u32>) -> Result<Vec<u32>, Error> {
    ///     on.options().retries(2).map(|x: u32| x / 2, numbers)
    /// }
    ///
    /// fn main() -> Result<(), Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(2).build()?;
    ///     assert_eq!(halves(&pool, vec![2, 4, 6])?, [1, 2, 3]);
    ///     Ok(())
    /// }
    /// ```
    fn options(&self) -> Options<'_, Self> {
        Options::new(self)
    }

    /// Returns the calls for functions that borrow `data` beside their argument.
    ///
    /// See [`Pool::with`](crate::Pool::with).
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::{Error, Executor, Pool};
    ///
    /// fn scaled(on: &impl Executor, factor: f64, numbers: Vec<f64>) -> Result<Vec<f64>, Error> {
    ///     on.with(factor).map(|factor, x: f64| factor * x, numbers)
    /// }
    ///
    /// fn main() -> Result<(), Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(2).build()?;
    ///     assert_eq!(scaled(&pool, 1.5, vec![2.0, 4.0])?, [3.0, 6.0]);
    ///     Ok(())
    /// }
    /// ```
    fn with<D: Message + Send + Sync>(&self, data: D) -> With<'_, Self, D> {
        self.options().with(data)
    }

    crate::executor_calls! {
        []
        ///
        /// See the example of [`Pool::map`](crate::Pool::map).
        map
        ///
        /// See the example of [`Pool::try_map`](crate::Pool::try_map).
        try_map
        ///
        /// See the example of [`Pool::imap`](crate::Pool::imap).
        imap
        ///
        /// See the example of [`Pool::imap_unordered`](crate::Pool::imap_unordered).
        imap_unordered
        ///
        /// See the example of [`Pool::apply`](crate::Pool::apply).
        apply
        ///
        /// See the example of [`Pool::apply_async`](crate::Pool::apply_async).
        apply_async
        ///
        /// See the example of [`Pool::map_async`](crate::Pool::map_async).
        map_async
    }
}
