//! A call whose result is fetched later.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use proc_core::Error;
use proc_core::remote::{self, cancelled_error, when_done};

use crate::job::{Handle, Note};
use crate::mailbox::Delivery;

/// The result of [`Cluster::apply_async`](crate::Cluster::apply_async) or
/// [`map_async`](crate::Cluster::map_async), which may not have arrived yet.
///
/// A `Task` is also a `Future`, which any executor can wait for. Dropping a `Task` drops its
/// result; the task itself still runs, as long as its cluster exists.
#[doc(alias = "AsyncResult")]
#[must_use = "the result of the task is here"]
pub struct Task<T> {
    job: Option<Handle>,
    /// How many tasks the job has.
    all: usize,
    gather: Gather<T>,
    result: Option<Result<T, Error>>,
    /// Whether the result was returned to the caller.
    is_taken: bool,
}

/// Takes in one delivery. Returns the result of the call when all deliveries have arrived.
pub(crate) type Gather<T> = Box<dyn FnMut(Delivery) -> Option<Result<T, Error>> + Send>;

impl<T> Task<T> {
    pub(crate) fn new(job: Handle, all: usize, gather: Gather<T>) -> Task<T> {
        Task { job: Some(job.that_goes_on()), all, gather, result: None, is_taken: false }
    }

    /// A task whose result is known from the start.
    pub(crate) fn settled(result: Result<T, Error>) -> Task<T> {
        Task {
            job: None,
            all: 0,
            gather: Box::new(|_| None),
            result: Some(result),
            is_taken: false,
        }
    }

    /// Waits for the result.
    ///
    /// # Errors
    ///
    /// As for [`Cluster::apply`](crate::Cluster::apply) or [`Cluster::map`](crate::Cluster::map);
    /// or the task was cancelled; or the cluster is closed.
    pub fn get(mut self) -> Result<T, Error> {
        self.wait_until(None);
        self.take().unwrap_or_else(|| Err(cancelled_error()))
    }

    /// Waits for the result, for at most `timeout`. Returns `None` if the result has not arrived by
    /// then; the task continues to run in that case.
    ///
    /// # Errors
    ///
    /// As for [`get`](Task::get). The result, or the error in its place, is returned only once.
    /// Every later call returns an [`Invalid`](crate::ErrorKind::Invalid) error.
    pub fn get_timeout(&mut self, timeout: Duration) -> Result<Option<T>, Error> {
        self.wait_until(Instant::now().checked_add(timeout));
        match self.take() {
            Some(result) => result.map(Some),
            None => Ok(None),
        }
    }

    /// Returns the result the first time, and an error after that; `None` if there is no result
    /// yet.
    fn take(&mut self) -> Option<Result<T, Error>> {
        let was_taken = self.is_taken;
        self.is_taken |= self.result.is_some();
        match was_taken {
            true => Some(Err(remote::already_taken_error())),
            false => self.result.take(),
        }
    }

    /// Whether [`get`](Task::get) would return at once.
    #[doc(alias = "ready")]
    pub fn is_ready(&mut self) -> bool {
        self.wait_until(Some(Instant::now()));
        self.is_taken || self.result.is_some()
    }

    /// Cancels the task. If the task is queued, it never runs; if it is running, its worker is
    /// stopped.
    ///
    /// Returns false if the result has already arrived. Otherwise [`get`](Task::get) returns an
    /// error which says that the task was cancelled.
    pub fn cancel(&self) -> bool {
        let open = self.job.as_ref().filter(|_| !self.is_taken && self.result.is_none());
        open.is_some_and(|job| {
            let cancelled = job.mailbox.cancel(self.all);
            if cancelled {
                job.send(Note::Close(cancelled_error()));
            }
            cancelled
        })
    }

    /// Calls `callback` with the result when the result has arrived. One thread runs all callbacks.
    ///
    /// A panic in a callback affects nothing but that callback; its message goes to stderr.
    #[doc(alias = "callback")]
    #[doc(alias = "error_callback")]
    pub fn on_done(self, callback: impl FnOnce(Result<T, Error>) + Send + 'static)
    where
        T: Send + 'static,
    {
        when_done(self, callback);
    }

    fn wait_until(&mut self, deadline: Option<Instant>) {
        while !self.is_taken
            && self.result.is_none()
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

/// No field of a `Task` must stay pinned.
impl<T> Unpin for Task<T> {}

impl<T> Future for Task<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            if let Some(result) = self.take() {
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
