//! `Options`: a cluster's calls with settings of their own.

use std::sync::Arc;
use std::time::Duration;

use proc_core::remote::Function;
use proc_core::{Error, Message, remote};

use crate::imap::{Imap, ImapUnordered};
use crate::job::{self, Batch, Handle, Note, Terms};
use crate::link::Link;
use crate::mailbox::Delivery;
use crate::task::Task;

/// A cluster's calls with settings of their own; returned by
/// [`Cluster::options`](crate::Cluster::options).
#[derive(Clone, Copy)]
#[must_use = "settings do nothing without a call"]
pub struct Options<'a> {
    link: &'a Arc<Link>,
    /// `None` after the cluster has ended.
    runtime: Option<&'a tokio::runtime::Handle>,
    terms: Terms,
    progress: Option<&'a dyn Fn(Progress)>,
}

/// The progress of a call, counted in tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How many tasks have a result or an error.
    pub done: usize,
    /// How many tasks the call has.
    pub all: usize,
}

impl<'a> Options<'a> {
    pub(crate) fn new(
        link: &'a Arc<Link>,
        runtime: Option<&'a tokio::runtime::Handle>,
    ) -> Options<'a> {
        Options { link, runtime, terms: Terms::default(), progress: None }
    }

    /// Sets the chunksize: how many tasks run one after the other in one worker.
    ///
    /// Without this setting the cluster measures the tasks, and makes chunks of about ten
    /// milliseconds, which become smaller towards the end of the call. Chunks of an explicit size
    /// that take almost no time still travel together in one message, at most 64 tasks or a
    /// millisecond's work. The agent gives these chunks to its workers one by one. One message
    /// carries at most 256 KiB of arguments, unless a single task has more. A chunksize of zero is
    /// an error of the call.
    pub fn chunksize(mut self, tasks: usize) -> Self {
        self.terms.chunksize = Some(tasks);
        self
    }

    /// Sets how long each task may run. The time counts from when a worker calls the function.
    ///
    /// When the time is over, the worker is killed and replaced, and the task fails
    /// ([`Error::is_timeout`]).
    pub fn timeout(mut self, each: Duration) -> Self {
        self.terms.timeout = Some(each);
        self
    }

    /// Sets how often a task is tried again, on the same machine, after it panicked, its worker
    /// died or its time ran out.
    ///
    /// The default is zero. The loss of a machine is not a failure of its tasks: they run on
    /// another machine in any case.
    pub fn retries(mut self, times: u32) -> Self {
        self.terms.retries = times;
        self
    }

    /// Sets a function that [`map`](Options::map) and [`try_map`](Options::try_map) call whenever
    /// results have arrived. It runs in the calling thread.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), proc_cluster::Error> {
    /// # proc_cluster::init();
    /// # let cluster = proc_cluster::Cluster::connect("nats://127.0.0.1:4222")?;
    /// let show = |p: proc_cluster::Progress| eprint!("\r{} of {}", p.done, p.all);
    /// cluster.options().progress(&show).map(|x: u64| x * x, 0..1_000_000)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn progress(mut self, show: &'a dyn Fn(Progress)) -> Self {
        self.progress = Some(show);
        self
    }

    /// See [`Cluster::map`](crate::Cluster::map).
    ///
    /// # Errors
    ///
    /// As for [`Cluster::map`](crate::Cluster::map); or the chunksize is zero.
    pub fn map<F, A, R, I>(self, function: F, inputs: I) -> Result<Vec<R>, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        self.try_map(function, inputs).into_iter().collect()
    }

    /// See [`Cluster::try_map`](crate::Cluster::try_map). If the chunksize is zero, each input gets
    /// that error.
    pub fn try_map<F, A, R, I>(self, function: F, inputs: I) -> Vec<Result<R, Error>>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        let mut results: Vec<Option<Result<R, Error>>> = Vec::new();
        let lost = self.run(function, inputs, &mut results).err();
        let fill = |(task, result): (usize, Option<_>)| {
            let lost = || lost.clone().unwrap_or_else(crate::link::closed);
            result.unwrap_or_else(|| Err(remote::at(lost(), Some(task), None)))
        };
        results.into_iter().enumerate().map(fill).collect()
    }

    /// Runs all inputs.
    ///
    /// # Errors
    ///
    /// The call ended as a whole, before all tasks had a result or an error.
    fn run<F, A, R, I>(
        self,
        function: F,
        inputs: I,
        results: &mut Vec<Option<Result<R, Error>>>,
    ) -> Result<(), Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        let job = match self.start::<F, A, R>(function) {
            Ok(job) => job,
            Err(error) => {
                results.resize_with(inputs.into_iter().count(), || None);
                return Err(error);
            }
        };
        let mut batch = Batch::default();
        let mut done = 0;
        for argument in inputs {
            let task = results.len();
            match remote::encode(&argument, &mut batch.bytes) {
                Ok(()) => {
                    results.push(None);
                    batch.count += 1;
                }
                Err(error) => {
                    results.push(Some(Err(remote::at(error, Some(task), None))));
                    done += 1;
                    let next = Batch { first: task + 1, ..Batch::default() };
                    job.send(Note::Tasks(std::mem::replace(&mut batch, next)));
                }
            }
        }
        job.send(Note::Tasks(batch));
        job.send(Note::End);
        let all = results.len();
        while done < all {
            let Some(delivery) = job.mailbox.wait(None) else { continue };
            delivery?.open(|task, result| {
                results[task] = Some(result);
                done += 1;
            });
            if let Some(show) = self.progress {
                show(Progress { done, all });
            }
        }
        Ok(())
    }

    /// See [`Cluster::imap`](crate::Cluster::imap).
    pub fn imap<F, A, R, I>(self, function: F, inputs: I) -> Imap<'a, F, R, I::IntoIter>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        Imap::new(self.imap_unordered(function, inputs))
    }

    /// See [`Cluster::imap_unordered`](crate::Cluster::imap_unordered).
    pub fn imap_unordered<F, A, R, I>(
        self,
        function: F,
        inputs: I,
    ) -> ImapUnordered<'a, F, R, I::IntoIter>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
        I: IntoIterator<Item = A>,
    {
        let job = self.start::<F, A, R>(function);
        ImapUnordered::new(self.link, job, inputs.into_iter(), self.terms.chunksize)
    }

    /// See [`Cluster::apply_async`](crate::Cluster::apply_async).
    ///
    /// # Errors
    ///
    /// As for [`Cluster::apply_async`](crate::Cluster::apply_async).
    pub fn apply_async<F, A, R>(self, function: F, argument: A) -> Result<Task<R>, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        let mut batch = Batch { count: 1, ..Batch::default() };
        remote::encode(&argument, &mut batch.bytes)?;
        let job = self.start::<F, A, R>(function)?;
        job.send(Note::Tasks(batch));
        job.send(Note::End);
        let gather = |delivery: Delivery| {
            let mut only = None;
            delivery.open(|_, result| only = Some(result));
            only
        };
        Ok(Task::new(job, 1, Box::new(gather)))
    }

    /// See [`Cluster::map_async`](crate::Cluster::map_async).
    ///
    /// # Errors
    ///
    /// As for [`Cluster::map_async`](crate::Cluster::map_async).
    pub fn map_async<F, A, R, I>(self, function: F, inputs: I) -> Result<Task<Vec<R>>, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message + Send,
        I: IntoIterator<Item = A>,
    {
        let mut batch = Batch::default();
        for argument in inputs {
            remote::encode(&argument, &mut batch.bytes)
                .map_err(|error| remote::at(error, Some(batch.count), None))?;
            batch.count += 1;
        }
        let all = batch.count;
        if all == 0 {
            return Ok(Task::settled(Ok(Vec::new())));
        }
        let job = self.start::<F, A, R>(function)?;
        let mut results: Vec<Option<Result<R, Error>>> = Vec::new();
        results.resize_with(all, || None);
        let mut open = all;
        let gather = move |delivery: Delivery| {
            open -= delivery.count;
            delivery.open(|task, result| results[task] = Some(result));
            (open == 0).then(|| results.drain(..).flatten().collect())
        };
        job.send(Note::Tasks(batch));
        job.send(Note::End);
        Ok(Task::new(job, all, Box::new(gather)))
    }

    fn start<F, A, R>(self, function: F) -> Result<Handle, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        if self.terms.chunksize == Some(0) {
            let what = "a chunk holds at least one task: chunksize 0 makes none";
            return Err(remote::invalid_error(what));
        }
        let function = Function::of(function)?;
        let runtime = self.runtime.ok_or_else(crate::link::closed)?;
        job::start(runtime, self.link, function, self.terms)
    }
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("terms", &self.terms).finish_non_exhaustive()
    }
}
