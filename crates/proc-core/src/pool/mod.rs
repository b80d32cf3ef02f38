//! A pool of worker processes that outlives its workers.
//!
//! This module is the surface: calls, their options and what they return. `job` holds a call's
//! encoded tasks and results, `crew` publishes, collects and replaces the dead. There are no system
//! calls here and no bytes.

mod builder;
mod crew;
mod imap;
mod job;
mod options;
#[doc(hidden)]
pub mod remote;
mod task;

use std::sync::Arc;

use crate::error::Error;
use crate::function::Message;

pub use builder::PoolBuilder;
pub use imap::{Imap, ImapUnordered};
pub use options::Options;
pub use task::Task;

/// Worker processes that run functions over inputs.
///
/// A task that panics, or kills its worker, costs that task's result and nothing else: the worker is
/// replaced, the other results arrive, the pool goes on. Where no new worker can be had for more than
/// a second (no memory, processes or descriptors), the pool goes on with fewer, and ends with the reason
/// when none is left. Dropping a pool ends it like
/// [`terminate`](Pool::terminate), always in bounded time.
///
/// All calls take a function that captures nothing, with one argument; several are a tuple. Any
/// number of threads may call at once.
///
/// ```
/// # fn main() -> Result<(), proc_core::Error> {
/// # proc_core::init();
/// use proc_core::Pool;
///
/// fn square(x: i64) -> i64 {
///     x * x
/// }
///
/// let pool = Pool::builder().processes(2).build()?;
/// assert_eq!(pool.map(square, [3, 4, 5])?, [9, 16, 25]);
/// # Ok(())
/// # }
/// ```
pub struct Pool {
    crew: Arc<crew::Crew>,
}

impl Pool {
    /// A pool of as many workers as this process may use processors: affinity and cgroup count.
    ///
    /// # Errors
    ///
    /// See [`PoolBuilder::build`].
    pub fn new() -> Result<Pool, Error> {
        Pool::builder().build()
    }

    /// A pool with other settings.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    /// Calls with other settings than the pool's.
    pub fn options(&self) -> Options<'_> {
        Options::new(self)
    }

    /// How many workers the pool was made with.
    pub fn processes(&self) -> usize {
        self.crew.processes()
    }

    /// Calls `function` with each input and returns the results in the order of the inputs.
    ///
    /// # Errors
    ///
    /// The error of the first input (by order, not by time) that failed. All inputs are run; where
    /// the other results matter, use [`try_map`](Pool::try_map).
    #[doc(alias = "starmap")]
    pub fn map<F, A, R, I>(&self, function: F, inputs: I) -> Result<Vec<R>, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        self.options().map(function, inputs)
    }

    /// Like [`map`](Pool::map), with each input's own fate.
    ///
    /// ```
    /// # fn main() -> Result<(), proc_core::Error> {
    /// # proc_core::init();
    /// let pool = proc_core::Pool::builder().processes(2).build()?;
    /// let halves = pool.try_map(|x: u32| 12 / x, [1, 0, 3]);
    /// assert_eq!(halves[0].as_ref().ok(), Some(&12));
    /// assert!(halves[1].as_ref().is_err_and(|error| error.is_panic()));
    /// assert_eq!(halves[2].as_ref().ok(), Some(&4));
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_map<F, A, R, I>(&self, function: F, inputs: I) -> Vec<Result<R, Error>>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        self.options().try_map(function, inputs)
    }

    /// Results one by one, in the order of the inputs, while later ones are still being worked on.
    ///
    /// Inputs are taken lazily, never more than a window ahead of the results taken: 16 for each
    /// worker, and at least 64. An endless input is fine. Dropping the iterator drops the rest.
    ///
    /// Inputs are taken by `next`, which so waits for the input too: one that waits in turn for a
    /// result of its own makes both wait for ever (use [`apply_async`](Pool::apply_async)).
    pub fn imap<F, A, R, I>(&self, function: F, inputs: I) -> Imap<'_, F, R, I::IntoIter>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        self.options().imap(function, inputs)
    }

    /// Like [`imap`](Pool::imap), in the order in which results arrive.
    pub fn imap_unordered<F, A, R, I>(
        &self,
        function: F,
        inputs: I,
    ) -> ImapUnordered<'_, F, R, I::IntoIter>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        self.options().imap_unordered(function, inputs)
    }

    /// Calls `function` once in a worker and waits for its result.
    ///
    /// # Errors
    ///
    /// The function panicked, its worker died, its argument or result could not be encoded or
    /// decoded, or the pool is closed.
    pub fn apply<F, A, R>(&self, function: F, argument: A) -> Result<R, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        self.apply_async(function, argument)?.get()
    }

    /// Calls `function` once in a worker, without waiting.
    ///
    /// # Errors
    ///
    /// The argument cannot be encoded, or the pool is closed.
    pub fn apply_async<F, A, R>(&self, function: F, argument: A) -> Result<Task<R>, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        self.options().apply_async(function, argument)
    }

    /// Calls `function` with each input, without waiting; the task's result is that of
    /// [`map`](Pool::map).
    ///
    /// ```
    /// # fn main() -> Result<(), proc_core::Error> {
    /// # proc_core::init();
    /// # let pool = proc_core::Pool::builder().processes(2).build()?;
    /// let (sender, receiver) = std::sync::mpsc::channel();
    /// let task = pool.map_async(|x: u32| x * x, [1, 2, 3])?;
    /// task.on_done(move |squares| sender.send(squares).expect("somebody listens"));
    /// assert_eq!(receiver.recv().expect("the callback was called")?, [1, 4, 9]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// An argument cannot be encoded, or the pool is closed.
    pub fn map_async<F, A, R, I>(&self, function: F, inputs: I) -> Result<Task<Vec<R>>, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message + Send,
        I: IntoIterator<Item = A>,
    {
        self.options().map_async(function, inputs)
    }

    /// Accepts no more calls. What was asked for is still done, then the workers end.
    pub fn close(&self) {
        self.crew.close();
    }

    /// Waits until all workers have ended.
    ///
    /// # Errors
    ///
    /// The pool is still open, so that this would take for ever, or it had to give up.
    pub fn join(&self) -> Result<(), Error> {
        if self.crew.join()? {
            Ok(())
        } else {
            Err(Error::invalid("an open pool cannot be joined: call close or terminate first"))
        }
    }

    /// Ends the workers now. Calls that wait get "the pool is closed".
    ///
    /// Idle workers end by themselves; busy ones get SIGTERM, and SIGKILL after half a second.
    /// Returns when all have ended.
    pub fn terminate(&self) {
        self.crew.terminate();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.crew.terminate();
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("processes", &self.processes()).finish_non_exhaustive()
    }
}
