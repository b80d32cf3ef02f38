//! The lock inside all other shared state that needs one: a few words in shared memory.
//!
//! The number of the process that has the lock is *in* the word that compare-and-swap changes. So
//! there is no moment at which a process has the lock and nobody can see whose it is, and whoever
//! finds the lock taken can ask whether its holder is alive.
//!
//! A thread that finds the lock taken sets the bit [`WAITERS`] and sleeps until the word changes or
//! any process of the family ends. After that it looks again: a free lock it takes, and the lock of
//! a dead process it takes *over*, in one step. The holder that releases the lock wakes one thread.
//! If that thread is killed before it takes the lock, its death wakes all others.
//!
//! A holder that takes the lock again at once is faster than a thread that is woken for it, again
//! and again. So a thread that has waited for [`FAIR_AFTER`] sets a bit in the word `fair`. While
//! the bit is set, a thread that comes later sleeps before it takes a free lock, for at most
//! [`MAX_NAP`]. Only fairness depends on the bit: if the thread that has set it dies, others sleep
//! once in vain.

use std::hint::spin_loop;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::memory::atomics::{AtomicU32, AtomicU64};
use crate::memory::{Family, PROCESS_ID_BITS, ProcessId, monotonic, now, shared_struct, wake_one};
use crate::sys;

/// Somebody sleeps until the lock is released.
const WAITERS: u32 = 1 << 31;

/// A holder has died, and nobody has said since that all is well.
const ABANDONED: u32 = 1 << 30;

const OWNER: u32 = (1 << PROCESS_ID_BITS) - 1;

/// How often a thread looks at a taken lock before it sleeps: for about a microsecond. (Sleeping
/// and being woken takes 6 us on the machine where this was measured.)
const SPINS: u32 = if cfg!(all(test, loom)) { 0 } else { 60 };

/// A thread that has waited for so long goes before threads that come later, but only one thread
/// does so in each period of this length: to hand the lock from one sleeping thread to the next
/// takes a switch between threads each time.
const FAIR_AFTER: Duration = Duration::from_millis(1);

/// How long a thread sleeps while others go first. A release of the lock may wake it earlier. (In a
/// model, its time is over at once.)
const MAX_NAP: Duration =
    if cfg!(all(test, loom)) { Duration::ZERO } else { Duration::from_millis(1) };

/// Set in `fair` while a thread that has waited for long goes first.
const WAITED_LONG: u32 = 1;

shared_struct! {
    /// Words of a lock. All zero, it is free.
    #[derive(Debug)]
    pub(super) struct RawLock {
        /// The process that has the lock, [`WAITERS`] and [`ABANDONED`].
        word: AtomicU32,
        /// How often the holder has locked it again.
        depth: AtomicU32,
        /// The thread that has the lock, while it has it.
        thread: AtomicU64,
        /// The process that died last while it had the lock. Only the holder writes this.
        dead: AtomicU32,
        /// [`WAITED_LONG`], and above it the period in which a thread has set it last.
        fair: AtomicU32,
    }
}

/// This thread, as holder of a lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Locker {
    pub(super) family: &'static Family,
    pub(super) process: ProcessId,
    /// Number of the thread, which no other thread of the family has.
    thread: u64,
}

/// How long to wait for a lock.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    None,
    Until(Instant),
    Endless,
}

/// What a thread has found when it got a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acquired {
    Clean,
    /// This process died while it had the lock.
    Abandoned(Option<ProcessId>),
}

/// Why a thread has not got a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Another thread has it still.
    Taken,
    /// This thread has it.
    OwnLock,
}

impl Locker {
    /// Returns the current thread.
    ///
    /// # Errors
    ///
    /// This process has no number yet, and the kernel has no more record locks.
    #[inline]
    pub(super) fn current(family: &'static Family) -> Result<Locker, Error> {
        match family.own_id() {
            Ok(process) => {
                Ok(Locker { family, process, thread: sys::thread_number(process.get()) })
            }
            Err(error) => Err(Error::make("shared state", error)),
        }
    }

    /// Whether this is still the process that it was, and not a copy of it.
    #[inline]
    pub(super) fn is_this_process(self) -> bool {
        self.family.own_id().is_ok_and(|id| id == self.process)
    }
}

impl Patience {
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Patience::Until(deadline) => Some(deadline),
            Patience::None | Patience::Endless => None,
        }
    }

    pub(super) fn is_over(self) -> bool {
        match self {
            Patience::None => true,
            Patience::Until(deadline) => now() >= deadline,
            Patience::Endless => false,
        }
    }

    /// Waits at most for this duration.
    pub(super) fn at_most(duration: std::time::Duration) -> Patience {
        now().checked_add(duration).map_or(Patience::Endless, Patience::Until)
    }
}

impl RawLock {
    /// Takes the lock.
    #[inline]
    pub(super) fn lock(&self, me: Locker, patience: Patience) -> Result<Acquired, Refused> {
        let acquired = match !self.is_for_others() && self.take(0, me.process.get()) {
            true => Acquired::Clean,
            false => self.lock_slowly(me, patience)?,
        };
        self.thread.store(me.thread, Ordering::Relaxed);
        Ok(acquired)
    }

    #[inline]
    fn take(&self, expected: u32, new: u32) -> bool {
        self.word.compare_exchange(expected, new, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[cold]
    fn lock_slowly(&self, me: Locker, patience: Patience) -> Result<Acquired, Refused> {
        // Once this thread has slept, others may sleep too, and a release wakes them only if
        // `WAITERS` is set. So the thread sets it when it takes the lock.
        let mut waiters = 0;
        let acquired = self.lock_after_sleeps(me, patience, &mut waiters);
        if waiters != 0 && self.is_for_others() {
            let fair = self.fair.load(Ordering::Relaxed) & !WAITED_LONG;
            self.fair.store(fair, Ordering::Relaxed);
        }
        acquired
    }

    fn lock_after_sleeps(
        &self,
        me: Locker,
        patience: Patience,
        waiters: &mut u32,
    ) -> Result<Acquired, Refused> {
        let mut spins = SPINS;
        let mut slept_first = None;
        loop {
            let word = self.word.load(Ordering::Relaxed);
            let Some(owner) = ProcessId::of(word & OWNER) else {
                if *waiters == 0 && self.is_for_others() && !patience.is_over() {
                    if self.let_others_go_first(me, word, patience) {
                        *waiters = WAITERS;
                    }
                } else if self.take(word, word | me.process.get() | *waiters) {
                    return Ok(self.acquired(word));
                }
                continue;
            };
            if self.is_held_by(me, owner) {
                return Err(Refused::OwnLock);
            }
            let is_patient = !patience.is_over();
            if is_patient && spins > 0 {
                spins -= 1;
                spin_loop();
                continue;
            }
            let deaths = me.family.deaths();
            if !me.family.is_alive(owner) {
                if self.take(word, me.process.get() | word & WAITERS | *waiters | ABANDONED) {
                    // Only the holder of the lock writes `dead`. If this process dies before it has
                    // written, the next holder writes the number of this process.
                    self.dead.store(owner.get(), Ordering::Relaxed);
                    return Ok(Acquired::Abandoned(Some(owner)));
                }
                continue;
            }
            if !is_patient && (*waiters == 0 || word & WAITERS != 0) {
                return Err(Refused::Taken);
            }
            if word & WAITERS == 0 && !self.take(word, word | WAITERS) {
                continue;
            }
            // A thread that gives up may have been woken in place of another one that still sleeps,
            // so it has set the bit again.
            if !is_patient {
                return Err(Refused::Taken);
            }
            if has_waited_long(*slept_first.get_or_insert_with(now)) {
                self.ask_to_go_first();
            }
            me.family.wait(&self.word, word | WAITERS, deaths, patience.deadline());
            *waiters = WAITERS;
        }
    }

    /// Whether a thread that has not slept yet lets others go first.
    #[inline]
    fn is_for_others(&self) -> bool {
        self.fair.load(Ordering::Relaxed) & WAITED_LONG != 0
    }

    /// Sleeps while threads that have waited for long go first. `word` is the word of the free
    /// lock. Returns false if it has changed meanwhile, and the thread has not slept.
    fn let_others_go_first(&self, me: Locker, word: u32, patience: Patience) -> bool {
        let deaths = me.family.deaths();
        let is_noted = word & WAITERS != 0 || self.take(word, word | WAITERS);
        if is_noted {
            let end = now() + MAX_NAP;
            let end = patience.deadline().map_or(end, |deadline| deadline.min(end));
            me.family.wait(&self.word, word | WAITERS, deaths, Some(end));
        }
        is_noted
    }

    /// Asks threads that come later to let the calling thread go first, unless a thread has asked
    /// in this period.
    fn ask_to_go_first(&self) {
        let period = (monotonic() / FAIR_AFTER.as_nanos() as u64) as u32;
        let asked = period.wrapping_add(1) << 1;
        if self.fair.load(Ordering::Relaxed) & !WAITED_LONG != asked {
            self.fair.store(asked | WAITED_LONG, Ordering::Relaxed);
        }
    }

    fn acquired(&self, word: u32) -> Acquired {
        match word & ABANDONED {
            0 => Acquired::Clean,
            _ => Acquired::Abandoned(ProcessId::of(self.dead.load(Ordering::Relaxed))),
        }
    }

    fn is_held_by(&self, me: Locker, owner: ProcessId) -> bool {
        owner == me.process && self.thread.load(Ordering::Relaxed) == me.thread
    }

    /// Takes the lock again if this thread has it. Returns whether it has.
    ///
    /// # Errors
    ///
    /// The thread has taken it 2^32 times.
    pub(super) fn lock_again(&self, me: Locker) -> Result<bool, Error> {
        let owner = ProcessId::of(self.word.load(Ordering::Relaxed) & OWNER);
        if owner != Some(me.process) || !self.is_held_by(me, me.process) {
            return Ok(false);
        }
        let depth = self.depth.load(Ordering::Relaxed).checked_add(1);
        let depth = depth.ok_or_else(|| Error::invalid("the RLock was locked 2^32 times"))?;
        self.depth.store(depth, Ordering::Relaxed);
        Ok(true)
    }

    /// Gives back what [`lock_again`](RawLock::lock_again) has taken; if it was not taken again,
    /// releases the lock.
    pub(super) fn unlock_once(&self, me: Locker) {
        match self.depth.load(Ordering::Relaxed) {
            0 => self.unlock(me),
            depth if me.is_this_process() => self.depth.store(depth - 1, Ordering::Relaxed),
            _ => {}
        }
    }

    /// Forgets how often a dead holder had locked the lock. The caller has the lock.
    pub(super) fn reset_depth(&self) {
        self.depth.store(0, Ordering::Relaxed);
    }

    /// Releases the lock, which `me` has. Says that all is well, so the next holder finds a clean
    /// lock.
    #[inline]
    pub(super) fn unlock(&self, me: Locker) {
        self.release(me, 0);
    }

    /// Releases the lock, which `me` has, and lets it stay abandoned: the next holder is told too.
    pub(super) fn unlock_abandoned(&self, me: Locker) {
        self.release(me, ABANDONED);
    }

    #[inline]
    fn release(&self, me: Locker, left: u32) {
        // A copy of the process must not release what its original has.
        if !me.is_this_process() {
            return;
        }
        self.thread.store(0, Ordering::Relaxed);
        if self.word.swap(left, Ordering::Release) & WAITERS != 0 {
            wake_one(&self.word);
        }
    }
}

/// Whether a thread that first slept at `since` has waited for [`FAIR_AFTER`].
#[cfg(not(all(test, loom)))]
fn has_waited_long(since: Instant) -> bool {
    now() - since >= FAIR_AFTER
}

/// Whether a thread that sleeps has waited for long: always in some models, never in the others,
/// because time stands still there.
#[cfg(all(test, loom))]
fn has_waited_long(_: Instant) -> bool {
    crate::memory::loom::all_waits_are_long()
}

#[cfg(all(test, loom))]
impl RawLock {
    /// Whether a thread of process `id` has the lock, as far as the calling thread knows.
    pub(super) fn is_with(&self, id: u32) -> bool {
        self.word.load(Ordering::Relaxed) & OWNER == id
    }
}
