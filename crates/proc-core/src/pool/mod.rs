//! A pool of worker processes that outlives its workers.
//!
//! This module is the surface. `engine` makes a pool an engine of calls, whose bodies stand in
//! `executor`. `job` holds a call's encoded tasks and results, `scheduler` publishes, collects and
//! replaces the dead. There are no system calls here and no bytes.

pub(crate) mod board;
mod builder;
mod engine;
#[cfg(test)]
mod fuzz;
mod job;
mod records;
#[cfg(feature = "remote")]
#[doc(hidden)]
pub mod remote;
mod scheduler;
mod with_state;
pub(crate) mod worker;

use std::marker::PhantomData;
use std::sync::Arc;

pub use builder::PoolBuilder;
pub use with_state::WithState;

use self::scheduler::Scheduler;
use crate::error::Error;
use crate::executor::Options;
use crate::executor_calls;

/// Worker processes that run functions over inputs.
///
/// A task that panics, or kills its worker, costs that task's result and nothing else: the worker
/// is replaced, the other results arrive, the pool goes on. Where no new worker can be had for more
/// than a second (no memory, processes or descriptors), the pool goes on with fewer until a later
/// call; when none is left, open calls fail with the reason, and a later call tries again. A worker
/// that ends again and again before it has begun a task is replaced more and more slowly. See also
/// [`restart_intensity`](PoolBuilder::restart_intensity). Dropping a pool ends it like
/// [`terminate`](Pool::terminate), always in bounded time.
///
/// All calls take a function that captures nothing, with one argument; several are a tuple. Any
/// number of threads may call at once. `S` is the state that each worker keeps for functions that
/// want one, see [`with_state`](Pool::with_state).
///
/// What a task prints without a newline is written out when the task ends; where tasks take less
/// than 10 us each, when their chunk does, which a worker that is killed may not live to see.
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
pub struct Pool<S = ()> {
    scheduler: Arc<Scheduler>,
    state: PhantomData<fn() -> S>,
}

impl<S> Pool<S> {
    /// Returns the calls, with settings of their own, such as a timeout for each task.
    pub fn options(&self) -> Options<'_, Pool<S>> {
        Options::new(self)
    }

    /// How many workers the pool has, not counting that some may be away: see
    /// [`workers`](Pool::worker_pids).
    pub fn processes(&self) -> usize {
        self.scheduler.processes()
    }

    /// The pids of the workers that are there now.
    ///
    /// One that has just died may be among them, and one that is just being started missing.
    pub fn worker_pids(&self) -> Vec<u32> {
        self.scheduler.worker_pids()
    }

    /// Changes the number of workers.
    ///
    /// New workers are there when it returns. Those that are too many finish the tasks they have
    /// taken, and are not waited for; no result is lost.
    ///
    /// ```
    /// # fn main() -> Result<(), proc_core::Error> {
    /// # proc_core::init();
    /// let pool = proc_core::Pool::builder().processes(1).build()?;
    /// pool.resize(3)?;
    /// assert_eq!((pool.processes(), pool.worker_pids().len()), (3, 3));
    /// pool.resize(1)?;
    /// assert_eq!(pool.map(|x: u32| x * x, [2, 3])?, [4, 9]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The number is zero, or there is no room for so many in what workers share, which is laid out
    /// once: for 128, and for at least twice as many as the pool was built with. A worker cannot be
    /// started, in which case the pool stays as it was; the pool is closed.
    pub fn resize(&self, processes: usize) -> Result<(), Error> {
        if processes == 0 {
            return Err(Error::invalid("a pool needs at least one process: close it to end it"));
        }
        self.scheduler.resize(processes)
    }

    executor_calls! {
        [pub]
        /// # Examples
        ///
        /// ```
        /// fn square(x: i64) -> i64 {
        ///     x * x
        /// }
        ///
        /// fn main() -> Result<(), proc_core::Error> {
        ///     proc_core::init();
        ///     let pool = proc_core::Pool::builder().processes(2).build()?;
        ///     assert_eq!(pool.map(square, [3, 4, 5])?, [9, 16, 25]);
        ///     Ok(())
        /// }
        /// ```
        map
        ///
        /// # Examples
        ///
        /// ```
        /// fn main() -> Result<(), proc_core::Error> {
        ///     proc_core::init();
        ///     let pool = proc_core::Pool::builder().processes(2).build()?;
        ///     let halves = pool.try_map(|x: u32| 12 / x, [1, 0, 3]);
        ///     assert_eq!(halves[0].as_ref().ok(), Some(&12));
        ///     assert!(halves[1].as_ref().is_err_and(|error| error.is_panic()));
        ///     assert_eq!(halves[2].as_ref().ok(), Some(&4));
        ///     Ok(())
        /// }
        /// ```
        try_map
        ///
        /// # Examples
        ///
        /// ```
        /// fn main() -> Result<(), proc_core::Error> {
        ///     proc_core::init();
        ///     let pool = proc_core::Pool::builder().processes(2).build()?;
        ///     let mut squares = pool.imap(|x: u64| x * x, 1..); // endless: taken as it is needed
        ///     assert_eq!(squares.next().transpose()?, Some(1));
        ///     assert_eq!(squares.next().transpose()?, Some(4));
        ///     Ok(())
        /// }
        /// ```
        imap
        ///
        /// # Examples
        ///
        /// ```
        /// fn main() -> Result<(), proc_core::Error> {
        ///     proc_core::init();
        ///     let pool = proc_core::Pool::builder().processes(2).build()?;
        ///     let results = pool.imap_unordered(|x: u64| x * x, [3, 4, 5]);
        ///     let mut squares = results.collect::<Result<Vec<u64>, _>>()?;
        ///     squares.sort();
        ///     assert_eq!(squares, [9, 16, 25]);
        ///     Ok(())
        /// }
        /// ```
        imap_unordered
        ///
        /// # Examples
        ///
        /// ```
        /// fn main() -> Result<(), proc_core::Error> {
        ///     proc_core::init();
        ///     let pool = proc_core::Pool::builder().processes(2).build()?;
        ///     assert_eq!(pool.apply(|(a, b): (u32, u32)| a + b, (3, 4))?, 7);
        ///     Ok(())
        /// }
        /// ```
        apply
        ///
        /// # Examples
        ///
        /// ```
        /// fn main() -> Result<(), proc_core::Error> {
        ///     proc_core::init();
        ///     let pool = proc_core::Pool::builder().processes(2).build()?;
        ///     let seven = pool.apply_async(|x: u32| x + 4, 3)?;
        ///     assert_eq!(seven.get()?, 7);
        ///     Ok(())
        /// }
        /// ```
        apply_async
        ///
        /// # Examples
        ///
        /// ```
        /// fn main() -> Result<(), proc_core::Error> {
        ///     proc_core::init();
        ///     let pool = proc_core::Pool::builder().processes(2).build()?;
        ///     let (sender, receiver) = std::sync::mpsc::channel();
        ///     let task = pool.map_async(|x: u32| x * x, [1, 2, 3])?;
        ///     task.on_done(move |squares| sender.send(squares).expect("somebody listens"));
        ///     assert_eq!(receiver.recv().expect("the callback was called")?, [1, 4, 9]);
        ///     Ok(())
        /// }
        /// ```
        map_async
    }

    /// Accepts no more calls. What was asked for is still done, then the workers end.
    pub fn close(&self) {
        self.scheduler.close();
    }

    /// Waits until all workers have ended.
    ///
    /// # Errors
    ///
    /// The pool is still open, so that this would take for ever; it had to give up; the calling
    /// process is a copy of the one that has built it.
    pub fn join(&self) -> Result<(), Error> {
        if self.scheduler.join()? {
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
        self.scheduler.terminate();
    }
}

impl<S> Drop for Pool<S> {
    fn drop(&mut self) {
        self.scheduler.terminate();
    }
}

impl<S> std::fmt::Debug for Pool<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("processes", &self.processes()).finish_non_exhaustive()
    }
}
