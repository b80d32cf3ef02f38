//! The body of a map: encodes the next inputs while workers run the first ones, and takes in
//! results.

use std::time::{Duration, Instant};

use super::engine::{Arrived, CallOptions, Job};
use super::progress::Meter;
use crate::error::{Error, Origin};
use crate::wire::Message;

/// How many inputs the first batch has, rounded up to whole chunks. Few, because it is not known
/// yet how long they take to encode.
const FIRST_BATCH: usize = 16;

/// If a batch needs more time than `BATCH_TIME` until the next one can begin, or has more bytes
/// than `BATCH_BYTES`, the next batch is half as large. Otherwise it is twice as large.
const BATCH_TIME: Duration = Duration::from_micros(200);
const BATCH_BYTES: usize = 256 << 10;

/// The most outcomes for which memory is reserved at the beginning, however many inputs the
/// iterator promises.
const MAX_PREALLOCATED: usize = 1 << 20;

/// The result or the error of each input; `None` if it was lost with the call.
pub(super) type Outcomes<R> = Vec<Option<Result<R, Error>>>;

/// Runs all inputs. Returns the outcomes of those that were taken, and the error with which the
/// call as a whole ended.
pub(super) fn run<J: Job, A: Message, R: Message>(
    job: Result<J, Error>,
    options: CallOptions,
    meter: Meter<'_>,
    mut inputs: impl Iterator<Item = A>,
) -> (Outcomes<R>, Result<(), Error>) {
    // An iterator may promise more inputs than it has.
    let mut outcomes = Vec::with_capacity(inputs.size_hint().0.min(MAX_PREALLOCATED));
    let done = job.and_then(|job| {
        let mut map = Map {
            job,
            chunksize: options.chunksize.unwrap_or(1).max(1),
            fail_fast: options.fail_fast,
            failure: None,
            meter,
            outcomes: &mut outcomes,
            unfinished: 0,
            promised: inputs.size_hint(),
        };
        map.show_progress();
        map.send(&mut inputs)?;
        map.job.end();
        while map.unfinished > 0 {
            let wanted = if map.fail_fast { 1 } else { map.unfinished };
            if let Some(arrived) = map.job.wait(wanted, None) {
                map.take_in(arrived?)?;
            }
        }
        Ok(())
    });
    (outcomes, done)
}

/// A map in progress.
struct Map<'a, 'm, J: Job, R> {
    job: J,
    /// The number of tasks in a chunk.
    chunksize: usize,
    /// Whether the call ends with the first task that fails.
    fail_fast: bool,
    /// With `fail_fast`: the error of the first task that failed, which ends the call.
    failure: Option<Error>,
    meter: Meter<'m>,
    outcomes: &'a mut Outcomes<R>,
    /// How many inputs were sent and have no outcome yet.
    unfinished: usize,
    /// How many more inputs there are: at least, and at most if that is known.
    promised: (usize, Option<usize>),
}

impl<J: Job, R: Message> Map<'_, '_, J, R> {
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
                let more = inputs.size_hint();
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
    /// outcome), or up to `BATCH_BYTES`. `more` is how many inputs follow the batch: at least, and
    /// at most.
    fn send_some<A: Message>(
        &mut self,
        batch: &[A],
        more: (usize, Option<usize>),
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
            let error = error.with_origin(Origin::of_task(first + sent));
            self.failure = self.fail_fast.then(|| error.clone());
            self.outcomes.push(Some(Err(error)));
            self.meter.add_failed(1);
        }
        let rest = first + batch.len() - self.outcomes.len();
        self.promised = (more.0.saturating_add(rest), more.1.map(|most| most.saturating_add(rest)));
        if self.outcomes.len() > first + sent {
            self.show_progress();
        }
        *bytes += self.job.pushed_bytes();
        self.job.submit(self.promised.0)?;
        self.check_failure()?;
        while let Some(arrived) = self.job.poll() {
            self.take_in(arrived?)?;
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
                self.take_in(arrived?)?;
            }
        }
        Ok(())
    }

    /// Decodes results, and puts them in their places.
    ///
    /// # Errors
    ///
    /// A task failed, and the call is to end then.
    fn take_in(&mut self, arrived: J::Arrived) -> Result<(), Error> {
        self.unfinished -= arrived.count();
        let outcomes = &mut *self.outcomes;
        let (fail_fast, failure) = (self.fail_fast, &mut self.failure);
        let mut failed = 0;
        arrived.decode(|task, result| {
            let outcome = &mut outcomes[task];
            if outcome.is_none() {
                // Each variant writes its value straight to its place. A result that is put
                // together first would be copied in other pieces than it was written in, and the
                // processor would wait for that (see `pool/records.rs`).
                *outcome = match result {
                    Ok(value) => Some(Ok(value)),
                    Err(error) => {
                        failed += 1;
                        if fail_fast {
                            failure.get_or_insert_with(|| error.clone());
                        }
                        Some(Err(error))
                    }
                };
            }
        });
        self.meter.add_failed(failed);
        self.show_progress();
        self.check_failure()
    }

    /// Returns the error of a task that ends the call, if there is one.
    fn check_failure(&self) -> Result<(), Error> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    fn show_progress(&mut self) {
        let taken = self.outcomes.len();
        let retried = || self.job.retried();
        self.meter.show(taken - self.unfinished, taken, self.promised, retried);
    }
}

impl<J: Job, R> Drop for Map<'_, '_, J, R> {
    fn drop(&mut self) {
        // Results are missing only if the inputs or the function of `progress` have panicked, or if
        // the call ended as a whole.
        if self.unfinished > 0 {
            self.job.abandon();
        }
    }
}
