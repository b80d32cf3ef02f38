//! Where a call's results arrive, still encoded, for whoever waits in whatever way.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use proc_core::remote;
use proc_core::{Error, Message};

/// What has become of `count` tasks from `first`.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) first: usize,
    pub(crate) count: usize,
    pub(crate) host: String,
    /// Each task's fate, or one error for all.
    pub(crate) fates: Result<Vec<u8>, Error>,
}

impl Delivery {
    /// Decodes; `settle` gets each task's number and fate.
    pub(crate) fn open<R: Message>(self, mut settle: impl FnMut(usize, Result<R, Error>)) {
        let Delivery { first, count, host, fates } = self;
        match fates {
            Ok(fates) => remote::open(&fates, first, count, &host, settle),
            Err(error) => {
                let host = Some(&host[..]).filter(|host| !host.is_empty());
                for task in first..first + count {
                    settle(task, Err(remote::at(error.clone(), Some(task), host)));
                }
            }
        }
    }
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

    /// Takes in nothing more, unless all tasks were delivered; whether that is so.
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

    /// Nothing more will come; `error` is why, unless that was said before.
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

    /// The next delivery, if there is one; the reason if none will come any more.
    pub(crate) fn poll(&self) -> Option<Result<Delivery, Error>> {
        self.lock().next()
    }

    /// Like [`poll`](Mailbox::poll); where there is nothing, `waker` is told when there is.
    pub(crate) fn poll_or_wake(&self, waker: &Waker) -> Option<Result<Delivery, Error>> {
        let mut state = self.lock();
        let next = state.next();
        if next.is_none() {
            state.waker = Some(waker.clone());
        }
        next
    }

    /// Waits for the next delivery; `None` if the deadline comes first.
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
