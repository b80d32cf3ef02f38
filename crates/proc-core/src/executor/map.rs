//! The body of a map: encodes the next inputs while workers run the first ones, and takes in
//! results.

use std::time::{Duration, Instant};

use super::engine::{Arrived, Job};
use crate::error::{Error, Origin};
use crate::wire::Message;

/// How many inputs the first batch has, rounded up to whole chunks. Few, because it is not known
/// yet how long they take to encode.
const FIRST_BATCH: usize = 16;

/// If taking and encoding a batch needs more time than this, or the batch has more bytes, the next
/// batch is half as large. Otherwise it is twice as large.
const BATCH_TIME: Duration = Duration::from_micros(200);
const BATCH_BYTES: usize = 256 << 10;

/// The most outcomes for which memory is reserved at the beginning, however many inputs the
/// iterator promises.
const MAX_PREALLOCATED: usize = 1 << 20;

/// The progress of a call, counted in tasks; given to the function that
/// [`progress`](crate::Options::progress) sets.
///
/// ```
/// use proc_core::{Pool, Progress};
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let pool = Pool::builder().processes(2).build()?;
///     let show = |Progress { done, all, .. }: Progress| eprint!("\r{done} of {all}");
///     let squares = pool.options().progress(show).map(|x: u64| x * x, 0..1000)?;
///     assert_eq!(squares[999], 998_001);
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// How many tasks have a result or an error.
    pub done: usize,
    /// How many tasks the call has, as far as is known: all inputs that were taken, and those that
    /// the iterator's `size_hint` promises.
    pub all: usize,
}

/// The result or the error of each input; `None` if it was lost with the call.
pub(super) type Outcomes<R> = Vec<Option<Result<R, Error>>>;

/// Runs all inputs. Returns the outcomes, and the error with which the call as a whole ended.
pub(super) fn run<J: Job, A: Message, R: Message, P: FnMut(Progress)>(
    job: Result<J, Error>,
    chunksize: Option<usize>,
    progress: Option<P>,
    mut inputs: impl Iterator<Item = A>,
) -> (Outcomes<R>, Result<(), Error>) {
    // An iterator may promise more inputs than it has.
    let mut outcomes = Vec::with_capacity(inputs.size_hint().0.min(MAX_PREALLOCATED));
    let done = job.and_then(|job| {
        let chunksize = chunksize.unwrap_or(1).max(1);
        let mut map =
            Map { job, chunksize, progress, outcomes: &mut outcomes, unfinished: 0, promised: 0 };
        map.send(&mut inputs)?;
        map.job.end();
        while map.unfinished > 0 {
            if let Some(arrived) = map.job.wait(map.unfinished, None) {
                map.take_in(arrived?);
            }
        }
        Ok(())
    });
    if done.is_err() {
        let left = inputs.count();
        outcomes.resize_with(outcomes.len() + left, || None);
    }
    (outcomes, done)
}

/// A map in progress.
struct Map<'a, J: Job, R, P> {
    job: J,
    /// The number of tasks in a chunk.
    chunksize: usize,
    progress: Option<P>,
    outcomes: &'a mut Outcomes<R>,
    /// How many inputs were sent and have no outcome yet.
    unfinished: usize,
    /// How many more inputs there are at least.
    promised: usize,
}

impl<J: Job, R: Message, P: FnMut(Progress)> Map<'_, J, R, P> {
    /// Sends all inputs in batches, and takes in results between the batches.
    fn send<A: Message>(&mut self, inputs: &mut impl Iterator<Item = A>) -> Result<(), Error> {
        let mut batch = Vec::new();
        let mut size = FIRST_BATCH;
        loop {
            // While `next` of the inputs waits for something, workers and other calls go on.
            let start = Instant::now();
            let whole = size.checked_next_multiple_of(self.chunksize);
            batch.extend(inputs.by_ref().take(whole.unwrap_or(usize::MAX)));
            if batch.is_empty() {
                return Ok(());
            }
            let mut bytes = 0;
            let mut sent = 0;
            while sent < batch.len() {
                let more = inputs.size_hint().0;
                let first = self.outcomes.len();
                let done = self.send_some(&batch[sent..], more, &mut bytes);
                sent += self.outcomes.len() - first;
                if done.is_err() {
                    // The rest of the batch is taken from the inputs already, so it gets outcomes
                    // too: `None`.
                    self.outcomes.resize_with(self.outcomes.len() + batch.len() - sent, || None);
                    return done;
                }
            }
            batch.clear();
            if start.elapsed() > BATCH_TIME || bytes > BATCH_BYTES {
                size = (size / 2).max(1);
            } else {
                size *= 2;
            }
        }
    }

    /// Sends some inputs of a batch: up to one that cannot be encoded (the error becomes its
    /// outcome), or up to `BATCH_BYTES`. At least `more` inputs follow the batch.
    fn send_some<A: Message>(
        &mut self,
        batch: &[A],
        more: usize,
        bytes: &mut usize,
    ) -> Result<(), Error> {
        self.wait_for_room()?;
        let first = self.outcomes.len();
        let _collecting = self.job.collecting();
        let pushed = self.job.push(batch, BATCH_BYTES);
        let sent = self.job.pushed();
        self.unfinished += sent;
        self.outcomes.resize_with(first + sent, || None);
        if let Err(error) = pushed {
            let origin = Origin::of_task(first + sent);
            self.outcomes.push(Some(Err(error.with_origin(origin))));
        }
        self.promised = first + batch.len() - self.outcomes.len() + more;
        if self.outcomes.len() > first + sent {
            self.show_progress();
        }
        *bytes += self.job.pushed_bytes();
        self.job.submit(self.promised)?;
        while let Some(arrived) = self.job.poll() {
            self.take_in(arrived?);
        }
        Ok(())
    }

    /// Takes in results until the engine has room for more tasks.
    ///
    /// Stops also when no results of this call are missing, since it would then wait only for other
    /// calls.
    fn wait_for_room(&mut self) -> Result<(), Error> {
        self.job.check_process()?;
        while self.job.is_full(self.unfinished.div_ceil(self.chunksize)) {
            if let Some(arrived) = self.job.wait(1, None) {
                self.take_in(arrived?);
            }
        }
        Ok(())
    }

    /// Decodes results, and puts them in their places.
    fn take_in(&mut self, arrived: J::Arrived) {
        self.unfinished -= arrived.count();
        let outcomes = &mut *self.outcomes;
        arrived.decode(|task, result| {
            let outcome = &mut outcomes[task];
            if outcome.is_none() {
                // Each variant writes its value straight to its place. A result that is put
                // together first would be copied in other pieces than it was written in, and the
                // processor would wait for that (see `pool/records.rs`).
                *outcome = match result {
                    Ok(value) => Some(Ok(value)),
                    Err(error) => Some(Err(error)),
                };
            }
        });
        self.show_progress();
    }

    fn show_progress(&mut self) {
        if let Some(show) = &mut self.progress {
            let taken = self.outcomes.len();
            show(Progress { done: taken - self.unfinished, all: taken + self.promised });
        }
    }
}

impl<J: Job, R, P> Drop for Map<'_, J, R, P> {
    fn drop(&mut self) {
        // Results are missing only if the inputs have panicked, or if the call ended as a whole.
        if self.unfinished > 0 {
            self.job.abandon();
        }
    }
}
