//! The mailbox of a call: receives the call's results, still encoded, and wakes the caller, who
//! waits in a thread or as a future.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use proc_core::{Error, remote};

/// The fates (results or errors) of `count` tasks, from task `first`.
#[derive(Debug)]
pub struct Delivery {
    pub(crate) first: usize,
    pub(crate) count: usize,
    /// The machine that ran the tasks; empty if no machine did.
    pub(crate) host: String,
    /// Each task's fate, encoded; or one error for all tasks.
    pub(crate) fates: Result<Vec<u8>, Error>,
}

#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    deliveries: VecDeque<Delivery>,
    /// How many tasks were delivered so far.
    delivered: usize,
    closed: Option<Error>,
    waker: Option<Waker>,
}

impl State {
    fn next(&mut self) -> Option<Result<Delivery, Error>> {
        match self.deliveries.pop_front() {
            Some(delivery) => Some(Ok(delivery)),
            None => self.closed.clone().map(Err),
        }
    }
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn deliver(&self, delivery: Delivery) {
        self.change(|state| {
            if state.closed.is_none() {
                state.delivered += delivery.count;
                state.deliveries.push_back(delivery);
            }
        });
    }

    /// Closes the mailbox with the error of a cancelled task, and returns true. Returns false and
    /// does nothing if the mailbox is already closed, or if all tasks of the job (`all`) were
    /// delivered.
    pub(crate) fn cancel(&self, all: usize) -> bool {
        let mut cancelled = false;
        self.change(|state| {
            cancelled = state.delivered < all && state.closed.is_none();
            if cancelled {
                state.closed = Some(remote::cancelled_error());
            }
        });
        cancelled
    }

    /// Closes the mailbox: nothing more will arrive. `error` is the reason, unless the mailbox
    /// already has one.
    pub(crate) fn close(&self, error: Error) {
        self.change(|state| {
            state.closed.get_or_insert(error);
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        self.arrived.notify_all();
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Returns the next delivery, if there is one; or the reason, if the mailbox is closed and
    /// empty.
    pub(crate) fn poll(&self) -> Option<Result<Delivery, Error>> {
        self.lock().next()
    }

    /// Like [`poll`](Mailbox::poll). If there is nothing to return, `waker` is woken when there may
    /// be something.
    pub(crate) fn poll_or_wake(&self, waker: &Waker) -> Option<Result<Delivery, Error>> {
        let mut state = self.lock();
        let next = state.next();
        if next.is_none() {
            state.waker = Some(waker.clone());
        }
        next
    }

    /// Waits for the next delivery, or for the reason why none will come. Returns `None` if the
    /// deadline passes first.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Option<Result<Delivery, Error>> {
        let mut state = self.lock();
        loop {
            let next = state.next();
            let left = deadline.map_or(Duration::from_secs(3600), |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
            if next.is_some() || left.is_zero() {
                return next;
            }
            let woken = self.arrived.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
