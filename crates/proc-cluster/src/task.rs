//! A call whose result is fetched later.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use proc_core::Error;
use proc_core::remote::{cancelled_error, when_done};

use crate::job::{Handle, Note};
use crate::mailbox::Delivery;

/// The result of [`Cluster::apply_async`](crate::Cluster::apply_async) or
/// [`map_async`](crate::Cluster::map_async), now or later.
///
/// It is also a `Future`, which any executor can wait for. Dropping it drops the result; the task
/// runs all the same, as long as its cluster is there.
#[doc(alias = "AsyncResult")]
#[must_use = "the result of the task is here"]
pub struct Task<T> {
    job: Option<Handle>,
    /// How many tasks the job has.
    all: usize,
    gather: Gather<T>,
    result: Option<Result<T, Error>>,
}

/// Takes in a delivery; the result once all have come.
pub(crate) type Gather<T> = Box<dyn FnMut(Delivery) -> Option<Result<T, Error>> + Send>;

impl<T> Task<T> {
    pub(crate) fn new(job: Handle, all: usize, gather: Gather<T>) -> Task<T> {
        Task { job: Some(job.that_goes_on()), all, gather, result: None }
    }

    /// A task with nothing to do.
    pub(crate) fn settled(result: Result<T, Error>) -> Task<T> {
        Task { job: None, all: 0, gather: Box::new(|_| None), result: Some(result) }
    }

    /// Waits for the result.
    ///
    /// # Errors
    ///
    /// As for [`Cluster::apply`](crate::Cluster::apply) or [`Cluster::map`](crate::Cluster::map); that
    /// it was cancelled; that the cluster is closed.
    pub fn get(mut self) -> Result<T, Error> {
        self.wait_until(None);
        self.result.take().unwrap_or_else(|| Err(cancelled_error()))
    }

    /// Waits for the result, for at most `timeout`; then the task comes back as the error.
    ///
    /// It goes on all the same.
    pub fn get_timeout(mut self, timeout: Duration) -> Result<Result<T, Error>, Task<T>> {
        self.wait_until(Instant::now().checked_add(timeout));
        self.result.take().ok_or(self)
    }

    /// Whether [`get`](Task::get) would return at once.
    #[doc(alias = "ready")]
    pub fn is_ready(&mut self) -> bool {
        self.wait_until(Some(Instant::now()));
        self.result.is_some()
    }

    /// Takes the task back, wherever it is: queued, it never runs; running, its worker is stopped.
    ///
    /// False if its result has arrived. Else [`get`](Task::get) says that it was cancelled.
    pub fn cancel(&self) -> bool {
        let open = self.job.as_ref().filter(|_| self.result.is_none());
        open.is_some_and(|job| {
            let cancelled = job.mailbox.cancel(self.all);
            if cancelled {
                job.send(Note::Close(cancelled_error()));
            }
            cancelled
        })
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
        while self.result.is_none()
            && let Some(job) = &self.job
        {
            let delivery = job.mailbox.wait(deadline);
            match delivery {
                Some(delivery) => self.take_in(delivery),
                None if deadline.is_some() => return,
                None => {}
            }
        }
    }

    fn take_in(&mut self, delivery: Result<Delivery, Error>) {
        self.result = match delivery {
            Ok(delivery) => (self.gather)(delivery),
            Err(error) => Some(Err(error)),
        };
    }
}

/// Nothing is pinned in it.
impl<T> Unpin for Task<T> {}

impl<T> Future for Task<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            if let Some(result) = self.result.take() {
                return Poll::Ready(result);
            }
            let Some(job) = &self.job else { return Poll::Ready(Err(cancelled_error())) };
            match job.mailbox.poll_or_wake(context.waker()) {
                Some(delivery) => self.take_in(delivery),
                None => return Poll::Pending,
            }
        }
    }
}

impl<T> std::fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("arrived", &self.result.is_some()).finish_non_exhaustive()
    }
}
