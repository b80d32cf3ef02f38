//! Lets threads sleep until another thread, in any process, has changed something.
//!
//! Who changes something looks at one word, and makes a system call only if somebody sleeps. The
//! change and the look are both sequentially consistent, as are the announcement of a sleeper and
//! its last look for the change. So at least one of the two sees the other.

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
    has_slept: bool,
}

impl Sleepers {
    /// Wakes up to `count` threads that sleep. The caller has made its change, with
    /// [`Ordering::SeqCst`].
    #[inline]
    pub(super) fn wake(&self, count: u32) {
        if self.0.load(Ordering::SeqCst) & ANY != 0 {
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
        Sleeper { sleepers: self, family, has_slept: false }
    }
}

impl Sleeper<'_> {
    /// Sleeps until the thread is woken, until a process of the family has ended, or until
    /// `deadline`, unless `try_again` returns something. The caller looks again after that.
    pub(super) fn sleep<T>(
        &mut self,
        deadline: Option<Instant>,
        try_again: impl FnOnce() -> Option<T>,
    ) -> Option<T> {
        let Sleepers(word) = self.sleepers;
        let deaths = self.family.deaths();
        let announced = word.fetch_or(ANY, Ordering::SeqCst) | ANY;
        let found = try_again();
        if found.is_none() {
            self.family.wait(word, announced, deaths, deadline);
            self.has_slept = true;
        }
        found
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        // This thread may have been woken in place of another one that still sleeps.
        if self.has_slept {
            self.sleepers.0.fetch_or(ANY, Ordering::SeqCst);
        }
    }
}
