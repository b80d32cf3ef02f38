//! `Imap` and `ImapUnordered`: iterators over results. They take inputs only a window ahead of the
//! results that the caller has taken.

use std::collections::{BTreeMap, VecDeque};
use std::marker::PhantomData;
use std::sync::Arc;

use proc_core::remote;
use proc_core::{Error, Message};

use crate::job::{Batch, Handle, Note};
use crate::link::Link;

/// The size of the window: how many inputs for each worker, and how many in all at least.
const WINDOW_PER_WORKER: usize = 16;
const MIN_WINDOW: usize = 64;

/// Results in the order in which they arrive; made by
/// [`Cluster::imap_unordered`](crate::Cluster::imap_unordered).
#[must_use = "an iterator does nothing before it is asked"]
pub struct ImapUnordered<'a, F, R, I> {
    link: &'a Arc<Link>,
    /// The call, or the error with which it ended.
    job: Result<Handle, Error>,
    inputs: std::iter::Fuse<I>,
    chunksize: usize,
    /// How many inputs were taken.
    taken: usize,
    /// How many of the inputs taken have no result yet.
    open: usize,
    /// Whether the last result was returned.
    over: bool,
    /// Results that have arrived and were not returned yet.
    ready: VecDeque<(usize, Result<R, Error>)>,
    function: PhantomData<fn() -> F>,
}

impl<'a, F, A, R, I> ImapUnordered<'a, F, R, I>
where
    F: Fn(A) -> R + Copy + 'static,
    A: Message,
    R: Message,
    I: Iterator<Item = A>,
{
    pub(crate) fn new(
        link: &'a Arc<Link>,
        job: Result<Handle, Error>,
        inputs: I,
        chunksize: Option<usize>,
    ) -> Self {
        ImapUnordered {
            link,
            job,
            inputs: inputs.fuse(),
            chunksize: chunksize.unwrap_or(1).max(1),
            taken: 0,
            open: 0,
            over: false,
            ready: VecDeque::new(),
            function: PhantomData,
        }
    }

    /// Takes the next chunk of inputs, if the window has room for it. Returns whether it took any.
    ///
    /// `held` is the number of results that the caller keeps back; they count as part of the
    /// window.
    fn take_chunk(&mut self, held: usize) -> bool {
        let Ok(job) = &self.job else { return false };
        let window = (WINDOW_PER_WORKER * self.link.workers()).max(MIN_WINDOW);
        let window = window.max(self.chunksize.saturating_mul(2));
        let ahead = self.open + self.ready.len() + held;
        if ahead > 0 && window.saturating_sub(ahead) < self.chunksize {
            return false;
        }
        let first = self.taken;
        let mut batch = Batch { first, ..Batch::default() };
        while batch.count < self.chunksize {
            let Some(input) = self.inputs.next() else { break };
            let task = self.taken;
            self.taken += 1;
            if let Err(error) = remote::encode(&input, &mut batch.bytes) {
                self.ready.push_back((task, Err(remote::at(error, Some(task), None))));
                break;
            }
            batch.count += 1;
        }
        self.open += batch.count;
        job.send(Note::Tasks(batch));
        self.taken > first
    }

    /// Returns the next result with the number of its task.
    ///
    /// `held` is the number of results that the caller keeps back.
    fn next_numbered(&mut self, held: usize) -> Option<(usize, Result<R, Error>)> {
        // Takes two chunks of inputs for each result. So the window fills, while slow inputs do not
        // delay the results that have arrived.
        let mut more = self.take_chunk(held) && self.take_chunk(held);
        while !self.over {
            if let Some(result) = self.ready.pop_front() {
                return Some(result);
            }
            let arrived = match &self.job {
                Ok(job) => match job.mailbox.poll() {
                    None if more => {
                        more = self.take_chunk(held);
                        continue;
                    }
                    None if self.open > 0 => job.mailbox.wait(None),
                    arrived => arrived,
                },
                Err(_) => None,
            };
            match arrived {
                Some(Ok(delivery)) => {
                    self.open -= delivery.count;
                    let ready = &mut self.ready;
                    delivery.open(|task, result| ready.push_back((task, result)));
                }
                Some(Err(error)) => {
                    self.open = 0;
                    self.job = Err(error);
                }
                None => {}
            }
            if self.open == 0 && self.ready.is_empty() && !self.take_chunk(held) {
                // If the call ended as a whole, its error stands for all tasks without a result,
                // and is the last item.
                self.over = true;
                return self.job.as_ref().err().map(|error| (usize::MAX, Err(error.clone())));
            }
        }
        None
    }
}

impl<F, A, R, I> Iterator for ImapUnordered<'_, F, R, I>
where
    F: Fn(A) -> R + Copy + 'static,
    A: Message,
    R: Message,
    I: Iterator<Item = A>,
{
    type Item = Result<R, Error>;

    fn next(&mut self) -> Option<Result<R, Error>> {
        self.next_numbered(0).map(|(_, result)| result)
    }
}

/// Results in the order of the inputs; made by [`Cluster::imap`](crate::Cluster::imap).
#[must_use = "an iterator does nothing before it is asked"]
pub struct Imap<'a, F, R, I> {
    arriving: ImapUnordered<'a, F, R, I>,
    /// Results that arrived before their turn, by the number of their task.
    early: BTreeMap<usize, Result<R, Error>>,
    /// The number of the task whose result is next.
    turn: usize,
}

impl<'a, F, R, I> Imap<'a, F, R, I> {
    pub(crate) fn new(arriving: ImapUnordered<'a, F, R, I>) -> Self {
        Imap { arriving, early: BTreeMap::new(), turn: 0 }
    }
}

impl<F, A, R, I> Iterator for Imap<'_, F, R, I>
where
    F: Fn(A) -> R + Copy + 'static,
    A: Message,
    R: Message,
    I: Iterator<Item = A>,
{
    type Item = Result<R, Error>;

    fn next(&mut self) -> Option<Result<R, Error>> {
        loop {
            if let Some(result) = self.early.remove(&self.turn) {
                self.turn += 1;
                return Some(result);
            }
            match self.arriving.next_numbered(self.early.len()) {
                Some((task, result)) => self.early.insert(task, result),
                // If the call ended as a whole, some tasks have no result. The results of later
                // tasks are still returned.
                None => {
                    return self.early.pop_first().map(|(task, result)| {
                        self.turn = task.saturating_add(1);
                        result
                    });
                }
            };
        }
    }
}

impl<F, R, I> std::fmt::Debug for ImapUnordered<'_, F, R, I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImapUnordered").field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl<F, R, I> std::fmt::Debug for Imap<'_, F, R, I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Imap").field("turn", &self.turn).finish_non_exhaustive()
    }
}
