//! The mailbox of a call: its deliveries arrive here, and wake the thread or the future that waits
//! for them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use proc_core::{Error, remote};

/// The fates (results or errors) of `count` tasks, from task `first` on.
#[derive(Debug)]
pub struct Delivery {
    pub(crate) first: usize,
    pub(crate) count: usize,
    /// The machine that ran the tasks; empty if no machine did.
    pub(crate) host: String,
    /// The encoded fates of the tasks, or one error for all of them.
    pub(crate) fates: Result<Vec<u8>, Error>,
}

/// The mailbox of one call.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    state: Mutex<MailboxState>,
    arrived: Condvar,
    /// How many times a task was tried or handed out again.
    retried: AtomicUsize,
}

#[derive(Debug, Default)]
struct MailboxState {
    deliveries: VecDeque<Delivery>,
    /// How many tasks were delivered so far.
    delivered: usize,
    /// The error that the mailbox was closed with.
    closed: Option<Error>,
    waker: Option<Waker>,
}

impl MailboxState {
    fn next(&mut self) -> Option<Result<Delivery, Error>> {
        match self.deliveries.pop_front() {
            Some(delivery) => Some(Ok(delivery)),
            None => self.closed.clone().map(Err),
        }
    }
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, MailboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts tasks that are handed out again, or that an agent has tried again.
    pub(crate) fn add_retried(&self, tasks: usize) {
        self.retried.fetch_add(tasks, Ordering::Relaxed);
    }

    /// How many times a task was tried or handed out again.
    pub(crate) fn retried(&self) -> usize {
        self.retried.load(Ordering::Relaxed)
    }

    /// Accepts a delivery. A closed mailbox drops it.
    pub(crate) fn deliver(&self, delivery: Delivery) {
        self.change(|state| {
            if state.closed.is_none() {
                state.delivered += delivery.count;
                state.deliveries.push_back(delivery);
            }
        });
    }

    /// Closes the mailbox with the error of a cancelled call, and returns true. Does nothing and
    /// returns false if the mailbox is already closed, or if all tasks of the call were delivered
    /// (`all` is their number).
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

    /// Closes the mailbox with an error, unless it is already closed. Readers get the error after
    /// the last delivery.
    pub(crate) fn close(&self, error: Error) {
        self.change(|state| {
            state.closed.get_or_insert(error);
        });
    }

    /// Changes the state, then wakes the thread or the future that waits.
    fn change(&self, change: impl FnOnce(&mut MailboxState)) {
        let mut state = self.lock();
        change(&mut state);
        self.arrived.notify_all();
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Returns the next delivery, if there is one. If the mailbox is closed and empty, returns the
    /// error that it was closed with.
    pub(crate) fn poll(&self) -> Option<Result<Delivery, Error>> {
        self.lock().next()
    }

    /// Like [`poll`](Mailbox::poll). If there is nothing to return, keeps `waker`, and calls it
    /// when there may be something.
    pub(crate) fn poll_or_wake(&self, waker: &Waker) -> Option<Result<Delivery, Error>> {
        let mut state = self.lock();
        let next = state.next();
        if next.is_none() {
            state.waker = Some(waker.clone());
        }
        next
    }

    /// Like [`poll`](Mailbox::poll), but waits until there is something to return. Returns `None`
    /// if the deadline passes first.
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
