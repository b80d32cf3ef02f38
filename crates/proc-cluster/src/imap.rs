//! Results as an iterator, inputs taken only a window ahead of them.

use std::collections::{BTreeMap, VecDeque};
use std::marker::PhantomData;
use std::sync::Arc;

use proc_core::remote;
use proc_core::{Error, Message};

use crate::job::{Batch, Handle, Note};
use crate::link::Link;

/// How many inputs may be on their way for each worker, and how many at least.
const WINDOW_PER_WORKER: usize = 16;
const MIN_WINDOW: usize = 64;

/// Results in the order in which they arrive; made by
/// [`Cluster::imap_unordered`](crate::Cluster::imap_unordered).
#[must_use = "an iterator does nothing before it is asked"]
pub struct ImapUnordered<'a, F, R, I> {
    link: &'a Arc<Link>,
    /// The call, or why there is none any more.
    job: Result<Handle, Error>,
    inputs: std::iter::Fuse<I>,
    chunksize: usize,
    /// How many inputs were taken.
    taken: usize,
    /// How many of them have no result yet.
    open: usize,
    /// Whether the last result was handed on.
    over: bool,
    /// Results that are not handed on yet.
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

    /// Takes the next chunk of inputs, if `held` results held back elsewhere leave room for it.
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

    /// The next result with its number; `held` more are held back by the caller.
    fn next_numbered(&mut self, held: usize) -> Option<(usize, Result<R, Error>)> {
        // Two for each result taken: the window fills, and a slow input does not hold up results.
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
                // One error stands for all that is lost with the fleet, and is the last.
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
    /// Results that are ahead of their turn.
    early: BTreeMap<usize, Result<R, Error>>,
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
                // After the fleet is lost there are gaps: what came after them still counts.
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
