//! A pool: worker processes that run many calls. Dead workers are replaced.
//!
//! This file is the surface. `engine` makes a pool an engine of calls; the bodies of calls are in
//! `executor`. `scheduler` publishes chunks, collects results and replaces dead workers. `job`
//! holds the encoded tasks and results of a call. There are no system calls in this file, and no
//! bytes.

pub(crate) mod board;
mod broadcast;
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
pub use with_state::{WithState, WithStateAndData};

use self::scheduler::Scheduler;
use crate::error::Error;
use crate::executor::{Options, Task, With};
use crate::executor_calls;
use crate::wire::Message;

/// Worker processes that run functions over inputs.
///
/// If a task panics or kills its worker, only that task has no result: the other results arrive,
/// and the pool goes on. A worker that has died is replaced. If no new worker can be started for
/// more than a second (there is no memory, process or descriptor for it), the pool goes on with
/// fewer workers until a later call. If no worker is left, open calls fail with the reason, and a
/// later call tries again. Workers that exit one after another before they have begun a task are
/// replaced more and more slowly. See also [`restart_intensity`](PoolBuilder::restart_intensity).
/// Dropping a pool ends it like [`terminate`](Pool::terminate): it waits for no task, except during
/// the [grace periods](Options::grace) of running tasks.
///
/// All calls take a function that captures nothing and has one argument, which may be a tuple. Any
/// number of threads may call at once. `S` is the type of the state that each worker keeps, see
/// [`with_state`](Pool::with_state).
///
/// Text that a task prints without a newline is written out when the task ends. If tasks take less
/// than 10 us each, or the worker has ever had a second thread, the text is written out at the end
/// of the chunk, and is lost if the worker is killed before.
///
/// ```
/// use proc_core::Pool;
///
/// fn square(x: i64) -> i64 {
///     x * x
/// }
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let pool = Pool::builder().processes(2).build()?;
///     assert_eq!(pool.map(square, [3, 4, 5])?, [9, 16, 25]);
///     Ok(())
/// }
/// ```
pub struct Pool<S = ()> {
    scheduler: Arc<Scheduler>,
    state: PhantomData<fn() -> S>,
}

impl<S> Pool<S> {
    /// Returns an [`Options`]: the same calls, with settings such as a timeout for each task.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use proc_core::Pool;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(2).build()?;
    ///     let options = pool.options().timeout(Duration::from_secs(60)).retries(1);
    ///     assert_eq!(options.map(|x: u64| x * x, [1, 2, 3])?, [1, 4, 9]);
    ///     Ok(())
    /// }
    /// ```
    pub fn options(&self) -> Options<'_, Pool<S>> {
        Options::new(self)
    }

    /// Returns a [`With`]: the same calls, for functions that borrow `data` beside their argument.
    ///
    /// Use this where Python has `functools.partial` or a closure with data. The data are encoded
    /// once, however many calls are made (data that hold channel ends or shared memory, once more
    /// for each worker). Each worker decodes them once, and keeps them until the last clone of the
    /// `With` is dropped and its calls are done. (A worker keeps at most 64 of such data, with 256
    /// MiB of encoded bytes together, but always those that it used last. It gets the others again
    /// when it needs them.) A [`Shared`](crate::Shared) in the data is not copied at all. Receivers
    /// cannot be part of the data, because only one worker could have them.
    ///
    /// If the data cannot be encoded, each call fails with that error. If a worker cannot decode
    /// them, the call ends with one error
    /// ([`ErrorKind::Decode`](crate::ErrorKind::Decode)).
    ///
    /// # Examples
    ///
    /// ```
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = proc_core::Pool::builder().processes(2).build()?;
    ///     let factor = 3; // any value that may cross
    ///     assert_eq!(pool.with(factor).map(|factor, x: i64| factor * x, [1, 2])?, [3, 6]);
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "partial")]
    pub fn with<D: Message + Send + Sync>(&self, data: D) -> With<'_, Pool<S>, D> {
        self.options().with(data)
    }

    /// The size of the pool: how many workers it has if none is missing. See also
    /// [`worker_pids`](Pool::worker_pids).
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(3).build()?;
    ///     assert_eq!(pool.processes(), 3);
    ///     Ok(())
    /// }
    /// ```
    pub fn processes(&self) -> usize {
        self.scheduler.processes()
    }

    /// The pids of the present workers.
    ///
    /// A worker that has just died may be among them, and one that is just being started is not.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(2).build()?;
    ///     let pid = pool.apply(|()| std::process::id(), ())?;
    ///     assert!(pool.worker_pids().contains(&pid));
    ///     Ok(())
    /// }
    /// ```
    pub fn worker_pids(&self) -> Vec<u32> {
        self.scheduler.worker_pids()
    }

    /// Changes the size of the pool.
    ///
    /// When this returns, new workers have been started. Workers beyond the new size finish the
    /// chunk that they have claimed; this does not wait for them. No result is lost, but a
    /// [`broadcast`](Pool::broadcast) fails if such a worker has not begun its task of it.
    ///
    /// # Errors
    ///
    /// The pool is closed. The number is zero, or larger than this pool can grow to. (A pool can
    /// grow to at least 128 workers, and to at least twice as many as it was built with, but never
    /// to more than 4096.) A worker cannot be started; then the pool keeps its size.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(1).build()?;
    ///     pool.resize(3)?;
    ///     assert_eq!((pool.processes(), pool.worker_pids().len()), (3, 3));
    ///     pool.resize(1)?;
    ///     assert_eq!(pool.map(|x: u32| x * x, [2, 3])?, [4, 9]);
    ///     Ok(())
    /// }
    /// ```
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
        ///     let quotients = pool.try_map(|x: u32| 12 / x, [1, 0, 3]);
        ///     assert_eq!(quotients[0].as_ref().ok(), Some(&12));
        ///     assert!(quotients[1].as_ref().is_err_and(|error| error.is_panic()));
        ///     assert_eq!(quotients[2].as_ref().ok(), Some(&4));
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
        ///     let mut squares = pool.imap(|x: u64| x * x, 1..); // the inputs are endless
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
        ///     task.on_done(move |squares| sender.send(squares).expect("the receiver is open"));
        ///     assert_eq!(receiver.recv().expect("the callback was called")?, [1, 4, 9]);
        ///     Ok(())
        /// }
        /// ```
        map_async
    }

    /// Like [`apply_async`](Pool::apply_async), but gives the argument back if the pool has no room
    /// for another task, see [`PoolBuilder::max_pending`].
    ///
    /// A web handler answers "too busy" then, instead of letting requests wait.
    ///
    /// # Errors
    ///
    /// The argument cannot be encoded, or no more calls are accepted.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    ///
    /// fn wait(_: String) {
    ///     loop {
    ///         std::thread::park();
    ///     }
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(1).max_pending(1).build()?;
    ///     let first = pool.apply_async(wait, "first".to_owned())?;
    ///     let second = pool.try_apply_async(wait, "second".to_owned())?;
    ///     assert_eq!(second.err().as_deref(), Some("second")); // the pool has enough to do
    ///     first.cancel();
    ///     Ok(())
    /// }
    /// ```
    pub fn try_apply_async<F, A, R>(
        &self,
        function: F,
        argument: A,
    ) -> Result<Result<Task<R>, A>, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        self.options().try_apply_async(function, argument)
    }

    /// Accepts no more calls. The workers exit when all calls made before are done.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(1).build()?;
    ///     let answer = pool.apply_async(|x: u32| x + 1, 41)?;
    ///     pool.close();
    ///     assert_eq!(answer.get()?, 42); // the call was made before
    ///     assert!(pool.apply(|x: u32| x + 1, 41).is_err_and(|error| error.is_closed()));
    ///     Ok(())
    /// }
    /// ```
    pub fn close(&self) {
        self.scheduler.close();
    }

    /// Waits until all workers have exited.
    ///
    /// # Errors
    ///
    /// The pool is still open, so this would wait forever; an error has ended the pool; the calling
    /// process is a copy of the one that built the pool.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(2).build()?;
    ///     let squares = pool.map_async(|x: u32| x * x, [3, 4, 5])?;
    ///     pool.close();
    ///     pool.join()?;
    ///     assert!(pool.worker_pids().is_empty());
    ///     assert_eq!(squares.get()?, [9, 16, 25]);
    ///     Ok(())
    /// }
    /// ```
    pub fn join(&self) -> Result<(), Error> {
        if self.scheduler.join()? {
            Ok(())
        } else {
            Err(Error::invalid("an open pool cannot be joined: call close or terminate first"))
        }
    }

    /// Ends the pool now. Open calls fail with "the pool is closed".
    ///
    /// Running tasks whose call has a [grace period](Options::grace) are asked to stop, and killed
    /// if they have not returned when it is over. After that (at once, if there are no such tasks),
    /// workers that are busy or not ready yet are killed (SIGKILL, no SIGTERM), and idle workers
    /// exit by themselves. Those that have not exited after half a second are killed. Programs that
    /// a task has started with `std::process::Command` go on. Returns when all workers have exited.
    /// The page `docs/signals.md` of [the book](crate#the-book) tells more about signals.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    ///
    /// fn never(_: ()) {
    ///     loop {
    ///         std::thread::park();
    ///     }
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(1).build()?;
    ///     let task = pool.apply_async(never, ())?;
    ///     pool.terminate();
    ///     assert!(task.get().is_err_and(|error| error.is_closed()));
    ///     Ok(())
    /// }
    /// ```
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
