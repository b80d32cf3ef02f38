//! Results as an iterator, inputs taken only a window ahead of them.

use std::collections::{BTreeMap, VecDeque};
use std::iter::FusedIterator;
use std::sync::Arc;

use crate::call::Name;
use crate::error::{Error, Origin};
use crate::pool::job::{Inbox, TaskQueue, queue};
use crate::pool::scheduler::Scheduler;
use crate::wire::Message;

/// How many inputs may be on their way for each worker, and how many at least.
const WINDOW_PER_WORKER: usize = 16;
const MIN_WINDOW: usize = 64;

/// Results in the order in which they arrive; made by [`Pool::imap_unordered`](crate::Pool).
#[must_use = "an iterator does nothing before it is asked"]
pub struct ImapUnordered<'a, R, I> {
    scheduler: &'a Arc<Scheduler>,
    inbox: Arc<Inbox>,
    /// What is called, or why nothing more is.
    name: Result<Name, Error>,
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
}

impl<'a, A, R, I> ImapUnordered<'a, R, I>
where
    A: Message,
    R: Message,
    I: Iterator<Item = A>,
{
    pub(crate) fn new(
        scheduler: &'a Arc<Scheduler>,
        inbox: Arc<Inbox>,
        name: Result<Name, Error>,
        inputs: I,
        chunksize: Option<usize>,
    ) -> Self {
        ImapUnordered {
            scheduler,
            inbox,
            name,
            inputs: inputs.fuse(),
            chunksize: chunksize.unwrap_or(1).max(1),
            taken: 0,
            open: 0,
            over: false,
            ready: VecDeque::new(),
        }
    }

    /// Takes the next chunk of inputs, if `held` results held back elsewhere leave room for it.
    fn take_chunk(&mut self, held: usize) -> bool {
        let Ok(name) = self.name else { return false };
        let window = (WINDOW_PER_WORKER * self.scheduler.processes()).max(MIN_WINDOW);
        let window = window.max(self.chunksize.saturating_mul(2));
        let ahead = self.open + self.ready.len() + held;
        if ahead > 0 && window.saturating_sub(ahead) < self.chunksize {
            return false;
        }
        if ahead > 0 && (self.scheduler.is_full(1) || queue::has_many_handles()) {
            return false;
        }
        let first = self.taken;
        let mut queue = TaskQueue::new(name, &self.inbox, first, Some(self.chunksize));
        while queue.left < self.chunksize {
            let Some(input) = self.inputs.next() else { break };
            let task = self.taken;
            self.taken += 1;
            if let Err(error) = queue.push(&input, self.scheduler.clone()) {
                let place = Origin { task: Some(task), ..Origin::default() };
                self.ready.push_back((task, Err(error.with_origin(place))));
                break;
            }
        }
        let pushed = queue.left;
        match self.scheduler.submit(queue) {
            Ok(()) => self.open += pushed,
            Err(error) => self.name = Err(error),
        }
        self.taken > first
    }

    /// How many results are still to come; `early` more are held back by the caller.
    ///
    /// Where the pool ends, one error takes the place of all that is lost.
    fn hint(&self, early: usize) -> (usize, Option<usize>) {
        let ready = self.ready.len() + early;
        if self.over {
            return (ready, Some(ready));
        }
        let inputs = self.inputs.size_hint().1;
        let most = inputs.and_then(|inputs| inputs.checked_add(self.open + ready));
        // An error may come where there is no input.
        (ready, most.map(|most| most.max(1)))
    }

    /// The next result with its number; `held` more are held back by the caller.
    fn next_numbered(&mut self, held: usize) -> Option<(usize, Result<R, Error>)> {
        if let Err(error) = self.scheduler.check_maker()
            && !std::mem::replace(&mut self.over, true)
        {
            return Some((usize::MAX, Err(error)));
        }
        // Two for each result taken: the window fills, and a slow input does not hold up results.
        let mut more = self.take_chunk(held) && self.take_chunk(held);
        while !self.over {
            if let Some(result) = self.ready.pop_front() {
                return Some(result);
            }
            let arrived = match self.inbox.poll() {
                None if more => {
                    more = self.take_chunk(held);
                    continue;
                }
                None if self.open > 0 => self.scheduler.wait(&self.inbox, 1, None),
                arrived => arrived,
            };
            match arrived {
                Some(Ok(delivery)) => {
                    self.open -= delivery.count();
                    let ready = &mut self.ready;
                    delivery.open(|task, result| ready.push_back((task, result)));
                }
                Some(Err(error)) => {
                    self.open = 0;
                    self.name = Err(error);
                }
                None => {}
            }
            if self.open == 0 && self.ready.is_empty() && !self.take_chunk(held) {
                // One error stands for all that is lost with the pool, and is the last.
                self.over = true;
                return self.name.as_ref().err().map(|error| (usize::MAX, Err(error.clone())));
            }
        }
        None
    }
}

impl<A, R, I> Iterator for ImapUnordered<'_, R, I>
where
    A: Message,
    R: Message,
    I: Iterator<Item = A>,
{
    type Item = Result<R, Error>;

    fn next(&mut self) -> Option<Result<R, Error>> {
        self.next_numbered(0).map(|(_, result)| result)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.hint(0)
    }
}

impl<A, R, I> FusedIterator for ImapUnordered<'_, R, I>
where
    A: Message,
    R: Message,
    I: Iterator<Item = A>,
{
}

impl<R, I> Drop for ImapUnordered<'_, R, I> {
    fn drop(&mut self) {
        self.scheduler.drop_queues(&self.inbox);
    }
}

/// Results in the order of the inputs; made by [`Pool::imap`](crate::Pool::imap).
#[must_use = "an iterator does nothing before it is asked"]
pub struct Imap<'a, R, I> {
    arriving: ImapUnordered<'a, R, I>,
    /// Results that are ahead of their turn.
    early: BTreeMap<usize, Result<R, Error>>,
    turn: usize,
}

impl<'a, R, I> Imap<'a, R, I> {
    pub(crate) fn new(arriving: ImapUnordered<'a, R, I>) -> Self {
        Imap { arriving, early: BTreeMap::new(), turn: 0 }
    }
}

impl<A, R, I> Iterator for Imap<'_, R, I>
where
    A: Message,
    R: Message,
    I: Iterator<Item = A>,
{
    type Item = Result<R, Error>;

    fn next(&mut self) -> Option<Result<R, Error>> {
        // What has come before counts as little in a copy as what is to come.
        if let Err(error) = self.arriving.scheduler.check_maker() {
            let was_over = std::mem::replace(&mut self.arriving.over, true);
            let lost = !was_over || !self.early.is_empty();
            self.early.clear();
            return lost.then_some(Err(error));
        }
        loop {
            if let Some(result) = self.early.remove(&self.turn) {
                self.turn += 1;
                return Some(result);
            }
            match self.arriving.next_numbered(self.early.len()) {
                Some((task, result)) => self.early.insert(task, result),
                // After the pool has ended there are gaps: what came after them still counts.
                None => {
                    return self.early.pop_first().map(|(task, result)| {
                        self.turn = task.saturating_add(1);
                        result
                    });
                }
            };
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.arriving.hint(self.early.len())
    }
}

impl<A, R, I> FusedIterator for Imap<'_, R, I>
where
    A: Message,
    R: Message,
    I: Iterator<Item = A>,
{
}

impl<R, I> std::fmt::Debug for ImapUnordered<'_, R, I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImapUnordered").field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl<R, I> std::fmt::Debug for Imap<'_, R, I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Imap").field("turn", &self.turn).finish_non_exhaustive()
    }
}
