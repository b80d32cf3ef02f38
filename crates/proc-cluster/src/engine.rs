//! A cluster as the engine of calls. [`ClusterJob`] is one call as its caller sees it.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use proc_core::remote::{self, Arrived, CallOptions, Engine, Function, Job};
use proc_core::{Error, Executor, Message};
use tokio::sync::mpsc::UnboundedSender;

use crate::bound_data::BoundData;
use crate::cluster::Cluster;
use crate::job::{self, Batch, Call, Note};
use crate::link::Link;
use crate::mailbox::{Delivery, Mailbox};

impl Executor for Cluster {}

impl Engine for Cluster {
    type Function = Function;
    type Data = ClusterData;
    type Job = ClusterJob;

    fn function<F, A, R>(function: F) -> Result<Function, Error>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        Function::of(function)
    }

    fn function_with_data<F, D, A, R>(function: F) -> Result<Function, Error>
    where
        F: Fn(&D, A) -> R + Copy + 'static,
        D: Message,
        A: Message,
        R: Message,
    {
        Function::of_with_data(function)
    }

    fn bind<D: Message + Send + Sync>(&self, data: D) -> Result<ClusterData, Error> {
        let (link, runtime) = self.parts()?;
        let bytes = remote::encode_data(&data)?;
        Ok(ClusterData(Arc::new(BoundData::new(link, runtime, bytes))))
    }

    fn begin(
        &self,
        function: Function,
        data: Option<ClusterData>,
        options: CallOptions,
    ) -> Result<ClusterJob, Error> {
        let (link, runtime) = self.parts()?;
        let call = Call { function, data: data.map(|ClusterData(data)| data), options };
        let (notes, mailbox) = job::start(runtime, link, call)?;
        let link = Arc::clone(link);
        Ok(ClusterJob {
            link,
            notes,
            mailbox,
            batch: Batch::default(),
            next: 0,
            sent: 0,
            ended: false,
        })
    }
}

/// Data that functions of a cluster's calls borrow, as the user holds them.
#[derive(Clone)]
pub struct ClusterData(Arc<BoundData>);

/// A call of a cluster. The job itself runs in the driver's runtime; the caller sends it notes and
/// reads its mailbox.
///
/// Dropping it cancels the call, unless all its tasks were submitted ([`Job::end`]).
pub struct ClusterJob {
    link: Arc<Link>,
    notes: UnboundedSender<Note>,
    mailbox: Arc<Mailbox>,
    /// The tasks that are pushed and not submitted.
    batch: Batch,
    /// The number of the next task.
    next: usize,
    /// How many tasks were submitted.
    sent: usize,
    /// Whether no more tasks will follow.
    ended: bool,
}

impl ClusterJob {
    fn send(&self, note: Note) {
        // If the job has ended, the mailbox holds the reason.
        let _ = self.notes.send(note);
    }
}

impl Job for ClusterJob {
    type Arrived = Delivery;
    /// No guard: the job collects results in the driver's runtime in any case.
    type Collecting = ();

    fn push<A: Message>(&mut self, arguments: &[A], max_bytes: usize) -> Result<(), Error> {
        for argument in arguments {
            self.next += 1;
            remote::encode_argument(argument, &mut self.batch.bytes)?;
            self.batch.count += 1;
            if self.batch.bytes.len() >= max_bytes {
                break;
            }
        }
        Ok(())
    }

    fn pushed(&self) -> usize {
        self.batch.count
    }

    fn pushed_bytes(&self) -> usize {
        self.batch.bytes.len()
    }

    fn submit(&mut self, _more: usize) -> Result<(), Error> {
        let empty = Batch { first: self.next, ..Batch::default() };
        let batch = std::mem::replace(&mut self.batch, empty);
        self.sent += batch.count;
        if batch.count > 0 {
            self.send(Note::Tasks(batch));
        }
        Ok(())
    }

    fn end(&mut self) {
        self.ended = true;
        self.send(Note::End);
    }

    fn workers(&self) -> usize {
        self.link.workers()
    }

    /// Always false: the job takes all tasks, and hands them out within its window.
    fn is_full(&self, _in_flight: usize) -> bool {
        false
    }

    fn check_process(&self) -> Result<(), Error> {
        Ok(())
    }

    fn collecting(&self) {}

    fn poll(&self) -> Option<Result<Delivery, Error>> {
        self.mailbox.poll()
    }

    fn poll_or_wake(&self, waker: &Waker) -> Option<Result<Delivery, Error>> {
        self.mailbox.poll_or_wake(waker)
    }

    fn wait(&self, _wanted: usize, deadline: Option<Instant>) -> Option<Result<Delivery, Error>> {
        self.mailbox.wait(deadline)
    }

    fn retried(&self) -> usize {
        self.mailbox.retried()
    }

    fn cancel(&self) -> bool {
        let cancelled = self.mailbox.cancel(self.sent);
        if cancelled {
            self.send(Note::Close(remote::cancelled_error()));
        }
        cancelled
    }

    fn abandon(&mut self) {
        self.send(Note::Close(remote::cancelled_error()));
    }
}

impl Drop for ClusterJob {
    fn drop(&mut self) {
        if !self.ended {
            self.abandon();
        }
    }
}

impl Arrived for Delivery {
    fn count(&self) -> usize {
        self.count
    }

    /// Decodes the fates, and calls `settle` with the number and the fate of each task.
    fn decode<R: Message>(self, mut settle: impl FnMut(usize, Result<R, Error>)) {
        let Delivery { first, count, host, fates } = self;
        match fates {
            Ok(fates) => remote::decode_fates(&fates, first, count, &host, settle),
            Err(error) => {
                let host = Some(&host[..]).filter(|host| !host.is_empty());
                for task in first..first + count {
                    settle(task, Err(remote::add_origin(error.clone(), Some(task), host)));
                }
            }
        }
    }
}
