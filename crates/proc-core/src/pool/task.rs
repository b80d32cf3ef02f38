//! A call whose result is fetched later.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::crew::Crew;
use super::job::{Delivery, Inbox};
use super::options::only;
use crate::error::Error;
use crate::function::Message;

/// The result of [`Pool::apply_async`](crate::Pool::apply_async), now or later.
///
/// Dropping it drops the result; the task runs all the same.
#[doc(alias = "AsyncResult")]
#[must_use = "the result of the task is here"]
pub struct Task<R> {
    crew: Arc<Crew>,
    inbox: Arc<Inbox>,
    arrived: Option<Result<Delivery, Error>>,
    result: PhantomData<fn() -> R>,
}

impl<R: Message> Task<R> {
    pub(super) fn new(crew: &Arc<Crew>, inbox: Arc<Inbox>) -> Task<R> {
        Task { crew: Arc::clone(crew), inbox, arrived: None, result: PhantomData }
    }

    /// Waits for the result.
    ///
    /// # Errors
    ///
    /// As for [`Pool::apply`](crate::Pool::apply).
    pub fn get(mut self) -> Result<R, Error> {
        let arrived = loop {
            if let Some(arrived) = self.arrived.take().or_else(|| self.crew.wait(&self.inbox, None))
            {
                break arrived;
            }
        };
        only(arrived?)
    }

    /// Waits for the result, for at most `timeout`; then the task comes back as the error.
    ///
    /// It goes on all the same.
    #[expect(
        clippy::result_large_err,
        reason = "what comes back is no error, and not on a hot path"
    )]
    pub fn get_timeout(mut self, timeout: Duration) -> Result<Result<R, Error>, Task<R>> {
        self.wait_until(Instant::now().checked_add(timeout));
        if self.arrived.is_some() { Ok(self.get()) } else { Err(self) }
    }

    /// Whether [`get`](Task::get) would return at once.
    #[doc(alias = "ready")]
    pub fn is_ready(&mut self) -> bool {
        self.wait_until(Some(Instant::now()));
        self.arrived.is_some()
    }

    fn wait_until(&mut self, deadline: Option<Instant>) {
        if self.arrived.is_none() {
            self.arrived = self.crew.wait(&self.inbox, deadline);
        }
    }
}

impl<R> std::fmt::Debug for Task<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("arrived", &self.arrived.is_some()).finish_non_exhaustive()
    }
}
