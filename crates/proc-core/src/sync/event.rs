//! Defines [`Event`], a flag that processes wait for.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::object::{Kind, Slot, send_as_slot};
use crate::error::Error;
use crate::memory::atomics::AtomicU32;
use crate::memory::{Placed, now, shared_struct, wake_all};

/// The event is set.
const SET: u32 = 1;

/// Somebody sleeps until the event is set.
const WAITERS: u32 = 2;

shared_struct! {
    /// Words of an event.
    #[derive(Debug)]
    struct EventWords {
        /// [`SET`] and [`WAITERS`].
        word: AtomicU32,
    }
}

/// Flag that one process sets and others wait for.
///
/// A clone is the same event, and so is what another process receives. Nobody holds an event, so a
/// death changes nothing. Who waits for an event that only a dead process would have set waits
/// forever: use [`wait_timeout`](Event::wait_timeout) where that can happen.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use proc_core::Process;
/// use proc_core::sync::Event;
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let ready = Event::new()?;
///     let child = Process::new(|ready: Event| ready.set(), ready.clone()).start()?;
///     ready.wait();
///     assert!(ready.is_set());
///     ready.clear();
///     assert!(!ready.wait_timeout(Duration::from_millis(1)));
///     child.join()
/// }
/// ```
#[doc(alias = "multiprocessing.Event")]
#[derive(Clone)]
pub struct Event {
    slot: Arc<Slot>,
    words: Placed<EventWords>,
}

impl Event {
    /// Makes an event that is not set.
    ///
    /// # Errors
    ///
    /// There is no memory or descriptor for it ([`ErrorKind::Start`](crate::ErrorKind::Start)).
    ///
    /// See the example of [`Event`].
    pub fn new() -> Result<Event, Error> {
        Slot::new(Kind::Event, size_of::<EventWords>()).map(Event::of)
    }

    fn of(slot: Arc<Slot>) -> Event {
        Event { words: slot.header(), slot }
    }

    /// Sets the event, and wakes all that wait for it.
    ///
    /// See the example of [`Event`].
    pub fn set(&self) {
        if self.words.word.swap(SET, Ordering::Release) & WAITERS != 0 {
            wake_all(&self.words.word);
        }
    }

    /// Makes the event not set, so that others wait for it again.
    ///
    /// See the example of [`Event`].
    pub fn clear(&self) {
        self.words.word.fetch_and(!SET, Ordering::Relaxed);
    }

    /// Whether the event is set.
    ///
    /// See the example of [`Event`].
    pub fn is_set(&self) -> bool {
        self.words.word.load(Ordering::Acquire) & SET != 0
    }

    /// Waits until the event is set.
    ///
    /// See the example of [`Event`].
    pub fn wait(&self) {
        self.wait_until(None);
    }

    /// Waits like [`wait`](Event::wait), but for at most `timeout`. Returns whether the event is
    /// set.
    ///
    /// See the example of [`Event`].
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.wait_until(now().checked_add(timeout))
    }

    fn wait_until(&self, deadline: Option<Instant>) -> bool {
        let family = self.slot.family();
        loop {
            // A process that was killed between the store and the wake-up has woken nobody. Its
            // death does.
            let deaths = family.deaths();
            let word = self.words.word.load(Ordering::Acquire);
            if word & SET != 0 {
                return true;
            }
            if deadline.is_some_and(|deadline| now() >= deadline) {
                return false;
            }
            let waiting = word | WAITERS;
            let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
            if self.words.word.compare_exchange(word, waiting, success, failure).is_ok() {
                family.wait(&self.words.word, waiting, deaths, deadline);
            }
        }
    }
}

send_as_slot!(Event, Kind::Event, size_of::<EventWords>());

impl Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("is_set", &self.is_set()).finish_non_exhaustive()
    }
}
