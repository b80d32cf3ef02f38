//! A pool as the engine of calls. [`PoolJob`] is one call that a scheduler runs.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::Pool;
use super::job::{BoundData, Delivery, Inbox, TaskQueue, queue};
use super::scheduler::{Collecting, Scheduler};
use super::worker;
use crate::call::Name;
use crate::error::Error;
use crate::executor::{Arrived, CallOptions, Engine, Executor, Job};
use crate::wire::Message;

impl<S> Executor for Pool<S> {}

impl<S> Engine for Pool<S> {
    type Function = PoolFunction;
    type Data = PoolData;
    type Job = PoolJob;

    fn function<F, A, R>(_: F) -> Result<PoolFunction, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        let name = worker::task::<F, A, R>().map_err(Error::invalid)?;
        Ok(PoolFunction(name))
    }

    fn function_with_data<F, D, A, R>(_: F) -> Result<PoolFunction, Error>
    where
        F: Fn(&D, A) -> R + Copy + 'static,
        D: Message,
        A: Message,
        R: Message,
    {
        let name = worker::task_with_data::<F, D, A, R>().map_err(Error::invalid)?;
        Ok(PoolFunction(name))
    }

    fn bind<D: Message + Send + Sync>(&self, data: D) -> Result<PoolData, Error> {
        Ok(PoolData::new(self.scheduler.bind(data)?, &self.scheduler))
    }

    fn begin(
        &self,
        function: PoolFunction,
        data: Option<PoolData>,
        options: CallOptions,
    ) -> Result<PoolJob, Error> {
        Ok(PoolJob::new(&self.scheduler, function.0, data, options, 0))
    }
}

/// The name of a function.
#[derive(Clone, Copy)]
pub struct PoolFunction(pub(super) Name);

/// Data that functions of a pool's calls borrow, as the user holds them.
#[derive(Clone)]
pub struct PoolData {
    /// `None` only while this is dropped.
    data: Option<Arc<BoundData>>,
    scheduler: Arc<Scheduler>,
}

impl PoolData {
    pub(super) fn new(data: Arc<BoundData>, scheduler: &Arc<Scheduler>) -> PoolData {
        PoolData { data: Some(data), scheduler: Arc::clone(scheduler) }
    }
}

impl Drop for PoolData {
    fn drop(&mut self) {
        // If nobody else has the data, workers drop them now.
        self.data = None;
        self.scheduler.forget_dropped_data();
    }
}

/// Results of a pool's call that arrived together.
pub struct PoolArrived(pub(super) Box<Delivery>);

/// A guard: as long as it lives, its thread polls and collects results.
pub struct PoolCollecting {
    _guard: Collecting<Arc<Scheduler>>,
}

/// A call of a pool.
pub struct PoolJob {
    scheduler: Arc<Scheduler>,
    inbox: Arc<Inbox>,
    function: Name,
    /// The number of the first task that is not submitted.
    next: usize,
    /// The tasks that are pushed and not submitted, if there are any.
    queue: Option<Box<TaskQueue>>,
    /// How many arguments after those of `queue` could not be encoded. Each has a task number too.
    skipped: usize,
    /// How many tasks have room made for them, and are not submitted.
    reserved: usize,
    /// Counts this call as one of the pool's.
    _open: Arc<()>,
    /// The data that the function borrows. This is the last field: when the job is dropped, the
    /// other fields are dropped before, and they have the data too.
    _data: Option<PoolData>,
}

impl PoolJob {
    /// Begins a call whose first task has the number `first`.
    pub(super) fn new(
        scheduler: &Arc<Scheduler>,
        function: Name,
        data: Option<PoolData>,
        options: CallOptions,
        first: usize,
    ) -> PoolJob {
        let inbox = Inbox::new(
            options,
            data.as_ref().and_then(|data| data.data.clone()),
            scheduler.pending().cloned(),
        );
        PoolJob {
            scheduler: Arc::clone(scheduler),
            inbox,
            function,
            next: first,
            queue: None,
            skipped: 0,
            reserved: 0,
            _open: Arc::clone(&scheduler.open_calls),
            _data: data,
        }
    }

    /// Returns the inbox, by which the scheduler knows the call.
    pub(super) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// The queue of the tasks that are pushed and not submitted.
    fn queue(&mut self) -> &mut TaskQueue {
        let PoolJob { function, inbox, next, queue, .. } = self;
        queue.get_or_insert_with(|| TaskQueue::new(*function, inbox, *next))
    }

    /// Hands out the tasks of a broadcast.
    pub(super) fn submit_for_slots(
        &mut self,
        queues: impl IntoIterator<Item = Box<TaskQueue>>,
    ) -> Result<(), Error> {
        let is_timed = self.inbox.options.timeout.is_some();
        self.scheduler.submit_for_slots(is_timed, queues)?;
        self.reserved = 0;
        Ok(())
    }

    /// Pushes one task whose argument is encoded already.
    #[cfg(feature = "remote")]
    pub(super) fn push_encoded(&mut self, argument: &[u8]) {
        self.queue().push_encoded(argument);
    }
}

impl Drop for PoolJob {
    /// Gives back the room for tasks that were never submitted, for example because an argument
    /// could not be encoded.
    fn drop(&mut self) {
        self.inbox.subtract_counted(self.reserved);
    }
}

impl Job for PoolJob {
    type Arrived = PoolArrived;
    type Collecting = PoolCollecting;

    #[inline]
    fn push<A: Message>(&mut self, arguments: &[A], max_bytes: usize) -> Result<(), Error> {
        // A map pushes no more than there is room for, but always one chunk.
        let arguments = match self.scheduler.pending() {
            Some(pending) if max_bytes < usize::MAX => {
                let chunk = self.inbox.options.chunksize.unwrap_or(1).max(1);
                &arguments[..arguments.len().min(pending.room().max(chunk))]
            }
            _ => arguments,
        };
        let lender = self.scheduler.clone();
        let pushed = self.queue().push_all(arguments, max_bytes, lender);
        self.skipped += usize::from(pushed.is_err());
        pushed
    }

    fn reserve(&mut self, tasks: usize, wait: bool) -> Result<bool, Error> {
        let Some(pending) = self.scheduler.pending() else { return Ok(true) };
        if tasks > pending.max() {
            return Err(Error::invalid(format!(
                "the call has {tasks} tasks, and max_pending allows {} at a time: use imap or map, \
                 which hand out few tasks at a time, or allow more",
                pending.max()
            )));
        }
        let has_room = match wait {
            true => pending.wait_and_add(tasks, || self.scheduler.check_open().is_err()),
            false => pending.try_add(tasks),
        };
        self.scheduler.check_open()?;
        if has_room {
            self.inbox.add_counted(tasks);
            self.reserved += tasks;
        }
        Ok(has_room)
    }

    fn pushed(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.left)
    }

    fn pushed_bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.len())
    }

    fn submit(&mut self, more: usize) -> Result<(), Error> {
        let empty = || TaskQueue::new(self.function, &self.inbox, self.next);
        let mut queue = self.queue.take().unwrap_or_else(empty);
        self.next += queue.left + std::mem::take(&mut self.skipped);
        queue.more = more;
        if let Some(pending) = self.scheduler.pending() {
            let uncounted = queue.left.saturating_sub(std::mem::take(&mut self.reserved));
            pending.add(uncounted);
            self.inbox.add_counted(uncounted);
        }
        self.scheduler.submit(queue)
    }

    fn end(&mut self) {}

    fn workers(&self) -> usize {
        self.scheduler.processes()
    }

    fn is_full(&self, in_flight: usize) -> bool {
        let has_no_room = || self.scheduler.pending().is_some_and(|pending| pending.room() == 0);
        (in_flight > 0 && (queue::has_many_handles() || has_no_room()))
            || self.scheduler.is_full(in_flight)
    }

    fn check_process(&self) -> Result<(), Error> {
        self.scheduler.check_not_forked_copy()
    }

    fn collecting(&self) -> PoolCollecting {
        PoolCollecting { _guard: Collecting::new(Arc::clone(&self.scheduler)) }
    }

    fn poll(&self) -> Option<Result<PoolArrived, Error>> {
        self.scheduler.collect_if_any();
        self.inbox.poll().map(arrived)
    }

    fn poll_or_wake(&self, waker: &Waker) -> Option<Result<PoolArrived, Error>> {
        if let Err(error) = self.check_process() {
            return Some(Err(error));
        }
        let arrived = self.inbox.poll_or_wake(waker);
        if arrived.is_none() {
            self.scheduler.start_watcher_for_future();
        }
        arrived.map(self::arrived)
    }

    fn wait(&self, wanted: usize, deadline: Option<Instant>) -> Option<Result<PoolArrived, Error>> {
        self.scheduler.wait(&self.inbox, wanted, deadline).map(arrived)
    }

    fn retried(&self) -> usize {
        self.inbox.retried()
    }

    fn cancel(&self) -> bool {
        self.scheduler.cancel(&self.inbox)
    }

    fn abandon(&mut self) {
        self.scheduler.abandon(&self.inbox);
    }
}

fn arrived(delivery: Result<Box<Delivery>, Error>) -> Result<PoolArrived, Error> {
    delivery.map(PoolArrived)
}

impl Arrived for PoolArrived {
    fn count(&self) -> usize {
        self.0.count()
    }

    #[inline]
    fn decode<R: Message>(self, settle: impl FnMut(usize, Result<R, Error>)) {
        self.0.decode(settle);
    }
}
