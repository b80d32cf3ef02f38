//! `Task`: a call whose result is fetched later.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::callback::when_done;
use super::engine::Job;
use crate::error::Error;

/// The result of [`apply_async`](crate::Pool::apply_async) or
/// [`map_async`](crate::Pool::map_async), which may not have arrived yet.
///
/// Dropping a `Task` drops its result; the task itself still runs, unless
/// [`cancel_on_drop`](Task::cancel_on_drop) says otherwise.
///
/// ```
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let pool = proc_core::Pool::builder().processes(2).build()?;
///     let sum = pool.apply_async(|n: u64| (1..=n).sum::<u64>(), 10)?;
///     let product = pool.apply_async(|n: u64| (1..=n).product::<u64>(), 10)?; // beside the sum
///     assert_eq!((sum.get()?, product.get()?), (55, 3_628_800));
///     Ok(())
/// }
/// ```
///
/// A `Task` is also a `Future`, which any async runtime can wait for. This example uses the
/// smallest one (`cargo add pollster`):
///
/// ```
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init(); // before the runtime starts threads
///     let pool = proc_core::Pool::builder().processes(2).build()?;
///     pollster::block_on(async {
///         let square = pool.apply_async(|x: u32| x * x, 6)?;
///         assert_eq!(square.await? + 6, 42);
///         Ok(())
///     })
/// }
/// ```
#[doc(alias = "AsyncResult")]
#[must_use = "the result of the task is here"]
pub struct Task<T> {
    call: Box<dyn Pending<T> + Send>,
    result: Option<Result<T, Error>>,
    /// Whether the result was returned to the caller.
    is_taken: bool,
    /// Whether the call is cancelled when this is dropped.
    cancels_on_drop: bool,
}

/// How long [`Pending::poll`], and [`Pending::wait`] with a deadline that is near or over, take in
/// results that have arrived. Without a bound they could go on for long, because more results may
/// arrive all the time.
const TAKE_IN_TIME: Duration = Duration::from_millis(5);

/// A call that is not done, and that has one result when it is done. Hides the engine from
/// [`Task`].
trait Pending<T> {
    /// Waits for the result. Returns `None` if the deadline passes first.
    fn wait(&mut self, deadline: Option<Instant>) -> Option<Result<T, Error>>;
    fn poll(&mut self, waker: &Waker) -> Option<Result<T, Error>>;
    fn cancel(&self) -> bool;
}

/// A call, and the function that makes one result of all results that arrive.
struct Gathering<J, G> {
    job: J,
    gather: G,
}

impl<T, J, G> Pending<T> for Gathering<J, G>
where
    J: Job,
    G: FnMut(J::Arrived) -> Option<Result<T, Error>>,
{
    fn wait(&mut self, deadline: Option<Instant>) -> Option<Result<T, Error>> {
        let last_moment = deadline.map(|deadline| deadline.max(Instant::now() + TAKE_IN_TIME));
        loop {
            let arrived = self.job.wait(1, deadline);
            if arrived.is_none() && deadline.is_some() {
                return None;
            }
            let result = arrived.and_then(|arrived| self.take_in(arrived));
            if result.is_some() || last_moment.is_some_and(|moment| moment <= Instant::now()) {
                return result;
            }
        }
    }

    fn poll(&mut self, waker: &Waker) -> Option<Result<T, Error>> {
        let mut last_moment = None;
        loop {
            let arrived = self.job.poll_or_wake(waker)?;
            let result = self.take_in(arrived);
            if result.is_some() {
                return result;
            }
            let last_moment = last_moment.get_or_insert_with(|| Instant::now() + TAKE_IN_TIME);
            if *last_moment <= Instant::now() {
                waker.wake_by_ref(); // other futures of the thread go first
                return None;
            }
        }
    }

    fn cancel(&self) -> bool {
        self.job.cancel()
    }
}

impl<T, J: Job, G: FnMut(J::Arrived) -> Option<Result<T, Error>>> Gathering<J, G> {
    /// Takes in what has arrived. Returns the call's result if it is complete.
    fn take_in(&mut self, arrived: Result<J::Arrived, Error>) -> Option<Result<T, Error>> {
        let result = arrived.map_or_else(|error| Some(Err(error)), &mut self.gather);
        if matches!(result, Some(Err(_))) {
            // Some tasks of the call may not be done: a failure may end it early.
            self.job.abandon();
        }
        result
    }
}

/// Waits for the result of a call. `gather` makes it of all results that arrive.
pub(super) fn wait_for<T, J, G>(job: J, gather: G) -> Result<T, Error>
where
    J: Job,
    G: FnMut(J::Arrived) -> Option<Result<T, Error>>,
{
    // There is a result, because the wait has no deadline.
    Gathering { job, gather }.wait(None).unwrap_or_else(|| Err(Error::closed()))
}

/// The call of a task whose result is known from the beginning.
struct NoCall;

impl<T> Pending<T> for NoCall {
    fn wait(&mut self, _: Option<Instant>) -> Option<Result<T, Error>> {
        None
    }

    fn poll(&mut self, _: &Waker) -> Option<Result<T, Error>> {
        None
    }

    fn cancel(&self) -> bool {
        false
    }
}

impl<T> Task<T> {
    /// Makes a task of a call. `gather` returns the call's result when all results have arrived.
    pub(crate) fn new<J: Job + 'static>(
        job: J,
        gather: impl FnMut(J::Arrived) -> Option<Result<T, Error>> + Send + 'static,
    ) -> Task<T> {
        Task {
            call: Box::new(Gathering { job, gather }),
            result: None,
            is_taken: false,
            cancels_on_drop: false,
        }
    }

    /// Makes a task whose result is known.
    pub(crate) fn settled(result: Result<T, Error>) -> Task<T> {
        let call = Box::new(NoCall);
        Task { call, result: Some(result), is_taken: false, cancels_on_drop: false }
    }

    /// Waits for the result.
    ///
    /// # Errors
    ///
    /// As for [`Pool::apply`](crate::Pool::apply) or [`Pool::map`](crate::Pool::map); the task was
    /// cancelled; the pool or the cluster was terminated or dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = proc_core::Pool::builder().processes(1).build()?;
    ///     let sum = pool.apply_async(|n: u64| (1..=n).sum::<u64>(), 1000)?;
    ///     println!("the worker adds, and main goes on");
    ///     assert_eq!(sum.get()?, 500_500);
    ///     Ok(())
    /// }
    /// ```
    pub fn get(mut self) -> Result<T, Error> {
        self.wait_until(None);
        // There is a result now, because the wait had no deadline.
        self.take().unwrap_or_else(|| Err(Error::closed()))
    }

    /// Waits for the result, for at most `timeout`. Returns `None` if the result has not arrived by
    /// then; the task continues to run in that case.
    ///
    /// # Errors
    ///
    /// As for [`get`](Task::get). The result, or the error in its place, is returned only once.
    /// Every later call returns an [`Invalid`](crate::ErrorKind::Invalid) error.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// fn never(_: ()) {
    ///     loop {
    ///         std::thread::park();
    ///     }
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = proc_core::Pool::builder().processes(1).build()?;
    ///     let mut task = pool.apply_async(never, ())?;
    ///     assert_eq!(task.get_timeout(Duration::from_millis(10))?, None); // it still runs
    ///     assert!(task.cancel());
    ///     Ok(())
    /// }
    /// ```
    pub fn get_timeout(&mut self, timeout: Duration) -> Result<Option<T>, Error> {
        self.wait_until(Instant::now().checked_add(timeout));
        self.take().transpose()
    }

    /// Returns the result the first time, and an error after that; `None` if there is no result
    /// yet.
    fn take(&mut self) -> Option<Result<T, Error>> {
        let was_taken = self.is_taken;
        self.is_taken |= self.result.is_some();
        match was_taken {
            true => Some(Err(Error::already_taken())),
            false => self.result.take(),
        }
    }

    /// Whether the result has arrived, so that [`get`](Task::get) would return at once.
    ///
    /// # Examples
    ///
    /// ```
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = proc_core::Pool::builder().processes(1).build()?;
    ///     let mut answer = pool.apply_async(|x: u32| x + 1, 41)?;
    ///     while !answer.is_ready() {
    ///         std::thread::yield_now(); // or a piece of other work
    ///     }
    ///     assert_eq!(answer.get()?, 42);
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "ready")]
    pub fn is_ready(&mut self) -> bool {
        self.wait_until(Some(Instant::now()));
        self.has_ended()
    }

    /// Cancels the task. If the task is queued, it never runs; if it is running, its worker is
    /// killed and replaced.
    ///
    /// Returns false if the result has already arrived, or if the task was cancelled or asked to
    /// stop before. Otherwise [`get`](Task::get) returns an error which says that the task was
    /// cancelled.
    ///
    /// With a [grace period](crate::Options::grace), inputs that are running are asked to stop
    /// first. A worker may have taken more inputs together with the running one: the worker still
    /// begins each of these inputs, and each is asked to stop as soon as it begins. If all inputs
    /// return within that period, [`get`](Task::get) returns the result.
    ///
    /// In async code, a future that is dropped does not cancel its task, unless
    /// [`cancel_on_drop`](Task::cancel_on_drop) says so.
    ///
    /// # Examples
    ///
    /// ```
    /// fn never(_: ()) {
    ///     loop {
    ///         std::thread::park();
    ///     }
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = proc_core::Pool::builder().processes(1).build()?;
    ///     let running = pool.apply_async(never, ())?;
    ///     let queued = pool.apply_async(|x: u32| x + 1, 7)?;
    ///     assert!(running.cancel());
    ///     assert_eq!(queued.get()?, 8); // by the next worker
    ///     assert!(running.get().is_err_and(|error| error.is_cancelled()));
    ///     Ok(())
    /// }
    /// ```
    pub fn cancel(&self) -> bool {
        !self.has_ended() && self.call.cancel()
    }

    /// Cancels the task if this is dropped before its result has arrived, as
    /// [`cancel`](Task::cancel) does.
    ///
    /// For a web handler, whose future is dropped when the client goes away or a timeout passes.
    ///
    /// # Examples
    ///
    /// ```
    /// fn never(_: ()) {
    ///     loop {
    ///         std::thread::park();
    ///     }
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = proc_core::Pool::builder().processes(1).build()?;
    ///     drop(pool.apply_async(never, ())?.cancel_on_drop());
    ///     assert_eq!(pool.apply(|x: u32| x + 1, 7)?, 8); // by the next worker
    ///     Ok(())
    /// }
    /// ```
    pub fn cancel_on_drop(mut self) -> Task<T> {
        self.cancels_on_drop = true;
        self
    }

    /// Calls `callback` with the result when the result has arrived. One thread runs all callbacks.
    ///
    /// A panic in a callback affects nothing but that callback; its message goes to stderr.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::mpsc;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = proc_core::Pool::builder().processes(2).build()?;
    ///     let (sender, receiver) = mpsc::channel();
    ///     for x in [3, 4] {
    ///         let sender = sender.clone();
    ///         let square = pool.apply_async(|x: u32| x * x, x)?;
    ///         square.on_done(move |square| sender.send(square).expect("main receives"));
    ///     }
    ///     drop(sender); // the loop ends when both callbacks are done
    ///     assert_eq!(receiver.into_iter().sum::<Result<u32, _>>()?, 25);
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "callback")]
    #[doc(alias = "error_callback")]
    pub fn on_done(self, callback: impl FnOnce(Result<T, Error>) + Send + 'static)
    where
        T: Send + 'static,
    {
        when_done(self, callback);
    }

    /// Whether the result has arrived; it may have been returned already.
    fn has_ended(&self) -> bool {
        self.is_taken || self.result.is_some()
    }

    /// Waits for the result, unless it has arrived.
    fn wait_until(&mut self, deadline: Option<Instant>) {
        if !self.has_ended() {
            self.result = self.call.wait(deadline);
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if self.cancels_on_drop {
            self.cancel();
        }
    }
}

// No field of a `Task` is pinned.
impl<T> Unpin for Task<T> {}

impl<T> Future for Task<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.has_ended() {
            self.result = self.call.poll(context.waker());
        }
        self.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<T> std::fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("arrived", &self.result.is_some()).finish_non_exhaustive()
    }
}
