//! The inbox of a call: deliveries arrive here, and wake the thread or the future that waits for
//! them. The inbox also keeps what was measured of the call's tasks.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use super::{BoundData, Delivery, Pending, ShortQueue};
use crate::error::Error;
use crate::executor::CallOptions;

/// How long a chunk should take, in nanoseconds: long compared with the cost of handing it over,
/// short for a person who waits.
const CHUNK_NANOS: f64 = 2e6;

/// If this many bytes of results have arrived, a thread that waits for more tasks is woken early,
/// to decode the results while workers go on.
const EARLY_WAKE_BYTES: usize = 256 << 10;

/// The inbox of one call.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pub(crate) options: CallOptions,
    /// The data that the call's function borrows.
    pub(crate) data: Option<Arc<BoundData>>,
    /// Counts the pool's tasks, if their number is limited.
    pending: Option<Arc<Pending>>,
    /// How many tasks of the call are counted there.
    counted: AtomicUsize,
    /// How many times a task was tried again.
    retried: AtomicUsize,
    /// The call's place in the order of calls, see `scheduler/fair_share.rs`: its virtual time, in
    /// nanoseconds, and its serial number. Both are written under the pool's lock.
    virtual_time: AtomicU64,
    serial: AtomicU64,
    state: Mutex<InboxState>,
    arrived: Condvar,
    /// How many nanoseconds a task takes, as the bits of an `f64`; 0 until one is measured.
    cost: AtomicU64,
    /// How many bytes a task's result has; 0 until one is known. The estimate is rather too high
    /// than too low.
    size: AtomicUsize,
}

#[derive(Debug, Default)]
struct InboxState {
    deliveries: ShortQueue<Box<Delivery>>,
    /// The error that the inbox was closed with.
    closed: Option<Error>,
    /// Whether all further deliveries are dropped: results may be on their way when a call is
    /// cancelled.
    discarded: bool,
    /// The waker of the future that waits.
    waker: Option<Waker>,
    /// How many tasks and bytes the deliveries have.
    tasks: usize,
    bytes: usize,
    /// For how many tasks a thread in [`Inbox::sleep`] waits. If no thread sleeps, a delivery makes
    /// no system call.
    wanted: Option<usize>,
}

impl InboxState {
    /// Returns the next delivery; or the error, if the inbox is closed and empty.
    fn next(&mut self) -> Option<Result<Box<Delivery>, Error>> {
        match self.deliveries.pop_front() {
            Some(delivery) => {
                self.tasks -= delivery.count();
                self.bytes -= delivery.len();
                Some(Ok(delivery))
            }
            None => self.closed.clone().map(Err),
        }
    }

    /// Whether a thread that waits for `wanted` tasks is to be woken.
    fn has_enough(&self, wanted: usize) -> bool {
        self.closed.is_some() || self.tasks >= wanted || self.bytes >= EARLY_WAKE_BYTES
    }
}

impl Inbox {
    pub(crate) fn new(
        options: CallOptions,
        data: Option<Arc<BoundData>>,
        pending: Option<Arc<Pending>>,
    ) -> Arc<Inbox> {
        Arc::new(Inbox { options, data, pending, ..Inbox::default() })
    }

    /// Notes that `tasks` of the call were counted as pending.
    pub(crate) fn add_counted(&self, tasks: usize) {
        self.counted.fetch_add(tasks, Ordering::Relaxed);
    }

    /// Stops counting tasks of the call as pending: at most `tasks` of them.
    pub(crate) fn subtract_counted(&self, tasks: usize) {
        let Some(pending) = &self.pending else { return };
        let less = |counted: usize| Some(counted.saturating_sub(tasks));
        let before = self.counted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        pending.subtract(before.unwrap_or(0).min(tasks));
    }

    /// The virtual time of the call, in nanoseconds.
    pub(crate) fn virtual_time(&self) -> u64 {
        self.virtual_time.load(Ordering::Relaxed)
    }

    pub(crate) fn set_virtual_time(&self, nanoseconds: u64) {
        self.virtual_time.store(nanoseconds, Ordering::Relaxed);
    }

    /// The serial number of the call. If it has none yet, it gets the number `next`.
    pub(crate) fn serial_or(&self, next: u64) -> u64 {
        match self.serial.load(Ordering::Relaxed) {
            0 => {
                self.serial.store(next, Ordering::Relaxed);
                next
            }
            serial => serial,
        }
    }

    /// How many nanoseconds `count` tasks will take, if the cost of a task is known.
    pub(crate) fn estimate_nanos(&self, count: usize) -> Option<u64> {
        let cost = f64::from_bits(self.cost.load(Ordering::Relaxed));
        (cost > 0.0).then_some((cost * count as f64) as u64)
    }

    /// Counts a task that is tried again.
    pub(crate) fn count_retry(&self) {
        self.retried.fetch_add(1, Ordering::Relaxed);
    }

    /// How many times a task was tried again.
    pub(crate) fn retried(&self) -> usize {
        self.retried.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, InboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts a delivery and calls the waker. A closed inbox drops failures, because readers get
    /// the error that it was closed with.
    pub(crate) fn deliver(&self, delivery: Box<Delivery>) {
        if let Some(waker) = self.accept(delivery) {
            waker.wake();
        }
    }

    /// Accepts a delivery. The caller must call the waker that this returns, without holding a
    /// lock.
    pub(crate) fn accept(&self, delivery: Box<Delivery>) -> Option<Waker> {
        self.subtract_counted(delivery.count());
        let mut state = self.lock();
        let failed = matches!(*delivery, Delivery::Failed { .. });
        if state.discarded || (state.closed.is_some() && failed) {
            return None;
        }
        state.tasks += delivery.count();
        state.bytes += delivery.len();
        state.deliveries.push_back(delivery);
        if state.wanted.is_some_and(|wanted| state.has_enough(wanted)) {
            self.arrived.notify_all();
        }
        state.waker.take()
    }

    /// Closes the inbox with an error, which readers get after the last delivery. The caller must
    /// call the waker that this returns, without holding a lock.
    pub(crate) fn close(&self, error: Error) -> Option<Waker> {
        self.subtract_counted(usize::MAX);
        let mut state = self.lock();
        state.closed.get_or_insert(error);
        self.arrived.notify_all();
        state.waker.take()
    }

    /// Drops all deliveries, also those that still come, and closes the inbox.
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

    /// Like [`poll`](Inbox::poll). If there is nothing to return, keeps `waker`, and calls it when
    /// there is.
    pub(crate) fn poll_or_wake(&self, waker: &Waker) -> Option<Result<Box<Delivery>, Error>> {
        let mut state = self.lock();
        let next = state.next();
        if next.is_none() {
            state.waker = Some(waker.clone());
        }
        next
    }

    /// Returns the next delivery, if there is one. If the inbox is closed and empty, returns the
    /// error that it was closed with.
    pub(crate) fn poll(&self) -> Option<Result<Box<Delivery>, Error>> {
        self.lock().next()
    }

    /// Sleeps until results of `wanted` tasks or many bytes of results have arrived, the inbox is
    /// closed, or the deadline has passed.
    pub(crate) fn sleep(&self, wanted: usize, deadline: Instant) {
        let mut state = self.lock();
        while !state.has_enough(wanted) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state.wanted = Some(wanted);
            let woken = self.arrived.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.wanted = None;
    }

    /// Updates the cost of a task from a finished chunk of `count` tasks.
    pub(crate) fn learn_cost(&self, nanoseconds: u64, count: usize) {
        let now = (nanoseconds as f64 / count.max(1) as f64).max(1.0);
        let old = f64::from_bits(self.cost.load(Ordering::Relaxed));
        // Half old, half new: follows a change within a few chunks, and forgets one slow chunk as
        // fast.
        let cost = if old == 0.0 { now } else { 0.5 * old + 0.5 * now };
        self.cost.store(cost.to_bits(), Ordering::Relaxed);
    }

    /// Updates the size of a task's result. It grows at once, and shrinks step by step. Returns the
    /// size if it has changed.
    pub(crate) fn learn_size(&self, bytes: usize) -> Option<usize> {
        let old = self.size.load(Ordering::Relaxed);
        let new = bytes.max(old - old / 4);
        self.size.store(new, Ordering::Relaxed);
        (new != old).then_some(new)
    }

    /// Sets the size of a task's result to that of an earlier call, unless a size is known already.
    pub(crate) fn expect_size(&self, bytes: usize) {
        let _ = self.size.compare_exchange(0, bytes, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The likely size of a task's result in bytes, if one is known.
    pub(crate) fn result_size(&self) -> Option<usize> {
        Some(self.size.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }

    /// How many tasks take [`CHUNK_NANOS`]; 1 until a cost is measured.
    pub(super) fn tasks_per_chunk(&self) -> usize {
        let cost = f64::from_bits(self.cost.load(Ordering::Relaxed));
        if cost == 0.0 { 1 } else { (CHUNK_NANOS / cost).max(1.0) as usize }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::error::Origin;

    fn results() -> Box<Delivery> {
        results_of(0)
    }

    fn results_of(bytes: usize) -> Box<Delivery> {
        let (bytes, out_of_band, origin) =
            (vec![0; bytes].into(), BTreeMap::new(), Origin::default());
        Box::new(Delivery::Results { first: 0, count: 1, bytes, out_of_band, origin })
    }

    #[test]
    fn inbox_has_enough_with_the_wanted_tasks_or_many_bytes_or_when_closed() {
        let inbox = Inbox::new(CallOptions::default(), None, None);
        let has = |wanted| inbox.lock().has_enough(wanted);
        inbox.deliver(results_of(100));
        assert!(has(1) && !has(2));
        inbox.deliver(results_of(100));
        assert!(has(2) && !has(3));
        assert!(inbox.poll().is_some() && has(1) && !has(2));
        inbox.deliver(results_of(EARLY_WAKE_BYTES));
        assert!(has(3), "so many bytes wake the reader early");
        assert!(inbox.poll().is_some() && inbox.poll().is_some() && !has(1));
        let _ = inbox.close(Error::closed());
        assert!(has(1), "nothing more will come");
    }

    #[test]
    fn measured_size_replaces_expected_size() {
        let inbox = Inbox::new(CallOptions::default(), None, None);
        inbox.expect_size(1000);
        assert_eq!(inbox.result_size(), Some(1000));
        inbox.learn_size(8);
        inbox.expect_size(1000);
        assert_eq!(inbox.result_size(), Some(750));
    }

    #[test]
    fn discarded_inbox_drops_results() {
        let inbox = Inbox::new(CallOptions::default(), None, None);
        inbox.deliver(results());
        let _ = inbox.discard(Error::cancelled());
        inbox.deliver(results());
        let next = inbox.poll().expect("it is closed");
        assert!(next.expect_err("nothing is delivered").is_cancelled());
    }

    #[test]
    fn closed_inbox_still_returns_results() {
        let inbox = Inbox::new(CallOptions::default(), None, None);
        let _ = inbox.close(Error::closed());
        inbox.deliver(results());
        assert!(inbox.poll().is_some_and(|next| next.is_ok()));
        assert!(inbox.poll().is_some_and(|next| next.is_err()));
    }
}
