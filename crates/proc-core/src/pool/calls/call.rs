//! Calls with their settings, whatever it is that they call.
//!
//! The functions here know a function by its name, so that one of each serves all of a pool's
//! calls.

use std::sync::Arc;

use super::map;
use crate::call::Name;
use crate::error::{Error, Origin};
use crate::pool::calls::ImapUnordered;
use crate::pool::calls::task::Task;
use crate::pool::job::{CallOptions, Delivery, Inbox, TaskQueue};
use crate::pool::scheduler::Scheduler;
use crate::wire::Message;

/// The settings of calls, and the pool that is to run them.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) scheduler: &'a Arc<Scheduler>,
    pub(crate) chunksize: Option<usize>,
    pub(crate) options: CallOptions,
}

impl<'a> Call<'a> {
    /// Calls of a pool, with the settings that hold where nothing else is said.
    pub(crate) fn new(scheduler: &'a Arc<Scheduler>) -> Call<'a> {
        Call { scheduler, chunksize: None, options: CallOptions::default() }
    }

    pub(crate) fn map<A, R>(
        self,
        name: Result<Name, String>,
        inputs: impl IntoIterator<Item = A>,
    ) -> Result<Vec<R>, Error>
    where
        A: Message,
        R: Message,
    {
        let (results, call) = self.run(name, inputs.into_iter());
        call?;
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(Error::closed()))).collect()
    }

    pub(crate) fn try_map<A, R>(
        self,
        name: Result<Name, String>,
        inputs: impl IntoIterator<Item = A>,
    ) -> Vec<Result<R, Error>>
    where
        A: Message,
        R: Message,
    {
        let (results, call) = self.run(name, inputs.into_iter());
        let lost = call.err().unwrap_or_else(Error::closed);
        let fill = |(task, result): (usize, Option<_>)| {
            let place = Origin { task: Some(task), ..Origin::default() };
            result.unwrap_or_else(|| Err(lost.clone().with_origin(place)))
        };
        results.into_iter().enumerate().map(fill).collect()
    }

    pub(crate) fn imap_unordered<A, R, I>(
        self,
        name: Result<Name, String>,
        inputs: I,
    ) -> ImapUnordered<'a, R, I::IntoIter>
    where
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        let inbox = Inbox::new(self.options);
        ImapUnordered::new(
            self.scheduler,
            inbox,
            self.checked(name),
            inputs.into_iter(),
            self.chunksize,
        )
    }

    pub(crate) fn apply_async<A, R>(
        self,
        name: Result<Name, String>,
        argument: A,
    ) -> Result<Task<R>, Error>
    where
        A: Message,
        R: Message,
    {
        let inbox = Inbox::new(self.options);
        let mut queue = TaskQueue::new(self.checked(name)?, &inbox, 0, Some(1));
        queue.push(&argument, self.scheduler.clone())?;
        self.scheduler.submit(queue)?;
        let gather = |delivery: Delivery| {
            let mut only = None;
            delivery.open(|_, result| only = Some(result));
            only
        };
        Ok(Task::new(self.scheduler, inbox, Box::new(gather)))
    }

    pub(crate) fn map_async<A, R>(
        self,
        name: Result<Name, String>,
        inputs: impl IntoIterator<Item = A>,
    ) -> Result<Task<Vec<R>>, Error>
    where
        A: Message,
        R: Message + Send,
    {
        let inbox = Inbox::new(self.options);
        let mut queue = TaskQueue::new(self.checked(name)?, &inbox, 0, self.chunksize);
        for argument in inputs {
            let place = Origin { task: Some(queue.left), ..Origin::default() };
            queue
                .push(&argument, self.scheduler.clone())
                .map_err(|error| error.with_origin(place))?;
        }
        let mut open = queue.left;
        if open == 0 {
            return Ok(Task::settled(self.scheduler, inbox, Ok(Vec::new())));
        }
        let mut results: Vec<Option<Result<R, Error>>> = Vec::new();
        results.resize_with(open, || None);
        let gather = move |delivery: Delivery| {
            open -= delivery.count();
            delivery.open(|task, result| results[task] = Some(result));
            (open == 0).then(|| results.drain(..).flatten().collect())
        };
        self.scheduler.submit(queue)?;
        Ok(Task::new(self.scheduler, inbox, Box::new(gather)))
    }

    fn run<A: Message, R: Message>(
        self,
        name: Result<Name, String>,
        inputs: impl Iterator<Item = A>,
    ) -> (map::Fates<R>, Result<(), Error>) {
        let Call { scheduler, chunksize, options } = self;
        map::run(scheduler, &Inbox::new(options), chunksize, self.checked(name), inputs)
    }

    /// The function's name, if it has one and the settings make sense.
    fn checked(&self, name: Result<Name, String>) -> Result<Name, Error> {
        if self.chunksize == Some(0) {
            return Err(Error::invalid("a chunk holds at least one task: chunksize 0 makes none"));
        }
        name.map_err(Error::invalid)
    }
}
