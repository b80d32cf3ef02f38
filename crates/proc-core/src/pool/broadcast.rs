//! `broadcast`: runs a function once in each worker.

use super::engine::PoolJob;
use super::job::TaskQueue;
use super::{Pool, WithState, WithStateAndData};
use crate::error::Error;
use crate::executor::{Arrived, CallOptions, Job, Options, Target, With};
use crate::wire::Message;

impl<S> Pool<S> {
    /// Calls `function` once in each worker, and returns the results in the order of the workers'
    /// numbers.
    ///
    /// Each worker gets the argument (which cannot be a receiver, because only one worker could
    /// have that), and runs the function when it has finished its present chunk. The argument is
    /// encoded once for each worker. Give a large one to [`with`](Pool::with), which encodes it
    /// once, or put it into a [`Shared`](crate::Shared).
    ///
    /// If a worker dies before it has begun, the worker that replaces it runs the function. Workers
    /// that have left because they were idle are not started for it, unless there are no others. A
    /// worker that is missing because none could be started in its place is left out, too. To learn
    /// which worker gave a result, return [`current().worker()`](crate::Current::worker) with it.
    ///
    /// Together with [`with_state`](Pool::with_state), this returns what the workers have gathered:
    /// see [`WithState::broadcast`].
    ///
    /// # Errors
    ///
    /// The error of the first worker that failed, in the order of their numbers; the others run the
    /// function in any case. Or the argument cannot be encoded, or the pool accepts no more calls,
    /// or it was made smaller before a worker that had to leave had begun.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::{Pool, current};
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(3).build()?;
    ///     let number = |plus: usize| current().worker().map(|worker| worker + plus);
    ///     assert_eq!(pool.broadcast(number, 10)?, [Some(10), Some(11), Some(12)]);
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "everywhere")]
    pub fn broadcast<F, A, R>(&self, function: F, argument: A) -> Result<Vec<R>, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message + Sync,
        R: Message,
    {
        self.options().broadcast(function, argument)
    }
}

impl<S> Options<'_, Pool<S>> {
    /// Calls `function` once in each worker; see [`Pool::broadcast`].
    ///
    /// The settings hold for each worker's task. With [`retries`](Options::retries), the worker
    /// with the same number tries again. [`progress`](Options::progress) shows nothing.
    ///
    /// # Errors
    ///
    /// As for [`Pool::broadcast`]. With [`fail_fast`](Options::fail_fast), it is the error of the
    /// task that failed first, and the tasks that no worker has begun do not run.
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
    ///     let patient = pool.options().timeout(Duration::from_secs(60));
    ///     assert_eq!(patient.broadcast(|x: u32| x + 1, 1)?, [2, 2]);
    ///     Ok(())
    /// }
    /// ```
    pub fn broadcast<F, A, R>(&self, function: F, argument: A) -> Result<Vec<R>, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message + Sync,
        R: Message,
    {
        run(self, self.target(function), &argument)
    }
}

impl<S, D: Message> With<'_, Pool<S>, D> {
    /// Calls `function` once in each worker; see [`Pool::broadcast`].
    ///
    /// # Errors
    ///
    /// As for [`Pool::broadcast`].
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(2).build()?;
    ///     assert_eq!(pool.with(5).broadcast(|five, x: u32| five * x, 2)?, [10, 10]);
    ///     Ok(())
    /// }
    /// ```
    pub fn broadcast<F, A, R>(&self, function: F, argument: A) -> Result<Vec<R>, Error>
    where
        F: Fn(&D, A) -> R + Copy + 'static,
        A: Message + Sync,
        R: Message,
    {
        run(&self.options, self.target(function), &argument)
    }
}

impl<S: 'static> WithState<'_, S> {
    /// Calls `function` once in each worker, with the worker's state; see [`Pool::broadcast`].
    ///
    /// This is how a program gets what its workers have gathered: counts, caches, statistics.
    ///
    /// # Errors
    ///
    /// As for [`Pool::broadcast`].
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(2).state(|()| 0, ()).build()?;
    ///     let count = |seen: &mut u32, _: u32| *seen += 1;
    ///     pool.with_state().map(count, 0..1000)?;
    ///     let counts = pool.with_state().broadcast(|seen, ()| *seen, ())?;
    ///     assert_eq!(counts.iter().sum::<u32>(), 1000);
    ///     Ok(())
    /// }
    /// ```
    pub fn broadcast<F, A, R>(&self, function: F, argument: A) -> Result<Vec<R>, Error>
    where
        F: Fn(&mut S, A) -> R + Copy + 'static,
        A: Message + Sync,
        R: Message,
    {
        run(&self.options, self.target(function), &argument)
    }
}

impl<S: 'static, D: Message> WithStateAndData<'_, S, D> {
    /// Calls `function` once in each worker, with the worker's state and the data; see
    /// [`Pool::broadcast`].
    ///
    /// # Errors
    ///
    /// As for [`Pool::broadcast`].
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(2).state(|first: u32| first, 1).build()?;
    ///     let scaled = |state: &mut u32, factor: &u32, x: u32| (*state + x) * factor;
    ///     assert_eq!(pool.with(10).with_state().broadcast(scaled, 3)?, [40, 40]);
    ///     Ok(())
    /// }
    /// ```
    pub fn broadcast<F, A, R>(&self, function: F, argument: A) -> Result<Vec<R>, Error>
    where
        F: Fn(&mut S, &D, A) -> R + Copy + 'static,
        A: Message + Sync,
        R: Message,
    {
        run(&self.with.options, self.target(function), &argument)
    }
}

/// Runs a broadcast, and waits for the results of all workers.
fn run<S, A: Message, R: Message>(
    options: &Options<'_, Pool<S>>,
    target: Result<Target<Pool<S>>, Error>,
    argument: &A,
) -> Result<Vec<R>, Error> {
    options.call.check()?;
    let Target { function, data } = target?;
    let scheduler = &options.engine.scheduler;
    let slots = scheduler.slots_for_broadcast()?;
    let call = CallOptions { chunksize: Some(1), ..options.call };
    let mut job = PoolJob::new(scheduler, function.0, data, call, 0);
    if let Some(pending) = scheduler.pending().filter(|pending| pending.max() < slots.len()) {
        return Err(Error::invalid(format!(
            "the broadcast has a task for each of {} workers, and max_pending allows {} at a time: \
             allow as many as the pool has workers",
            slots.len(),
            pending.max()
        )));
    }
    job.reserve(slots.len(), true)?;
    let encode = |(task, slot_id)| {
        let queue = TaskQueue::new(function.0, job.inbox(), task);
        let mut queue = queue.for_slot(Some(slot_id));
        queue.push_all(std::slice::from_ref(argument), usize::MAX, scheduler.clone())?;
        Ok(queue)
    };
    let queues = slots.into_iter().enumerate().map(encode).collect::<Result<Vec<_>, Error>>()?;
    let mut results: Vec<Option<Result<R, Error>>> = queues.iter().map(|_| None).collect();
    let mut unfinished = queues.len();
    job.submit_for_slots(queues)?;
    let mut failure = None;
    while unfinished > 0 && failure.is_none() {
        let wanted = if call.fail_fast { 1 } else { unfinished };
        match job.wait(wanted, None) {
            Some(Ok(arrived)) => {
                unfinished -= arrived.count();
                arrived.decode(|task, result: Result<R, Error>| match result {
                    Err(error) if call.fail_fast => failure = failure.take().or(Some(error)),
                    result => results[task] = Some(result),
                });
            }
            Some(Err(error)) => failure = Some(error),
            None => {}
        }
    }
    if let Some(error) = failure {
        job.abandon();
        return Err(error);
    }
    results.into_iter().flatten().collect()
}
