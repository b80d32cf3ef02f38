//! Which data of `with`s a driver has, and of which the server may have pieces.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::message::Numbers;

/// The numbers of a driver's data.
#[derive(Debug, Default)]
pub(crate) struct DataNumbers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The data that the user or a call has.
    numbers: Numbers,
    /// The data of which the server may have pieces.
    stored: HashSet<u64>,
}

impl DataNumbers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The data that the user or a call has, for heartbeats.
    pub(crate) fn get(&self) -> Numbers {
        self.lock().numbers.clone()
    }

    /// Returns the number of new data.
    pub(crate) fn open_next(&self) -> u64 {
        self.lock().numbers.open_next()
    }

    /// Notes that the server may soon have pieces of the data.
    pub(crate) fn note_stored(&self, id: u64) {
        self.lock().stored.insert(id);
    }

    /// Notes that nobody has the data any more. Returns whether the server may have pieces of them.
    pub(crate) fn close(&self, id: u64) -> bool {
        let mut state = self.lock();
        state.numbers.open.remove(&id);
        state.stored.contains(&id)
    }

    /// Whether the server may have pieces of any data.
    pub(crate) fn has_stored(&self) -> bool {
        !self.lock().stored.is_empty()
    }

    /// Notes that the server has no pieces of the data any more.
    pub(crate) fn note_removed(&self, id: u64) {
        self.lock().stored.remove(&id);
    }

    /// Notes that the server has no pieces of any data any more.
    pub(crate) fn note_all_removed(&self) {
        self.lock().stored.clear();
    }
}
