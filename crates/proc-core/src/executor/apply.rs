//! Calls of one task: `apply`, `apply_async` and `try_apply_async`.

use super::engine::{Arrived, CallOptions, Engine, Job};
use super::options::{Options, Target};
use super::task::{self, Task};
use crate::error::Error;
use crate::wire::Message;

impl<E: Engine> Options<'_, E> {
    pub(crate) fn apply_target<A: Message, R: Message>(
        &self,
        target: Result<Target<E>, Error>,
        argument: A,
    ) -> Result<R, Error> {
        task::wait_for(self.submit_one(target, argument)?, only_result)
    }

    pub(crate) fn apply_async_target<A: Message, R: Message>(
        &self,
        target: Result<Target<E>, Error>,
        argument: A,
    ) -> Result<Task<R>, Error> {
        Ok(Task::new(self.submit_one(target, argument)?, only_result))
    }

    pub(crate) fn try_apply_async_target<A: Message, R: Message>(
        &self,
        target: Result<Target<E>, Error>,
        argument: A,
    ) -> Result<Result<Task<R>, A>, Error> {
        let mut job = self.begin_one(target)?;
        if !job.reserve(1, false)? {
            return Ok(Err(argument));
        }
        Self::submit(&mut job, argument)?;
        Ok(Ok(Task::new(job, only_result)))
    }

    /// Begins a call of one task.
    fn begin_one(&self, target: Result<Target<E>, Error>) -> Result<E::Job, Error> {
        self.begin(target, CallOptions { chunksize: Some(1), ..self.call })
    }

    /// Begins a call of one task and submits the task.
    fn submit_one<A: Message>(
        &self,
        target: Result<Target<E>, Error>,
        argument: A,
    ) -> Result<E::Job, Error> {
        let mut job = self.begin_one(target)?;
        job.reserve(1, true)?;
        Self::submit(&mut job, argument)?;
        Ok(job)
    }

    /// Submits the only task of a call.
    fn submit<A: Message>(job: &mut E::Job, argument: A) -> Result<(), Error> {
        job.push(std::slice::from_ref(&argument), usize::MAX)?;
        job.submit(0)?;
        job.end();
        Ok(())
    }
}

/// Decodes the result of the only task of a call.
fn only_result<R: Message>(arrived: impl Arrived) -> Option<Result<R, Error>> {
    let mut only = None;
    arrived.decode(|_, result| only = Some(result));
    only
}
