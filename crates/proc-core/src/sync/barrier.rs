//! Defines [`Barrier`], at which a number of threads wait for each other.
//!
//! Each process that has a barrier is on its list of *holders*. A holder that dies breaks the
//! barrier, because the others would wait for it. A holder that exits with code 0 only leaves the
//! list: a worker may end because it was idle. A process is dead a moment before its fork server
//! tells how it has ended, so a holder stays on the list until then.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::object::{Kind, Sent, Slot};
use super::raw_lock::{Locker, Patience, RawLock};
use crate::error::{Abandoned, Error, Origin};
use crate::memory::atomics::{AtomicU32, AtomicU64};
use crate::memory::{Placed, ProcessId, monotonic, now, shared_struct, wake_all};

shared_struct! {
    /// Words of a barrier, before its lists of arrivals and of holders.
    #[derive(Debug)]
    struct BarrierWords {
        /// Lock of those that change the other words.
        lock: RawLock,
        /// Number of threads that wait for each other.
        parties: AtomicU32,
        /// Number of times that all have arrived.
        round: AtomicU32,
        /// The process whose death has broken the barrier; 0 if it is not broken.
        broken_by: AtomicU32,
        /// A holder that is dead, but nobody has told how it has ended; 0 if there is none.
        untold: AtomicU32,
        /// When that was found, in nanoseconds of the system's monotonic clock.
        untold_since: AtomicU64,
    }
}

/// Offset of the list of arrivals in a barrier's slot.
const ARRIVALS: usize = 64;

/// Places in the list of holders, besides two for each party.
const MIN_HOLDERS: usize = if cfg!(all(test, loom)) { 0 } else { 64 };

/// How long a dead holder stays on the list if nobody tells how it has ended: its fork server was
/// stopped, or it has none. Then it counts as killed.
const UNTOLD_TIMEOUT: Duration = Duration::from_secs(2);

/// The most parties of a barrier.
const MAX_PARTIES: u32 = 1 << 16;

/// Place at which `n` threads of any processes wait until all have arrived. Then all go on, and the
/// barrier can be used again.
///
/// If a process that has the barrier dies, the barrier is broken for good: all that wait, and all
/// that come later, get an error of kind [`Abandoned`](crate::ErrorKind::Abandoned) with the pid of
/// that process. A process that ends with exit code 0 does not break the barrier, it only leaves.
/// Who waits for it waits forever, or until a [timeout](Barrier::wait_timeout).
///
/// A clone is the same barrier, and so is what another process receives. Run the parties in as many
/// processes or workers: tasks that wait for each other in one worker wait forever.
///
/// # Examples
///
/// ```
/// use proc_core::Pool;
/// use proc_core::sync::{Barrier, Value};
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let pool = Pool::builder().processes(3).build()?;
///     let together = (Barrier::new(3)?, Value::new(0)?);
///     let seen = pool.with(together).broadcast(
///         |(barrier, arrived), ()| {
///             arrived.fetch_add(1);
///             barrier.wait().expect("nobody dies here");
///             arrived.get() // all have arrived by now
///         },
///         (),
///     )?;
///     assert_eq!(seen, [3, 3, 3]);
///     Ok(())
/// }
/// ```
#[doc(alias = "multiprocessing.Barrier")]
#[derive(Clone)]
pub struct Barrier {
    holder: Arc<Holder>,
}

/// Words of a barrier, in this process.
#[derive(Debug)]
struct Place {
    slot: Arc<Slot>,
    words: Placed<BarrierWords>,
    parties: usize,
}

/// Entry of this process in a barrier's list of holders.
#[derive(Debug)]
struct Holder {
    place: Place,
    process: ProcessId,
    entry: usize,
}

impl Barrier {
    /// Makes a barrier for so many threads.
    ///
    /// # Errors
    ///
    /// - [`Invalid`](crate::ErrorKind::Invalid): `parties` is 0, or more than 65,536.
    /// - [`Start`](crate::ErrorKind::Start): there is no memory or descriptor for it.
    ///
    /// See the example of [`Barrier`].
    pub fn new(parties: u32) -> Result<Barrier, Error> {
        if !(1..=MAX_PARTIES).contains(&parties) {
            return Err(Error::invalid(format!(
                "a barrier has from 1 to {MAX_PARTIES} parties, not {parties}"
            )));
        }
        let slot = Slot::new(Kind::Barrier, slot_len(parties as usize))?;
        slot.header::<BarrierWords>().parties.store(parties, Ordering::Relaxed);
        Barrier::of(slot)
    }

    /// Enters this process in the list of holders.
    fn of(slot: Arc<Slot>) -> Result<Barrier, Error> {
        let words: Placed<BarrierWords> = slot.header();
        let parties = words.parties.load(Ordering::Relaxed) as usize;
        if parties == 0 || slot_len(parties) > slot.len() {
            return Err(Error::invalid("the barrier is shorter than it says"));
        }
        let place = Place { slot, words, parties };
        let me = Locker::current(place.slot.family())?;
        let entry = place.locked(me, || place.enter(me))?;
        Ok(Barrier { holder: Arc::new(Holder { place, process: me.process, entry }) })
    }

    /// Waits until all parties have arrived. Returns how many had arrived before the calling
    /// thread. So exactly one thread gets 0, unless a thread has given up
    /// ([`wait_timeout`](Barrier::wait_timeout)).
    ///
    /// # Errors
    ///
    /// [`Abandoned`](crate::ErrorKind::Abandoned): a process that had the barrier died. The error
    /// has its pid.
    ///
    /// See the example of [`Barrier`].
    pub fn wait(&self) -> Result<usize, Error> {
        loop {
            if let Some(before) = self.wait_until(None)? {
                return Ok(before);
            }
        }
    }

    /// Waits like [`wait`](Barrier::wait), but for at most `timeout`. Returns `None` if not all
    /// have arrived by then; the calling thread has not arrived either in that case.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Barrier::wait).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use proc_core::sync::Barrier;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let barrier = Barrier::new(2)?;
    ///     assert_eq!(barrier.wait_timeout(Duration::from_millis(1))?, None); // nobody else is here
    ///     Ok(())
    /// }
    /// ```
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<usize>, Error> {
        self.wait_until(now().checked_add(timeout))
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Result<Option<usize>, Error> {
        let place = &self.holder.place;
        let (family, word) = (place.slot.family(), &place.words.round);
        let me = Locker::current(family)?;
        let mut deaths = family.deaths();
        let (round, arrival, before) = place.locked(me, || {
            // This process may be a copy of the one that has the entry.
            if me.process != self.holder.process && !place.has_entry(me) {
                place.enter(me)?;
            }
            place.check(me)?;
            place.arrive(me)
        })?;
        loop {
            if word.load(Ordering::Acquire) != round {
                return Ok(Some(before));
            }
            if deadline.is_some_and(|deadline| now() >= deadline) {
                let has_left = place.locked(me, || {
                    let is_waiting = word.load(Ordering::Relaxed) == round;
                    if is_waiting {
                        place.arrivals()[arrival].store(0, Ordering::Relaxed);
                    }
                    Ok(is_waiting)
                })?;
                return Ok((!has_left).then_some(before));
            }
            family.wait(word, round, deaths, deadline);
            deaths = family.deaths();
            if word.load(Ordering::Acquire) == round {
                place.locked(me, || match word.load(Ordering::Relaxed) == round {
                    true => place.check(me),
                    false => Ok(()),
                })?;
            }
        }
    }
}

#[cfg(all(test, loom))]
impl Barrier {
    /// The barrier as it arrives in the current process, which has received it.
    pub(super) fn received(&self) -> Barrier {
        Barrier::of(Arc::clone(&self.holder.place.slot)).expect("there is room")
    }
}

/// Returns the size of the slot of a barrier.
fn slot_len(parties: usize) -> usize {
    holders_offset(parties) + holder_count(parties) * size_of::<AtomicU32>()
}

fn holders_offset(parties: usize) -> usize {
    ARRIVALS + parties * size_of::<AtomicU64>()
}

fn holder_count(parties: usize) -> usize {
    MIN_HOLDERS + 2 * parties
}

impl Place {
    /// Calls `change` while no other thread changes the words.
    fn locked<R>(&self, me: Locker, change: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
        // The thread does not have this lock, since nothing here calls the user's code. If a
        // process on the list died while it had the lock, `check` finds it. Any other process has
        // changed only its own entry, or was in a `check`, which the next `check` does again.
        let _ = self.words.lock.lock(me, Patience::Endless);
        let changed = change();
        self.words.lock.unlock(me);
        changed
    }

    /// For each thread that waits: the number of the round, and the number of its process. An entry
    /// of another round does not count.
    fn arrivals(&self) -> &[AtomicU64] {
        self.slot.atomics(ARRIVALS, self.parties)
    }

    /// The processes that have the barrier; 0 where there is none.
    fn holders(&self) -> &[AtomicU32] {
        self.slot.atomics(holders_offset(self.parties), holder_count(self.parties))
    }

    fn has_entry(&self, me: Locker) -> bool {
        let is_own = |holder: &AtomicU32| holder.load(Ordering::Relaxed) == me.process.get();
        self.holders().iter().any(is_own)
    }

    /// Enters this process in the list of holders. Returns the index of the entry. A process that
    /// has received the barrier twice has two entries.
    fn enter(&self, me: Locker) -> Result<usize, Error> {
        let is_free = |holder: &AtomicU32| holder.load(Ordering::Relaxed) == 0;
        let mut entry = self.holders().iter().position(is_free);
        if entry.is_none() {
            self.check(me)?; // takes off those that have left
            entry = self.holders().iter().position(is_free);
        }
        let entry = entry.ok_or_else(|| {
            Error::invalid(format!(
                "a barrier for {} parties has room for {} holders: let fewer processes have it",
                self.parties,
                holder_count(self.parties)
            ))
        })?;
        self.holders()[entry].store(me.process.get(), Ordering::Relaxed);
        Ok(entry)
    }

    /// Looks whether all holders are alive.
    ///
    /// # Errors
    ///
    /// One of them has died, now or before.
    fn check(&self, me: Locker) -> Result<(), Error> {
        let broken_by = &self.words.broken_by;
        for holder in self.holders() {
            let Some(id) = ProcessId::of(holder.load(Ordering::Relaxed)) else { continue };
            if me.family.is_alive(id) {
                continue;
            }
            let (_, status) = me.family.obituary(id);
            if status.is_none() && self.may_be_told(id) {
                continue; // the news wakes all that wait
            }
            let has_left = status.is_some_and(|status| status.code() == Some(0));
            if !has_left && broken_by.load(Ordering::Relaxed) == 0 {
                broken_by.store(id.get(), Ordering::Relaxed);
                wake_all(&self.words.round);
            }
            holder.store(0, Ordering::Relaxed);
        }
        let Some(dead) = ProcessId::of(broken_by.load(Ordering::Relaxed)) else { return Ok(()) };
        let (pid, status) = me.family.obituary(dead);
        let origin = Origin { pid, ..Origin::default() };
        Err(Error::abandoned(Abandoned::Barrier, status).with_origin(origin))
    }

    /// Whether somebody may still tell how process `id`, which is dead, has ended. The caller has
    /// the lock.
    fn may_be_told(&self, id: ProcessId) -> bool {
        let BarrierWords { untold, untold_since, .. } = &*self.words;
        let first = untold.load(Ordering::Relaxed);
        if first == id.get() {
            let waited = monotonic().saturating_sub(untold_since.load(Ordering::Relaxed));
            return u128::from(waited) < UNTOLD_TIMEOUT.as_nanos();
        }
        // One dead holder is timed at a time. When it is no longer on the list, its turn is over.
        let is_listed = |holder: &AtomicU32| holder.load(Ordering::Relaxed) == first;
        if first == 0 || !self.holders().iter().any(is_listed) {
            untold_since.store(monotonic(), Ordering::Relaxed);
            untold.store(id.get(), Ordering::Relaxed);
        }
        true
    }

    /// Notes that this thread has arrived. Returns the round, the index of the arrival, and how
    /// many threads had arrived before. The last one to arrive ends the round.
    fn arrive(&self, me: Locker) -> Result<(u32, usize, usize), Error> {
        let round = self.words.round.load(Ordering::Relaxed);
        let has_come = |arrival: &AtomicU64| {
            let arrival = arrival.load(Ordering::Relaxed);
            arrival as u32 != 0 && (arrival >> 32) as u32 == round
        };
        let before = self.arrivals().iter().filter(|arrival| has_come(arrival)).count();
        let free = self.arrivals().iter().position(|arrival| !has_come(arrival));
        let Some(free) = free else {
            return Err(self.unfinished_round(me));
        };
        let arrival = u64::from(round) << 32 | u64::from(me.process.get());
        self.arrivals()[free].store(arrival, Ordering::Relaxed);
        if before + 1 == self.parties {
            self.words.round.store(round.wrapping_add(1), Ordering::Release);
            wake_all(&self.words.round);
        }
        Ok((round, free, before))
    }

    /// Makes the error of a round whose last process died after its arrival, before it had ended
    /// the round.
    fn unfinished_round(&self, me: Locker) -> Error {
        let process = |arrival: &AtomicU64| ProcessId::of(arrival.load(Ordering::Relaxed) as u32);
        let arrived = self.arrivals().iter().filter_map(process);
        let dead = arrived.filter(|id| !me.family.is_alive(*id));
        // One that ended with exit code 0 has not broken the barrier.
        let mut killed = dead
            .map(|id| me.family.obituary(id))
            .filter(|(_, status)| status.is_none_or(|status| !status.success()));
        let (pid, status) = killed.next().unwrap_or_default();
        Error::abandoned(Abandoned::Barrier, status)
            .with_origin(Origin { pid, ..Origin::default() })
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // A copy of the process must not take its original off the list.
        let me =
            Locker::current(self.place.slot.family()).ok().filter(|me| me.process == self.process);
        if let Some(me) = me {
            let _ = self.place.locked(me, || {
                self.place.holders()[self.entry].store(0, Ordering::Relaxed);
                Ok(())
            });
        }
    }
}

impl serde::Serialize for Barrier {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.holder.place.slot.send().map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Barrier {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Barrier, D::Error> {
        let sent = Sent::deserialize(deserializer)?;
        let slot = sent.arrive(Kind::Barrier, slot_len(1)).map_err(serde::de::Error::custom)?;
        Barrier::of(slot).map_err(serde::de::Error::custom)
    }
}

impl Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parties = self.holder.place.parties;
        f.debug_struct("Barrier").field("parties", &parties).finish_non_exhaustive()
    }
}
