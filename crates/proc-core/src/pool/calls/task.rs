//! A call whose result is fetched later.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::pool::calls::callback::when_done;
use crate::pool::job::{Delivery, Inbox};
use crate::pool::scheduler::Scheduler;

/// The result of [`Pool::apply_async`](crate::Pool::apply_async) or
/// [`map_async`](crate::Pool::map_async), now or later.
///
/// It is also a `Future`, which any executor can wait for. Dropping it drops the result; the task
/// runs all the same.
///
/// ```
/// # fn main() -> Result<(), proc_core::Error> {
/// # proc_core::init();
/// # let pool = proc_core::Pool::builder().processes(1).build()?;
/// fn nap_for_ever(_: ()) {
///     loop {
///         std::thread::park();
///     }
/// }
/// let forever = pool.apply_async(nap_for_ever, ())?;
/// let queued = pool.apply_async(|x: u32| x, 7)?;
/// assert!(forever.cancel()); // its worker is stopped and replaced
/// assert_eq!(queued.get()?, 7);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "AsyncResult")]
#[must_use = "the result of the task is here"]
pub struct Task<T> {
    scheduler: Arc<Scheduler>,
    inbox: Arc<Inbox>,
    gather: Gather<T>,
    result: Option<Result<T, Error>>,
    /// Whether the result was given to somebody.
    is_taken: bool,
}

/// Takes in a delivery; the result once all have come.
pub(crate) type Gather<T> = Box<dyn FnMut(Delivery) -> Option<Result<T, Error>> + Send>;

impl<T> Task<T> {
    pub(crate) fn new(scheduler: &Arc<Scheduler>, inbox: Arc<Inbox>, gather: Gather<T>) -> Task<T> {
        Task { scheduler: Arc::clone(scheduler), inbox, gather, result: None, is_taken: false }
    }

    /// A task that never was: nothing to do, or refused.
    pub(crate) fn settled(
        scheduler: &Arc<Scheduler>,
        inbox: Arc<Inbox>,
        result: Result<T, Error>,
    ) -> Self {
        Task {
            scheduler: Arc::clone(scheduler),
            inbox,
            gather: Box::new(|_| None),
            result: Some(result),
            is_taken: false,
        }
    }

    /// Waits for the result.
    ///
    /// # Errors
    ///
    /// As for [`Pool::apply`](crate::Pool::apply) or [`Pool::map`](crate::Pool::map); that it was
    /// cancelled; that the pool is closed.
    pub fn get(mut self) -> Result<T, Error> {
        loop {
            if let Some(result) = self.take() {
                return result;
            }
            let delivery = self.scheduler.wait(&self.inbox, 1, None);
            self.take_in(delivery);
        }
    }

    /// Waits for the result, for at most `timeout`: `None` if it has not come by then. The task
    /// goes on all the same.
    ///
    /// # Errors
    ///
    /// As for [`get`](Task::get). The result, or the error in its place, is given once: whoever
    /// asks again gets an [`Invalid`](crate::ErrorKind::Invalid) error.
    pub fn get_timeout(&mut self, timeout: Duration) -> Result<Option<T>, Error> {
        self.wait_until(Instant::now().checked_add(timeout));
        match self.take() {
            Some(result) => result.map(Some),
            None => Ok(None),
        }
    }

    /// The result, once; an error for whoever asks again.
    fn take(&mut self) -> Option<Result<T, Error>> {
        let was_taken = self.is_taken;
        self.is_taken |= self.result.is_some();
        match was_taken {
            true => Some(Err(Error::already_taken())),
            false => self.result.take(),
        }
    }

    /// Whether [`get`](Task::get) would return at once.
    #[doc(alias = "ready")]
    pub fn is_ready(&mut self) -> bool {
        self.wait_until(Some(Instant::now()));
        self.is_taken || self.result.is_some()
    }

    /// Takes the task back: queued, it never runs; running, its worker is stopped and replaced.
    ///
    /// False if it was done before. Else [`get`](Task::get) says that it was cancelled.
    pub fn cancel(&self) -> bool {
        !self.is_taken && self.result.is_none() && self.scheduler.cancel(&self.inbox)
    }

    pub(crate) fn withdraw(&self) -> bool {
        !self.is_taken && self.result.is_none() && self.scheduler.cancel_unclaimed(&self.inbox)
    }

    /// Calls `callback` with the result when it is there, in a thread that all callbacks share.
    ///
    /// A callback that panics spoils nothing but itself; its message goes to stderr.
    #[doc(alias = "callback")]
    #[doc(alias = "error_callback")]
    pub fn on_done(self, callback: impl FnOnce(Result<T, Error>) + Send + 'static)
    where
        T: Send + 'static,
    {
        when_done(self, callback);
    }

    fn wait_until(&mut self, deadline: Option<Instant>) {
        while !self.is_taken && self.result.is_none() {
            let delivery = self.scheduler.wait(&self.inbox, 1, deadline);
            if delivery.is_none() {
                return;
            }
            self.take_in(delivery);
        }
    }

    fn take_in(&mut self, delivery: Option<Result<Delivery, Error>>) {
        self.result = match delivery {
            Some(Ok(delivery)) => (self.gather)(delivery),
            Some(Err(error)) => Some(Err(error)),
            None => None,
        };
    }
}

/// Nothing is pinned in it.
impl<T> Unpin for Task<T> {}

impl<T> Future for Task<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            if let Some(result) = self.take() {
                return Poll::Ready(result);
            }
            if let Err(error) = self.scheduler.check_maker() {
                return Poll::Ready(Err(error));
            }
            let delivery = self.inbox.poll_or_wake(context.waker());
            if delivery.is_none() {
                self.scheduler.watch_over_futures();
                return Poll::Pending;
            }
            self.take_in(delivery);
        }
    }
}

impl<T> std::fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("arrived", &self.result.is_some()).finish_non_exhaustive()
    }
}
