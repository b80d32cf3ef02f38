//! A map over inputs: encoding the next ones while workers run the first and results come in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::call::Name;
use crate::error::{Error, Origin};
use crate::pool::job::{Delivery, Inbox, TaskQueue, queue};
use crate::pool::scheduler::Scheduler;
use crate::wire::Message;

/// How many inputs the first batch takes, or whole chunks: few, as nothing is known of them yet.
const FIRST_BATCH: usize = 16;

/// A batch stops growing when taking and encoding it lasts so long, or makes so many bytes.
const BATCH_TIME: Duration = Duration::from_micros(200);
const BATCH_BYTES: usize = 256 << 10;

/// For how many inputs there is room at once if the iterator says that it has so many.
const MAX_PREALLOCATED: usize = 1 << 20;

/// What came of each input; what has no fate is lost with the call.
pub(crate) type Fates<R> = Vec<Option<Result<R, Error>>>;

/// Runs all inputs. The results there are, and what ended the call as a whole.
pub(crate) fn run<A: Message, R: Message>(
    scheduler: &Arc<Scheduler>,
    inbox: &Arc<Inbox>,
    chunksize: Option<usize>,
    name: Result<Name, Error>,
    mut inputs: impl Iterator<Item = A>,
) -> (Fates<R>, Result<(), Error>) {
    // As many as are promised, within reason: an iterator may promise what it does not keep.
    let fates = Vec::with_capacity(inputs.size_hint().0.min(MAX_PREALLOCATED));
    let mut map = Map { scheduler, inbox: Arc::clone(inbox), fates, open: 0 };
    let done = name.and_then(|name| {
        scheduler.check_maker()?;
        map.send(name, chunksize, &mut inputs)?;
        while map.open > 0 {
            if let Some(delivery) = scheduler.wait(&map.inbox, map.open, None) {
                map.take_in(delivery?);
            }
        }
        Ok(())
    });
    if done.is_err() {
        let left = inputs.count();
        map.fates.resize_with(map.fates.len() + left, || None);
    }
    (std::mem::take(&mut map.fates), done)
}

/// One map on its way.
struct Map<'a, R> {
    scheduler: &'a Arc<Scheduler>,
    inbox: Arc<Inbox>,
    fates: Fates<R>,
    /// How many inputs were sent and have no fate yet.
    open: usize,
}

impl<R: Message> Map<'_, R> {
    /// Sends all inputs in batches, taking in results between them.
    fn send<A: Message>(
        &mut self,
        name: Name,
        chunksize: Option<usize>,
        inputs: &mut impl Iterator<Item = A>,
    ) -> Result<(), Error> {
        let mut batch = Vec::new();
        let mut size = FIRST_BATCH;
        loop {
            // Where taking inputs waits for something, everything else goes on.
            let start = Instant::now();
            let whole = size.checked_next_multiple_of(chunksize.unwrap_or(1).max(1));
            batch.extend(inputs.by_ref().take(whole.unwrap_or(usize::MAX)));
            if batch.is_empty() {
                return Ok(());
            }
            let mut bytes = 0;
            let mut sent = 0;
            while sent < batch.len() {
                let done = self.send_some(name, chunksize, &batch[sent..], inputs.size_hint().0);
                let (tasks, size, done) = done;
                sent += tasks;
                bytes += size;
                if done.is_err() {
                    // The rest of the batch was taken from the inputs already: each has its place.
                    self.fates.resize_with(self.fates.len() + batch.len() - sent, || None);
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

    /// Sends some of a batch: up to an input that cannot be encoded, which has its fate, or so many
    /// bytes. How many inputs and bytes that were, and what ended the call.
    fn send_some<A: Message>(
        &mut self,
        name: Name,
        chunksize: Option<usize>,
        batch: &[A],
        more: usize,
    ) -> (usize, usize, Result<(), Error>) {
        let scheduler = self.scheduler;
        if let Err(error) = self.wait_for_room(chunksize.unwrap_or(1)) {
            return (0, 0, Err(error));
        }
        let first = self.fates.len();
        let mut bytes = 0;
        let done = scheduler.looking(|| {
            let mut queue = TaskQueue::new(name, &self.inbox, first, chunksize);
            let pushed = queue.push_all(batch, BATCH_BYTES, scheduler.clone());
            let sent = queue.left;
            self.open += sent;
            self.fates.resize_with(first + sent, || None);
            if let Err(error) = pushed {
                let place = Origin { task: Some(first + sent), ..Origin::default() };
                self.fates.push(Some(Err(error.with_origin(place))));
            }
            queue.more = first + batch.len() - self.fates.len() + more;
            bytes = queue.len();
            self.scheduler.submit(queue)?;
            scheduler.collect_if_any();
            while let Some(delivery) = self.inbox.poll() {
                self.take_in(delivery?);
            }
            Ok(())
        });
        (self.fates.len() - first, bytes, done)
    }

    /// Takes in results while the pool has as much to do as is useful, or as its memory is to hold.
    ///
    /// Only as long as results of this call are to come, so that it never waits for others alone.
    fn wait_for_room(&mut self, chunksize: usize) -> Result<(), Error> {
        self.scheduler.check_maker()?;
        let is_full = |open: usize| {
            (open > 0 && queue::has_many_handles())
                || self.scheduler.is_full(open.div_ceil(chunksize))
        };
        while is_full(self.open) {
            if let Some(delivery) = self.scheduler.wait(&self.inbox, 1, None) {
                self.take_in(delivery?);
            }
        }
        Ok(())
    }

    fn take_in(&mut self, delivery: Delivery) {
        self.open -= delivery.count();
        delivery.open(|task, result| {
            let fate = &mut self.fates[task];
            if fate.is_none() {
                // A value goes straight to its place: of a result put together before, it would be
                // copied in other pieces, for which a processor waits.
                *fate = match result {
                    Ok(value) => Some(Ok(value)),
                    Err(error) => Some(Err(error)),
                };
            }
        });
    }
}

impl<R> Drop for Map<'_, R> {
    fn drop(&mut self) {
        // Not all was taken in: the input panicked, or the pool has ended.
        if self.open > 0 {
            self.scheduler.drop_queues(&self.inbox);
        }
    }
}
