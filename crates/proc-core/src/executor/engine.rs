//! The traits that an engine implements to run calls: [`Engine`], [`Job`] and [`Arrived`].
//!
//! A pool, a cluster and [`InProcess`](super::InProcess) implement them. The types that callers see
//! ([`Options`](super::Options), [`Task`](super::Task), [`Imap`](super::Imap)) use only these
//! traits, so they are the same for all.

use std::ops::RangeInclusive;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::wire::Message;

/// The lowest and the highest priority of a call.
const PRIORITIES: RangeInclusive<i32> = -100..=100;

/// The settings of a call, as far as its engine needs them.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallOptions {
    /// How many tasks a worker takes at a time; `None` if the engine chooses.
    pub chunksize: Option<usize>,
    /// How long each task may run.
    pub timeout: Option<Duration>,
    /// How long a task may go on after it was asked to stop.
    pub grace: Option<Duration>,
    /// How many times a task that failed is tried again.
    pub retries: u32,
    /// Calls with a higher priority go first.
    pub priority: i32,
    /// The number from which the seeds of the tasks are made.
    pub seed: Option<u64>,
    /// Whether the call ends with the first task that fails.
    pub fail_fast: bool,
}

impl CallOptions {
    /// Checks the settings.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.chunksize == Some(0) {
            let why = "a chunksize of 0 makes no chunks: set 1 or more, or leave the chunksize out";
            return Err(Error::invalid(why));
        }
        if !PRIORITIES.contains(&self.priority) {
            let (min, max) = PRIORITIES.into_inner();
            let priority = self.priority;
            let why =
                format!("the priority of a call is a number from {min} to {max}, not {priority}");
            return Err(Error::invalid(why));
        }
        Ok(())
    }
}

/// Runs calls: a pool, a cluster, or the caller itself ([`InProcess`](super::InProcess)).
pub trait Engine {
    /// The name of a function, by which workers find it.
    type Function: Copy;
    /// Data that a call's function borrows, as the engine keeps it. The data goes when the last
    /// clone is dropped and the last call with it is done.
    type Data: Clone;
    /// A call of this engine.
    type Job: Job + 'static;

    /// Returns the name of a function.
    ///
    /// # Errors
    ///
    /// Workers could not find the function by its name.
    fn function<F, A, R>(function: F) -> Result<Self::Function, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message;

    /// Returns the name of a function that borrows data.
    ///
    /// # Errors
    ///
    /// As for [`function`](Engine::function).
    fn function_with_data<F, D, A, R>(function: F) -> Result<Self::Function, Error>
    where
        F: Fn(&D, A) -> R + Copy + 'static,
        D: Message,
        A: Message,
        R: Message;

    /// Encodes data for the functions of calls.
    ///
    /// # Errors
    ///
    /// The data cannot be encoded.
    fn bind<D: Message + Send + Sync>(&self, data: D) -> Result<Self::Data, Error>;

    /// Begins a call, which has no tasks yet. `data` is what its function borrows.
    ///
    /// # Errors
    ///
    /// The engine accepts no more calls.
    fn begin(
        &self,
        function: Self::Function,
        data: Option<Self::Data>,
        options: CallOptions,
    ) -> Result<Self::Job, Error>;
}

/// One call of an engine: arguments go in, results come out.
pub trait Job: Send {
    /// Results as they arrive.
    type Arrived: Arrived;
    /// A guard: as long as it lives, its thread polls and collects results.
    type Collecting;

    /// Encodes arguments, until they have `max_bytes` together. [`submit`](Job::submit) hands them
    /// out.
    ///
    /// # Errors
    ///
    /// An argument cannot be encoded. Its task still has a number. The caller must submit the
    /// arguments before it, and may then push the next ones.
    fn push<A: Message>(&mut self, arguments: &[A], max_bytes: usize) -> Result<(), Error>;

    /// Makes room for `tasks` tasks that will be submitted, where the number of tasks is limited.
    /// Waits for it if `wait` is true. Returns whether there is room.
    ///
    /// # Errors
    ///
    /// There will never be so much room, or the engine accepts no more work.
    fn reserve(&mut self, tasks: usize, wait: bool) -> Result<bool, Error> {
        let _ = (tasks, wait);
        Ok(true)
    }

    /// How many tasks were pushed since the last `submit`.
    fn pushed(&self) -> usize;

    /// How many bytes these tasks have.
    fn pushed_bytes(&self) -> usize;

    /// Hands out the tasks that were pushed. At least `more` tasks will follow.
    ///
    /// # Errors
    ///
    /// The engine accepts no more work.
    fn submit(&mut self, more: usize) -> Result<(), Error>;

    /// Tells the engine that no more tasks will follow.
    fn end(&mut self);

    /// How many workers the engine has.
    fn workers(&self) -> usize;

    /// Whether the caller should push no more tasks for now. `in_flight` is how many chunks of the
    /// call are in flight. Always false if there are none: the caller would wait for other calls.
    fn is_full(&self, in_flight: usize) -> bool;

    /// Checks that this process may use the call.
    ///
    /// # Errors
    ///
    /// This process is a copy, made by `fork`, of the one that began the call.
    fn check_process(&self) -> Result<(), Error>;

    /// Notes that this thread polls for results now and then, and collects them, as long as the
    /// returned guard lives.
    fn collecting(&self) -> Self::Collecting;

    /// Returns the next results that have arrived. If nothing more will arrive, returns the reason.
    fn poll(&self) -> Option<Result<Self::Arrived, Error>>;

    /// Like [`poll`](Job::poll). If nothing has arrived, wakes `waker` when something does.
    fn poll_or_wake(&self, waker: &Waker) -> Option<Result<Self::Arrived, Error>>;

    /// Waits until something has arrived, preferably `wanted` results. Returns `None` if the
    /// deadline passes first.
    fn wait(
        &self,
        wanted: usize,
        deadline: Option<Instant>,
    ) -> Option<Result<Self::Arrived, Error>>;

    /// How many times a task was tried or handed out again.
    fn retried(&self) -> usize;

    /// Cancels all tasks. Returns false if they were done, cancelled or asked to stop before.
    fn cancel(&self) -> bool;

    /// Drops the tasks that are not done, because nothing waits for them any more.
    fn abandon(&mut self);
}

/// Results of a call that arrived together, still encoded.
pub trait Arrived {
    /// The number of tasks whose results these are.
    fn count(&self) -> usize;

    /// Decodes the results. Calls `settle` with each task's number and its result or error.
    fn decode<R: Message>(self, settle: impl FnMut(usize, Result<R, Error>));
}
