//! The inbox of a call, and the deliveries that arrive in it.
//!
//! An [`Inbox`] does not know the types of results. [`Delivery::open`] decodes them in the thread
//! that waits for them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::error::{Error, Origin};
use crate::executor::CallOptions;
use crate::memory::Part;
use crate::panics::{self, PanicReport};
use crate::pool::records::{self, Outcome};
use crate::wire::{self, Handles, Message, Payload};

/// How long a chunk should take: long compared with the cost of handing it over, short for a person
/// who waits.
const CHUNK_TIME: f64 = 2e6; // nanoseconds

/// With this many bytes of results, a thread that waits for more tasks is woken early, to decode
/// them while workers go on.
const WORTH_WAKING: usize = 256 << 10;

/// The bytes of results, as a worker wrote them.
#[derive(Debug)]
pub(crate) enum Results {
    /// Copied out of shared memory.
    Own(Vec<u8>),
    /// Large results, still in shared memory, so that they are copied only once.
    Lent(Part),
}

impl From<Vec<u8>> for Results {
    fn from(bytes: Vec<u8>) -> Results {
        Results::Own(bytes)
    }
}

impl Results {
    fn len(&self) -> usize {
        match self {
            Results::Own(bytes) => bytes.len(),
            Results::Lent(part) => part.len(),
        }
    }

    /// Returns all results as a vector. Copies them if they are still in shared memory.
    #[cfg(feature = "remote")]
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        match self {
            Results::Own(bytes) => bytes,
            Results::Lent(part) => {
                let mut bytes = Vec::new();
                part.read(0, part.len(), &mut bytes);
                bytes
            }
        }
    }
}

/// Encoded results of tasks of one chunk, or the failure of one task.
#[derive(Debug)]
pub(crate) enum Delivery {
    Results {
        first: usize,
        count: usize,
        bytes: Results,
        out_of_band: HashMap<u32, Payload>,
        place: Origin,
    },
    Failed {
        task: usize,
        error: Error,
    },
}

impl Delivery {
    /// The number of bytes of results.
    fn len(&self) -> usize {
        match self {
            Delivery::Results { bytes, out_of_band, .. } => {
                bytes.len() + out_of_band.values().map(Payload::len).sum::<usize>()
            }
            Delivery::Failed { .. } => 0,
        }
    }

    /// The number of tasks whose result or failure this is.
    pub(crate) fn count(&self) -> usize {
        match self {
            Delivery::Results { count, .. } => *count,
            Delivery::Failed { .. } => 1,
        }
    }

    /// Decodes the results. Calls `settle` with each task's number and its result or error.
    pub(crate) fn open<R: Message>(self, mut settle: impl FnMut(usize, Result<R, Error>)) {
        let (first, count, bytes, mut out_of_band, place) = match self {
            Delivery::Results { first, count, bytes, out_of_band, place } => {
                (first, count, bytes, out_of_band, place)
            }
            Delivery::Failed { task, error } => return settle(task, Err(error)),
        };
        let mut settle = |index: usize, result: Result<R, Error>| {
            let task = first + index;
            let at = |error: Error| error.with_origin(Origin { task: Some(task), ..place.clone() });
            settle(task, result.map_err(at));
        };
        let mut decode_out_of_band =
            |index: usize| decode_out_of_band(out_of_band.remove(&(index as u32)));
        match bytes {
            Results::Own(bytes) => {
                let mut rest = &bytes[..];
                settle_each(count, settle, |index| match records::take_result(&mut rest) {
                    Some(Outcome::Value(value)) => decode(value, None),
                    Some(Outcome::OutOfBand) => decode_out_of_band(index),
                    Some(Outcome::Fault(fault)) => Err(Error::from_fault(fault)),
                    None => Err(rubbish()),
                });
            }
            Results::Lent(part) => {
                let mut at = 0;
                // The results are large: compared with them, the cost of an indirect call is
                // nothing.
                let settle: &mut dyn FnMut(usize, Result<R, Error>) = &mut settle;
                settle_each(count, settle, |index| match records::take_shared(&part, &mut at) {
                    Some(Outcome::Value(value)) => {
                        wire::decode_shared(&part, value).map_err(Error::decode_result)
                    }
                    Some(Outcome::OutOfBand) => decode_out_of_band(index),
                    Some(Outcome::Fault(fault)) => Err(Error::from_fault(fault)),
                    None => Err(rubbish()),
                });
            }
        }
    }
}

/// Calls `settle` for `count` results, each as `next` decodes it.
#[inline]
fn settle_each<R>(
    count: usize,
    mut settle: impl FnMut(usize, Result<R, Error>),
    mut next: impl FnMut(usize) -> Result<R, Error>,
) {
    let mut index = 0;
    // A panic of a type's `Deserialize` costs one result. The next result is decoded inside a new
    // catch.
    while index < count {
        let caught = panics::catch(|| {
            while index < count {
                index += 1;
                settle(index - 1, next(index - 1));
            }
        });
        if let Err(panic) = caught {
            settle_panic(index - 1, &panic, &mut settle);
        }
    }
}

#[cold]
fn settle_panic<R>(
    index: usize,
    panic: &PanicReport,
    settle: &mut dyn FnMut(usize, Result<R, Error>),
) {
    let why = wire::deserialize_panicked(&panic.message);
    settle(index, Err(Error::decode_result(why)));
}

#[inline]
fn decode<R: Message>(bytes: &[u8], handles: Option<Handles>) -> Result<R, Error> {
    wire::decode_or_panic(bytes, handles).map_err(Error::decode_result)
}

#[cold]
fn rubbish() -> Error {
    Error::decode_result("the worker left rubbish in its place".into())
}

/// Decodes a result that was sent out of band.
#[cold]
fn decode_out_of_band<R: Message>(payload: Option<Payload>) -> Result<R, Error> {
    let Some(mut payload) = payload else {
        return Err(Error::decode_result("it did not arrive".into()));
    };
    let (bytes, handles) = payload.parts().map_err(Error::decode_result)?;
    decode_record(bytes, handles)
}

fn decode_record<R: Message>(mut bytes: &[u8], handles: Option<Handles>) -> Result<R, Error> {
    match records::take_result(&mut bytes) {
        Some(Outcome::Value(value)) => decode(value, handles),
        Some(Outcome::Fault(fault)) => Err(Error::from_fault(fault)),
        _ => Err(Error::decode_result("the worker sent rubbish in its place".into())),
    }
}

/// The inbox of a call: its results arrive here. Also keeps what is measured of the call's tasks.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pub(crate) options: CallOptions,
    state: Mutex<InboxState>,
    arrived: Condvar,
    /// Nanoseconds that a task takes, as the bits of an `f64`; 0 until the first is measured.
    cost: AtomicU64,
    /// Bytes of a task's result, estimated too high rather than too low; 0 until the first is
    /// known.
    size: AtomicUsize,
}

#[derive(Debug, Default)]
struct InboxState {
    deliveries: VecDeque<Delivery>,
    closed: Option<Error>,
    /// Whether results are dropped as well. Some may be on their way when a call is cancelled.
    discarded: bool,
    waker: Option<Waker>,
    /// Tasks and bytes of the deliveries.
    tasks: usize,
    bytes: usize,
    /// How many tasks a thread in [`Inbox::sleep`] waits for. While no thread sleeps, a delivery
    /// needs no system call to wake one.
    wanted: Option<usize>,
}

impl InboxState {
    fn next(&mut self) -> Option<Result<Delivery, Error>> {
        match self.deliveries.pop_front() {
            Some(delivery) => {
                self.tasks -= delivery.count();
                self.bytes -= delivery.len();
                Some(Ok(delivery))
            }
            None => self.closed.clone().map(Err),
        }
    }

    /// Whether there is enough for a thread that waits for `wanted` tasks.
    fn has(&self, wanted: usize) -> bool {
        self.closed.is_some() || self.tasks >= wanted || self.bytes >= WORTH_WAKING
    }
}

impl Inbox {
    pub(crate) fn new(options: CallOptions) -> Arc<Inbox> {
        Arc::new(Inbox { options, ..Inbox::default() })
    }

    fn lock(&self) -> MutexGuard<'_, InboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts a delivery and calls the waker. A closed inbox drops failures: the error that it was
    /// closed with explains them.
    pub(crate) fn deliver(&self, delivery: Delivery) {
        if let Some(waker) = self.accept(delivery) {
            waker.wake();
        }
    }

    /// Accepts a delivery. The caller must call the waker returned, when it holds no lock.
    pub(crate) fn accept(&self, delivery: Delivery) -> Option<Waker> {
        let mut state = self.lock();
        let failed = matches!(delivery, Delivery::Failed { .. });
        if state.discarded || (state.closed.is_some() && failed) {
            return None;
        }
        state.tasks += delivery.count();
        state.bytes += delivery.len();
        state.deliveries.push_back(delivery);
        if state.wanted.is_some_and(|wanted| state.has(wanted)) {
            self.arrived.notify_all();
        }
        state.waker.take()
    }

    /// Closes the inbox with an error, which readers get after the last delivery. The caller must
    /// call the waker returned, when it holds no lock.
    pub(crate) fn close(&self, error: Error) -> Option<Waker> {
        let mut state = self.lock();
        state.closed.get_or_insert(error);
        self.arrived.notify_all();
        state.waker.take()
    }

    /// Drops all deliveries, including those that may still come, and closes the inbox.
    pub(crate) fn discard(&self, error: Error) -> Option<Waker> {
        let mut state = self.lock();
        state.discarded = true;
        state.deliveries.clear();
        (state.tasks, state.bytes) = (0, 0);
        drop(state);
        self.close(error)
    }

    /// Whether the inbox is closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed.is_some()
    }

    /// Like [`poll`](Inbox::poll), but keeps `waker` if there is no delivery, to be called when one
    /// comes.
    pub(crate) fn poll_or_wake(&self, waker: &Waker) -> Option<Result<Delivery, Error>> {
        let mut state = self.lock();
        let next = state.next();
        if next.is_none() {
            state.waker = Some(waker.clone());
        }
        next
    }

    /// Returns the next delivery, if there is one. If there is none and the inbox is closed,
    /// returns the error that it was closed with.
    pub(crate) fn poll(&self) -> Option<Result<Delivery, Error>> {
        self.lock().next()
    }

    /// Sleeps until results of `wanted` tasks or many bytes of results have arrived, the inbox is
    /// closed, or the deadline has passed.
    pub(crate) fn sleep(&self, wanted: usize, deadline: Option<Instant>) {
        let mut state = self.lock();
        while !state.has(wanted) {
            let left = deadline.map_or(Duration::from_secs(3600), |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                break;
            }
            state.wanted = Some(wanted);
            let woken = self.arrived.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.wanted = None;
    }

    /// Updates the measured cost of a task from a finished chunk.
    pub(crate) fn learn(&self, nanoseconds: u64, count: usize) {
        let now = (nanoseconds as f64 / count.max(1) as f64).max(1.0);
        let old = f64::from_bits(self.cost.load(Ordering::Relaxed));
        // Half old, half new: follows a change within a few chunks, but one slow chunk changes
        // little.
        let cost = if old == 0.0 { now } else { 0.5 * old + 0.5 * now };
        self.cost.store(cost.to_bits(), Ordering::Relaxed);
    }

    /// Updates the size of a task's result. Growth counts at once, shrinking counts gradually.
    pub(crate) fn learn_size(&self, bytes: usize) {
        let old = self.size.load(Ordering::Relaxed);
        self.size.store(bytes.max(old - old / 4), Ordering::Relaxed);
    }

    /// Sets the size of a task's result to that of an earlier call, unless a size is known already.
    pub(crate) fn expect_size(&self, bytes: usize) {
        let _ = self.size.compare_exchange(0, bytes, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The likely size of a task's result in bytes, if one is known.
    pub(crate) fn result_size(&self) -> Option<usize> {
        Some(self.size.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }

    /// How many tasks make a chunk of [`CHUNK_TIME`]; 1 until a cost is measured.
    pub(super) fn timely(&self) -> usize {
        let cost = f64::from_bits(self.cost.load(Ordering::Relaxed));
        if cost == 0.0 { 1 } else { (CHUNK_TIME / cost).max(1.0) as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Delivery {
        results_of(0)
    }

    fn results_of(bytes: usize) -> Delivery {
        let (bytes, out_of_band, place) =
            (vec![0; bytes].into(), HashMap::new(), Origin::default());
        Delivery::Results { first: 0, count: 1, bytes, out_of_band, place }
    }

    #[test]
    fn who_waits_for_several_tasks_is_not_woken_for_each() {
        let inbox = Inbox::new(CallOptions::default());
        let has = |wanted| inbox.lock().has(wanted);
        inbox.deliver(results_of(100));
        assert!(has(1) && !has(2));
        inbox.deliver(results_of(100));
        assert!(has(2) && !has(3));
        assert!(inbox.poll().is_some() && has(1) && !has(2));
        inbox.deliver(results_of(WORTH_WAKING));
        assert!(has(3), "so much is worth decoding meanwhile");
        assert!(inbox.poll().is_some() && inbox.poll().is_some() && !has(1));
        let _ = inbox.close(Error::closed());
        assert!(has(1), "nothing more will come");
    }

    #[test]
    fn what_is_expected_gives_way_to_what_is_learned() {
        let inbox = Inbox::new(CallOptions::default());
        inbox.expect_size(1000);
        assert_eq!(inbox.result_size(), Some(1000));
        inbox.learn_size(8);
        inbox.expect_size(1000);
        assert_eq!(inbox.result_size(), Some(750));
    }

    #[test]
    fn results_that_arrive_after_a_call_was_taken_back_are_unwanted() {
        let inbox = Inbox::new(CallOptions::default());
        inbox.deliver(results());
        let _ = inbox.discard(Error::cancelled());
        inbox.deliver(results());
        let next = inbox.poll().expect("it is closed");
        assert!(next.expect_err("nothing is delivered").is_cancelled());
    }

    #[test]
    fn results_that_arrive_after_the_pool_has_ended_count() {
        let inbox = Inbox::new(CallOptions::default());
        let _ = inbox.close(Error::closed());
        inbox.deliver(results());
        assert!(inbox.poll().is_some_and(|next| next.is_ok()));
        assert!(inbox.poll().is_some_and(|next| next.is_err()));
    }
}
