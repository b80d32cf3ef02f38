//! The inbox of a call: deliveries of results arrive here, and wake the thread or the future that
//! waits for them. The inbox also keeps what was measured of the call's tasks.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::Delivery;
use crate::error::Error;
use crate::executor::CallOptions;

/// How long a chunk should take: long compared with the cost of handing it over, short for a person
/// who waits.
const CHUNK_TIME: f64 = 2e6; // nanoseconds

/// With this many bytes of results, a thread that waits for more tasks is woken early, to decode
/// them while workers go on.
const WORTH_WAKING: usize = 256 << 10;

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
    pub(super) fn tasks_per_chunk(&self) -> usize {
        let cost = f64::from_bits(self.cost.load(Ordering::Relaxed));
        if cost == 0.0 { 1 } else { (CHUNK_TIME / cost).max(1.0) as usize }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::error::Origin;

    fn results() -> Delivery {
        results_of(0)
    }

    fn results_of(bytes: usize) -> Delivery {
        let (bytes, out_of_band, origin) =
            (vec![0; bytes].into(), HashMap::new(), Origin::default());
        Delivery::Results { first: 0, count: 1, bytes, out_of_band, origin }
    }

    #[test]
    fn an_inbox_wakes_its_reader_when_the_wanted_results_have_arrived() {
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
    fn a_measured_size_replaces_an_expected_one() {
        let inbox = Inbox::new(CallOptions::default());
        inbox.expect_size(1000);
        assert_eq!(inbox.result_size(), Some(1000));
        inbox.learn_size(8);
        inbox.expect_size(1000);
        assert_eq!(inbox.result_size(), Some(750));
    }

    #[test]
    fn results_of_a_cancelled_call_are_dropped() {
        let inbox = Inbox::new(CallOptions::default());
        inbox.deliver(results());
        let _ = inbox.discard(Error::cancelled());
        inbox.deliver(results());
        let next = inbox.poll().expect("it is closed");
        assert!(next.expect_err("nothing is delivered").is_cancelled());
    }

    #[test]
    fn results_that_arrive_after_the_pool_has_ended_are_delivered() {
        let inbox = Inbox::new(CallOptions::default());
        let _ = inbox.close(Error::closed());
        inbox.deliver(results());
        assert!(inbox.poll().is_some_and(|next| next.is_ok()));
        assert!(inbox.poll().is_some_and(|next| next.is_err()));
    }
}
