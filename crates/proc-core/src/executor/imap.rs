//! `Imap` and `ImapUnordered`: iterators over results. They take inputs only a window ahead of the
//! results that the caller has taken.

use std::collections::{BTreeMap, VecDeque};
use std::iter::FusedIterator;

use super::engine::{Arrived, CallOptions, Engine, Job};
use super::progress::Meter;
use crate::error::{Error, Origin};
use crate::wire::Message;

/// How many inputs the window has for each worker.
const WINDOW_PER_WORKER: usize = 16;

/// The smallest window.
const MIN_WINDOW: usize = 64;

/// Results in the order in which they arrive; returned by `imap_unordered` of a
/// [`Pool`](crate::Pool::imap_unordered) or a cluster.
///
/// ```
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let pool = proc_core::Pool::builder().processes(2).build()?;
///     let mut sum = 0;
///     for square in pool.imap_unordered(|x: u64| x * x, 1..=100) {
///         sum += square?; // whichever is ready
///     }
///     assert_eq!(sum, 338_350);
///     Ok(())
/// }
/// ```
#[must_use = "an iterator does nothing before it is asked"]
pub struct ImapUnordered<'a, E: Engine, R, I> {
    /// `None` if the call could not begin.
    job: Option<E::Job>,
    /// The error after which no more inputs are taken.
    error: Option<Error>,
    inputs: std::iter::Fuse<I>,
    chunksize: usize,
    /// Whether the call ends with the first task that fails.
    fail_fast: bool,
    /// Whether a task has failed that ends the call.
    has_failed: bool,
    meter: Meter<'a>,
    /// Whether the first result was asked for.
    has_begun: bool,
    /// How many inputs were taken.
    taken: usize,
    /// How many of the inputs taken have no result yet.
    unfinished: usize,
    /// Whether the last result was returned.
    over: bool,
    /// Results that have arrived and were not returned yet.
    ready: VecDeque<(usize, Result<R, Error>)>,
}

impl<'a, E: Engine, R: Message, I: Iterator<Item: Message>> ImapUnordered<'a, E, R, I> {
    pub(super) fn new(
        job: Result<E::Job, Error>,
        inputs: I,
        options: CallOptions,
        meter: Meter<'a>,
    ) -> Self {
        let (job, error) = match job {
            Ok(job) => (Some(job), None),
            Err(error) => (None, Some(error)),
        };
        ImapUnordered {
            job,
            error,
            inputs: inputs.fuse(),
            chunksize: options.chunksize.unwrap_or(1).max(1),
            fail_fast: options.fail_fast,
            has_failed: false,
            meter,
            has_begun: false,
            taken: 0,
            unfinished: 0,
            over: false,
            ready: VecDeque::new(),
        }
    }

    /// Takes the next chunk of inputs, if the window has room for it. Returns whether it took any.
    ///
    /// `held` is how many results an [`Imap`] holds back. They are part of the window too.
    fn take_chunk(&mut self, held: usize) -> bool {
        let (Some(job), None, false) = (&mut self.job, &self.error, self.has_failed) else {
            return false;
        };
        let window = (WINDOW_PER_WORKER * job.workers()).max(MIN_WINDOW);
        let window = window.max(self.chunksize.saturating_mul(2));
        let ahead = self.unfinished + self.ready.len() + held;
        // Results that were not returned yet take memory too. If there are only such results, they
        // count as one chunk in flight, because `is_full(0)` is always false.
        let in_flight = self.unfinished.div_ceil(self.chunksize).max(1);
        if ahead > 0 && (window.saturating_sub(ahead) < self.chunksize || job.is_full(in_flight)) {
            return false;
        }
        let (first, mut has_refused) = (self.taken, false);
        while job.pushed() < self.chunksize {
            let Some(input) = self.inputs.next() else { break };
            let task = self.taken;
            self.taken += 1;
            if let Err(error) = job.push(std::slice::from_ref(&input), usize::MAX) {
                self.ready.push_back((task, Err(error.with_origin(Origin::of_task(task)))));
                self.meter.add_failed(1);
                has_refused = true;
                self.has_failed = self.fail_fast;
                break;
            }
        }
        // A call without inputs is submitted too, because a closed engine must refuse it. A call
        // whose inputs are all submitted is not submitted again: the engine may be closed by now.
        if self.taken > first || first == 0 {
            let pushed = job.pushed();
            match job.submit(0) {
                Ok(()) => self.unfinished += pushed,
                Err(error) => self.error = Some(error),
            }
        }
        if has_refused {
            self.show_progress();
        }
        if self.has_failed {
            self.end_early();
        }
        self.taken > first
    }

    /// Ends the call because a task has failed: takes no more inputs, and no results either.
    fn end_early(&mut self) {
        self.has_failed = true;
        self.unfinished = 0;
        if let Some(job) = &mut self.job {
            job.abandon();
        }
    }

    fn show_progress(&mut self) {
        let Some(job) = &self.job else { return };
        let done = self.taken - self.unfinished;
        self.meter.show(done, self.taken, self.inputs.size_hint(), || job.retried());
    }

    /// The lower and the upper bound on the number of results that are still to come, for
    /// `size_hint`.
    ///
    /// `held` is how many results an [`Imap`] holds back.
    fn hint(&self, held: usize) -> (usize, Option<usize>) {
        let ready = if self.over { held } else { self.ready.len() + held };
        // A failure may be the last item, whatever has arrived. A copy of this process gets one
        // error in place of all results.
        let is_cut_short = self.fail_fast || self.check_process().is_err();
        let least = if is_cut_short { ready.min(1) } else { ready };
        if self.over {
            return (least, Some(ready));
        }
        // If the call ends as a whole, one error comes last, even if there is no input.
        let inputs = if self.error.is_some() { Some(1) } else { self.inputs.size_hint().1 };
        let most = inputs.and_then(|inputs| inputs.checked_add(self.unfinished + ready));
        (least, most.map(|most| most.max(1)))
    }

    /// Returns the next result with the number of its task.
    ///
    /// `held` is how many results an [`Imap`] holds back.
    fn next_numbered(&mut self, held: usize) -> Option<(usize, Result<R, Error>)> {
        if let Err(error) = self.check_process()
            && !std::mem::replace(&mut self.over, true)
        {
            return Some((usize::MAX, Err(error)));
        }
        if !std::mem::replace(&mut self.has_begun, true) {
            self.show_progress();
        }
        // Takes up to two chunks of inputs before it looks for a result, so that the window becomes
        // full. If inputs are slow, a result that has arrived waits for two chunks of them at most.
        let mut more = self.take_chunk(held) && self.take_chunk(held);
        while !self.over {
            if let Some((task, result)) = self.ready.pop_front() {
                // The error that ends the call is the last item.
                self.over = self.fail_fast && result.is_err();
                return Some((task, result));
            }
            if self.unfinished == 0 {
                if self.take_chunk(held) {
                    continue;
                }
                // If the call ended as a whole, its error is the last item, for all tasks that have
                // no result.
                self.over = true;
                self.meter.end();
                return self.error.clone().map(|error| (usize::MAX, Err(error)));
            }
            let arrived = match self.job.as_ref().and_then(Job::poll) {
                None if more => {
                    more = self.take_chunk(held);
                    continue;
                }
                None => self.job.as_ref().and_then(|job| job.wait(1, None)),
                arrived => arrived,
            };
            match arrived {
                Some(Ok(arrived)) => {
                    self.unfinished -= arrived.count();
                    let (ready, mut failed) = (&mut self.ready, 0);
                    arrived.decode(|task, result| {
                        failed += usize::from(result.is_err());
                        ready.push_back((task, result));
                    });
                    self.meter.add_failed(failed);
                    self.show_progress();
                    if failed > 0 && self.fail_fast {
                        self.end_early();
                    }
                }
                Some(Err(error)) => {
                    self.unfinished = 0;
                    self.error = Some(error);
                }
                None => {}
            }
        }
        self.meter.end();
        None
    }

    /// Returns an iterator over the same results, each with the index of its input.
    ///
    /// An error has the index too: see [`Error::task`].
    ///
    /// # Examples
    ///
    /// ```
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = proc_core::Pool::builder().processes(2).build()?;
    ///     let words = ["to", "be", "or"];
    ///     let lengths = pool.imap_unordered(|word: String| word.len(), words.map(String::from));
    ///     for result in lengths.indexed() {
    ///         let (index, length) = result?;
    ///         assert_eq!(words[index].len(), length);
    ///     }
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "enumerate")]
    pub fn indexed(self) -> Indexed<Self> {
        Indexed(self)
    }

    /// Checks that this process may use the call: see [`Job::check_process`].
    fn check_process(&self) -> Result<(), Error> {
        self.job.as_ref().map_or(Ok(()), Job::check_process)
    }
}

impl<E: Engine, R: Message, I: Iterator<Item: Message>> Iterator for ImapUnordered<'_, E, R, I> {
    type Item = Result<R, Error>;

    fn next(&mut self) -> Option<Result<R, Error>> {
        self.next_numbered(0).map(|(_, result)| result)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.hint(0)
    }
}

impl<E: Engine, R: Message, I: Iterator<Item: Message>> Numbered for ImapUnordered<'_, E, R, I> {
    type Value = R;

    fn next_result(&mut self) -> Option<(usize, Result<R, Error>)> {
        self.next_numbered(0)
    }
}

impl<E: Engine, R: Message, I: Iterator<Item: Message>> FusedIterator
    for ImapUnordered<'_, E, R, I>
{
}

impl<E: Engine, R, I> Drop for ImapUnordered<'_, E, R, I> {
    fn drop(&mut self) {
        if let Some(job) = &mut self.job {
            job.abandon();
        }
    }
}

/// Results in the order of the inputs; returned by `imap` of a [`Pool`](crate::Pool::imap) or a
/// cluster.
///
/// ```
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let pool = proc_core::Pool::builder().processes(2).build()?;
///     let lines = ["to be", "or not", "to be"].map(String::from);
///     let words = pool.imap(|line: String| line.split(' ').count(), lines);
///     for (number, words) in words.enumerate() {
///         println!("line {number}: {} words", words?);
///     }
///     Ok(())
/// }
/// ```
#[must_use = "an iterator does nothing before it is asked"]
pub struct Imap<'a, E: Engine, R, I> {
    arriving: ImapUnordered<'a, E, R, I>,
    /// Results that arrived before their turn, by the number of their task.
    early: BTreeMap<usize, Result<R, Error>>,
    /// The number of the task whose result is next.
    next_task: usize,
}

impl<'a, E: Engine, R: Message, I: Iterator<Item: Message>> Imap<'a, E, R, I> {
    pub(super) fn new(arriving: ImapUnordered<'a, E, R, I>) -> Self {
        Imap { arriving, early: BTreeMap::new(), next_task: 0 }
    }

    /// Returns an iterator over the same results, each with the index of its input.
    ///
    /// See the example of [`ImapUnordered::indexed`].
    pub fn indexed(self) -> Indexed<Self> {
        Indexed(self)
    }
}

impl<E: Engine, R: Message, I: Iterator<Item: Message>> Numbered for Imap<'_, E, R, I> {
    type Value = R;

    fn next_result(&mut self) -> Option<(usize, Result<R, Error>)> {
        // In a copy of the process, results that arrived before the fork are not returned either.
        if let Err(error) = self.arriving.check_process() {
            let was_over = std::mem::replace(&mut self.arriving.over, true);
            let lost = !was_over || !self.early.is_empty();
            self.early.clear();
            return lost.then_some((usize::MAX, Err(error)));
        }
        loop {
            let next = match self.early.remove(&self.next_task) {
                Some(result) => Some((self.next_task, result)),
                None => match self.arriving.next_numbered(self.early.len()) {
                    Some((task, result)) => {
                        self.early.insert(task, result);
                        continue;
                    }
                    // If the call ended as a whole, some tasks have no result. The results of later
                    // tasks are still returned.
                    None => self.early.pop_first(),
                },
            };
            if let Some((task, result)) = &next {
                self.next_task = task.saturating_add(1);
                if self.arriving.fail_fast && result.is_err() {
                    self.early.clear();
                }
            }
            return next;
        }
    }
}

impl<E: Engine, R: Message, I: Iterator<Item: Message>> Iterator for Imap<'_, E, R, I> {
    type Item = Result<R, Error>;

    fn next(&mut self) -> Option<Result<R, Error>> {
        self.next_result().map(|(_, result)| result)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.arriving.hint(self.early.len())
    }
}

impl<E: Engine, R: Message, I: Iterator<Item: Message>> FusedIterator for Imap<'_, E, R, I> {}

/// An iterator whose results have the numbers of their tasks.
pub trait Numbered {
    /// What a task returns.
    type Value;

    /// Returns the next result, with the number of its task. The number of an error that belongs to
    /// no task is `usize::MAX`.
    fn next_result(&mut self) -> Option<(usize, Result<Self::Value, Error>)>;
}

/// Results with the index of their input; returned by [`ImapUnordered::indexed`] and
/// [`Imap::indexed`].
///
/// See the example of [`ImapUnordered::indexed`].
#[derive(Debug)]
#[must_use = "an iterator does nothing before it is asked"]
pub struct Indexed<I>(I);

impl<I: Numbered + Iterator> Iterator for Indexed<I> {
    type Item = Result<(usize, I::Value), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next_result().map(|(task, result)| result.map(|value| (task, value)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<I: Numbered + FusedIterator> FusedIterator for Indexed<I> {}

impl<E: Engine, R, I> std::fmt::Debug for ImapUnordered<'_, E, R, I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImapUnordered").field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl<E: Engine, R, I> std::fmt::Debug for Imap<'_, E, R, I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Imap").field("next_task", &self.next_task).finish_non_exhaustive()
    }
}
