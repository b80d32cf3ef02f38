//! Lets threads sleep until another thread, in any process, has changed something.
//!
//! Who changes something looks at one word, and makes a system call only if somebody may sleep. The
//! change and the look are both sequentially consistent, as are the announcement of a sleeper and
//! its last look for the change. So at least one of the two sees the other. (The end of a lease and
//! the look for it are ordered by the lock of the queue's head instead.)
//!
//! One bit of the word ([`ANY`]) says that somebody may sleep. Who wakes some threads clears it,
//! although others may sleep on, so that the next change makes no system call for the same threads
//! again. A thread that was woken sets the bit for the others when it goes on. Then it looks
//! whether something is left for them, because that may have come while the bit was clear, and
//! wakes the next one if so (see [`Sleeper::leave`]).

use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::memory::atomics::AtomicU32;
use crate::memory::{Family, shared_struct, wake_some};

shared_struct! {
    /// Word by which threads sleep: [`ANY`], and twice the number of times that some were woken.
    #[derive(Debug)]
    pub(super) struct Sleepers(AtomicU32);
}

/// Somebody may sleep.
const ANY: u32 = 1;

/// A thread that waits for a change.
pub(super) struct Sleeper<'a> {
    sleepers: &'a Sleepers,
    family: &'static Family,
    /// Word of the sleepers, and count of deaths, when this thread was announced.
    announced: (u32, u32),
    has_slept: bool,
}

impl Sleepers {
    /// Wakes up to `count` threads that sleep. The caller has made its change, with
    /// [`Ordering::SeqCst`], or under a lock that the sleepers take for their look.
    #[inline]
    pub(super) fn wake(&self, count: u32) {
        self.wake_if(count, || true);
    }

    /// Like [`wake`](Sleepers::wake), if `condition` holds. It is evaluated only if somebody may
    /// sleep.
    #[inline]
    pub(super) fn wake_if(&self, count: u32, condition: impl FnOnce() -> bool) {
        if self.0.load(Ordering::SeqCst) & ANY != 0 && condition() {
            self.wake_sleepers(count);
        }
    }

    #[cold]
    fn wake_sleepers(&self, count: u32) {
        // Those that are woken set the bit again, for the others that may still sleep.
        let next = |word: u32| Some((word & !ANY).wrapping_add(2));
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::Relaxed, next);
        wake_some(&self.0, count);
    }

    pub(super) fn sleeper(&self, family: &'static Family) -> Sleeper<'_> {
        Sleeper { sleepers: self, family, announced: (0, 0), has_slept: false }
    }
}

impl Sleeper<'_> {
    /// Announces that this thread is about to sleep. After that the caller looks for *everything*
    /// that it waits for, and then calls [`sleep`](Sleeper::sleep).
    pub(super) fn announce(&mut self) {
        let Sleepers(word) = self.sleepers;
        let deaths = self.family.deaths();
        self.announced = (word.fetch_or(ANY, Ordering::SeqCst) | ANY, deaths);
    }

    /// Sleeps until the thread is woken, until a process of the family has ended, or until
    /// `deadline`. May also return earlier.
    pub(super) fn sleep(&mut self, deadline: Option<Instant>) {
        let (word, deaths) = self.announced;
        self.family.wait(&self.sleepers.0, word, deaths, deadline);
        self.has_slept = true;
    }

    /// Whether this thread has slept since its wait began.
    pub(super) fn has_slept(&self) -> bool {
        self.has_slept
    }

    /// Ends the wait of this thread, whether or not it has found what it waited for. If the thread
    /// has slept, and `is_more_left` says that there is something for another sleeper, wakes one.
    pub(super) fn leave(self, is_more_left: impl FnOnce() -> bool) {
        // This thread may have been woken in place of another one that still sleeps.
        if self.has_slept {
            self.sleepers.0.fetch_or(ANY, Ordering::SeqCst);
            if is_more_left() {
                self.sleepers.wake(1);
            }
        }
    }
}
