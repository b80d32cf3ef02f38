//! Defines [`Semaphore`], which lends a number of permits.
//!
//! Each permit that is lent is one word with the number of its process, so that it can be taken
//! back when the process has died. The words are the truth; the count of those that are lent is
//! only kept to save counting, and is counted anew if a process has died while it changed them.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::object::{Kind, Slot, send_as_slot};
use super::raw_lock::{Acquired, Locker, Patience, RawLock};
use crate::error::Error;
use crate::memory::atomics::AtomicU32;
use crate::memory::{Placed, ProcessId, shared_struct, wake_some};

shared_struct! {
    /// Words of a semaphore, before those of its permits.
    #[derive(Debug)]
    struct SemaphoreWords {
        /// Lock of those that change the other words.
        lock: RawLock,
        /// Number of permits, lent or not.
        permits: AtomicU32,
        /// Number of permits that are lent.
        lent: AtomicU32,
        /// Number of places for lent permits.
        places: AtomicU32,
        /// Place after the one that was lent last, where the search for a free one begins.
        next: AtomicU32,
        /// [`WAITERS`], and twice the number of times that permits came back.
        returned: AtomicU32,
    }
}

/// Somebody sleeps until a permit comes back.
const WAITERS: u32 = 1;

/// Offset of the words of lent permits in a semaphore's slot.
const PLACES: usize = 64;

/// Number of permits that can be lent at a time if the semaphore was made with fewer than that.
const MIN_PLACES: u32 = if cfg!(all(test, loom)) { 3 } else { 240 };

/// Permits that can be lent at a time at most.
const MAX_PLACES: u32 = 1 << 20;

/// Number of permits that processes and threads share. Each permit is lent to one of them at a
/// time.
///
/// A permit comes back when it is dropped, and also when its process dies. A clone is the same
/// semaphore, and so is what another process receives.
///
/// To signal rather than to limit, make it with 0 permits: [`add_permits`](Semaphore::add_permits)
/// signals, and who has waited calls [`forget`](Permit::forget).
///
/// # Examples
///
/// ```
/// use proc_core::Pool;
/// use proc_core::sync::{Semaphore, Value};
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let pool = Pool::builder().processes(4).build()?;
///     let (at_a_time, now) = (Semaphore::new(2)?, Value::new(0)?);
///     let most = pool.with((at_a_time, now)).map(
///         |(at_a_time, now), _: u32| {
///             let _permit = at_a_time.acquire().expect("there is room");
///             let most = now.fetch_add(1) + 1;
///             now.fetch_sub(1);
///             most
///         },
///         0..100,
///     )?;
///     assert!(most.into_iter().all(|most| most <= 2));
///     Ok(())
/// }
/// ```
#[doc(alias = "BoundedSemaphore")]
#[derive(Clone)]
pub struct Semaphore {
    slot: Arc<Slot>,
    words: Placed<SemaphoreWords>,
}

/// Permit of a [`Semaphore`]. Dropping it returns it.
///
/// See the example of [`Semaphore`].
#[must_use = "the permit goes back when it is dropped"]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
    me: Locker,
    place: usize,
}

impl Semaphore {
    /// Makes a semaphore with so many permits, which may be 0.
    ///
    /// # Errors
    ///
    /// There is no memory or descriptor for it ([`ErrorKind::Start`](crate::ErrorKind::Start)).
    ///
    /// See the example of [`Semaphore`].
    pub fn new(permits: u32) -> Result<Semaphore, Error> {
        let places = permits.clamp(MIN_PLACES, MAX_PLACES);
        let len = PLACES + places as usize * size_of::<AtomicU32>();
        let semaphore = Semaphore::of(Slot::new(Kind::Semaphore, len)?);
        semaphore.words.places.store(places, Ordering::Relaxed);
        semaphore.words.permits.store(permits, Ordering::Relaxed);
        Ok(semaphore)
    }

    fn of(slot: Arc<Slot>) -> Semaphore {
        Semaphore { words: slot.header(), slot }
    }

    /// Waits until there is a permit, and takes it.
    ///
    /// # Errors
    ///
    /// - [`Invalid`](crate::ErrorKind::Invalid): the semaphore has more permits than can be lent at
    ///   a time (240; if it was made with more, as many as that, up to 2²⁰), and so many are lent.
    /// - [`Start`](crate::ErrorKind::Start): the kernel has no more record locks, of which each
    ///   process needs one.
    ///
    /// See the example of [`Semaphore`].
    pub fn acquire(&self) -> Result<Permit<'_>, Error> {
        loop {
            if let Some(permit) = self.acquire_until(Patience::Endless)? {
                return Ok(permit);
            }
        }
    }

    /// Takes a permit if there is one.
    ///
    /// # Errors
    ///
    /// As for [`acquire`](Semaphore::acquire).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use proc_core::sync::Semaphore;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let semaphore = Semaphore::new(1)?;
    ///     let permit = semaphore.acquire()?;
    ///     assert!(semaphore.try_acquire()?.is_none());
    ///     assert!(semaphore.acquire_timeout(Duration::from_millis(1))?.is_none());
    ///     drop(permit);
    ///     assert!(semaphore.try_acquire()?.is_some());
    ///     Ok(())
    /// }
    /// ```
    pub fn try_acquire(&self) -> Result<Option<Permit<'_>>, Error> {
        self.acquire_until(Patience::None)
    }

    /// Waits like [`acquire`](Semaphore::acquire), but for at most `timeout`. Returns `None` if
    /// there is no permit still.
    ///
    /// # Errors
    ///
    /// As for [`acquire`](Semaphore::acquire).
    ///
    /// See the example of [`try_acquire`](Semaphore::try_acquire).
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Option<Permit<'_>>, Error> {
        self.acquire_until(Patience::at_most(timeout))
    }

    /// Returns how many permits are not lent now.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::sync::Semaphore;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let signals = Semaphore::new(0)?;
    ///     signals.add_permits(2)?; // two signals
    ///     signals.acquire()?.forget(); // one was received
    ///     assert_eq!(signals.available_permits()?, 1);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Start`](crate::ErrorKind::Start), as for [`add_permits`](Semaphore::add_permits).
    #[doc(alias = "get_value")]
    pub fn available_permits(&self) -> Result<u32, Error> {
        self.change(Locker::current(self.slot.family())?, |change| {
            change.take_back_from_the_dead();
            Ok(change.available())
        })
    }

    /// Adds permits, and wakes as many of the threads that wait for a permit.
    ///
    /// # Errors
    ///
    /// - [`Invalid`](crate::ErrorKind::Invalid): the semaphore would have more than `u32::MAX`
    ///   permits.
    /// - [`Start`](crate::ErrorKind::Start): the kernel has no more record locks, of which each
    ///   process needs one.
    ///
    /// See the example of [`available_permits`](Semaphore::available_permits).
    #[doc(alias = "release")]
    pub fn add_permits(&self, count: u32) -> Result<(), Error> {
        self.change(Locker::current(self.slot.family())?, |Change { words, .. }| {
            let permits = words.permits.load(Ordering::Relaxed).checked_add(count);
            let too_many = || Error::invalid("a semaphore has at most u32::MAX permits");
            words.permits.store(permits.ok_or_else(too_many)?, Ordering::Relaxed);
            Ok(())
        })?;
        self.wake(count);
        Ok(())
    }

    fn acquire_until(&self, patience: Patience) -> Result<Option<Permit<'_>>, Error> {
        let family = self.slot.family();
        let me = Locker::current(family)?;
        let mut has_slept = false;
        loop {
            let deaths = family.deaths();
            let returned = self.words.returned.load(Ordering::Acquire);
            let is_over = patience.is_over();
            let (lent, is_one_left) = self.change(me, |change| {
                let lent = change.lend();
                let leaves = has_slept && (is_over || !matches!(lent, Ok(None)));
                if leaves {
                    // It may have been woken in place of another one that still sleeps.
                    self.words.returned.fetch_or(WAITERS, Ordering::Relaxed);
                }
                Ok((lent, leaves && change.available() > 0))
            })?;
            if is_one_left {
                // While this thread woke up, other permits came back that have woken nobody.
                self.wake(1);
            }
            if let Some(place) = lent? {
                return Ok(Some(Permit { semaphore: self, me, place }));
            }
            if is_over {
                return Ok(None);
            }
            let waiting = returned | WAITERS;
            let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
            let word = &self.words.returned;
            if word.compare_exchange(returned, waiting, success, failure).is_ok() {
                family.wait(word, waiting, deaths, patience.deadline());
                has_slept = true;
            }
        }
    }

    /// Calls `change` with the words of the permits, while no other thread changes them.
    fn change<R>(
        &self,
        me: Locker,
        change: impl FnOnce(&Change<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let words = &*self.words;
        // The thread does not have this lock, since nothing below calls the user's code.
        let acquired = words.lock.lock(me, Patience::Endless);
        let places = words.places.load(Ordering::Relaxed) as usize;
        let most = (self.slot.len() - PLACES) / size_of::<AtomicU32>();
        let places = self.slot.atomics(PLACES, places.min(most));
        let changing = Change { words, places, me };
        if acquired != Ok(Acquired::Clean) {
            changing.count_lent();
        }
        let changed = change(&changing);
        words.lock.unlock(me);
        changed
    }

    /// Wakes up to `count` threads that wait for a permit.
    fn wake(&self, count: u32) {
        let word = &self.words.returned;
        // Those that are woken set the bit again, for the others that may still sleep, and wake the
        // next one if there is a permit for it.
        let next = |word: u32| Some((word & !WAITERS).wrapping_add(2));
        let returned = word.fetch_update(Ordering::Release, Ordering::Relaxed, next);
        if returned.is_ok_and(|returned| returned & WAITERS != 0) {
            wake_some(word, count);
        }
    }
}

/// The words of a semaphore, for the thread that has its lock.
struct Change<'a> {
    words: &'a SemaphoreWords,
    places: &'a [AtomicU32],
    me: Locker,
}

impl Change<'_> {
    fn available(&self) -> u32 {
        let [permits, lent] =
            [&self.words.permits, &self.words.lent].map(|word| word.load(Ordering::Relaxed));
        permits.saturating_sub(lent)
    }

    /// Lends a permit to this process. Returns its place; `None` if there is no permit.
    fn lend(&self) -> Result<Option<usize>, Error> {
        let lent = || self.words.lent.load(Ordering::Relaxed);
        if self.available() == 0 || lent() as usize >= self.places.len() {
            self.take_back_from_the_dead();
        }
        if self.available() == 0 {
            return Ok(None);
        }
        let next = self.words.next.load(Ordering::Relaxed) as usize;
        let in_turn = (next..self.places.len()).chain(0..next.min(self.places.len()));
        let is_free = |place: &usize| self.places[*place].load(Ordering::Relaxed) == 0;
        let Some(place) = { in_turn }.find(is_free) else {
            return Err(Error::invalid(format!(
                "{} permits are lent, and a semaphore cannot lend more at a time: make it with as \
                 many permits as are needed at a time",
                self.places.len()
            )));
        };
        // From here on the permit belongs to this process, and comes back if the process dies.
        self.places[place].store(self.me.process.get(), Ordering::Relaxed);
        self.words.lent.store(lent() + 1, Ordering::Relaxed);
        self.words.next.store(place as u32 + 1, Ordering::Relaxed);
        Ok(Some(place))
    }

    fn take_back(&self, place: usize) {
        self.places[place].store(0, Ordering::Relaxed);
        let lent = self.words.lent.load(Ordering::Relaxed);
        self.words.lent.store(lent.saturating_sub(1), Ordering::Relaxed);
    }

    /// Takes back the permits of processes that have died.
    fn take_back_from_the_dead(&self) {
        let mut alive = None;
        for (place, word) in self.places.iter().enumerate() {
            let Some(owner) = ProcessId::of(word.load(Ordering::Relaxed)) else { continue };
            if alive == Some(owner) {
                continue; // many permits may be lent to one process
            }
            match self.me.family.is_alive(owner) {
                true => alive = Some(owner),
                false => self.take_back(place),
            }
        }
    }

    /// Counts the lent permits anew, because a process died while it changed them.
    fn count_lent(&self) {
        let lent = self.places.iter().filter(|word| word.load(Ordering::Relaxed) != 0).count();
        self.words.lent.store(lent as u32, Ordering::Relaxed);
    }
}

impl Permit<'_> {
    /// Does not return the permit: from now on, the semaphore has one less.
    ///
    /// See the example of [`Semaphore::available_permits`].
    pub fn forget(self) {
        let permit = std::mem::ManuallyDrop::new(self);
        if permit.me.is_this_process() {
            permit.give_up(|change| {
                // In this order: a process that dies in between has forgotten the permit.
                let permits = change.words.permits.load(Ordering::Relaxed);
                change.words.permits.store(permits.saturating_sub(1), Ordering::Relaxed);
            });
        }
    }

    fn give_up(&self, first: impl FnOnce(&Change<'_>)) {
        // It may be dropped in another thread than the one that has acquired it.
        let Ok(me) = Locker::current(self.semaphore.slot.family()) else { return };
        let _ = self.semaphore.change(me, |change| {
            first(change);
            change.take_back(self.place);
            Ok(())
        });
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        // A copy of the process must not return what its original has.
        if self.me.is_this_process() {
            self.give_up(|_| ());
            self.semaphore.wake(1);
        }
    }
}

send_as_slot!(Semaphore, Kind::Semaphore, PLACES + MIN_PLACES as usize * size_of::<AtomicU32>());

impl Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let permits = self.words.permits.load(Ordering::Relaxed);
        f.debug_struct("Semaphore").field("permits", &permits).finish_non_exhaustive()
    }
}

impl Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}
