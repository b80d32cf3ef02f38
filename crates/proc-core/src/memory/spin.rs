//! Spins for a short time before a thread sleeps.
//!
//! A thread that sleeps is woken by a system call of another thread. If it is woken on another
//! processor, it runs again some 25 us later (measured in a virtual machine with two processors).
//! Two processes that send each other small items are up to 50 times faster if both spin.
//!
//! A thread that spins calls `sched_yield`, so that another thread can run on the same processor.
//! On a busy machine that may be a thread of another program, and it runs for a whole time slice,
//! which was measured as 4 ms. So after such a loss, no thread of this process yields for a while.

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{monotonic, now};

/// The longest time that [`Spin::until`] spins.
const SPIN_TIME: Duration = Duration::from_micros(100);

/// The least time from one yield to the next, in which a thread looks twice. More looks would slow
/// down the processor that changes the same memory. They would also find items one by one, and
/// fewer looks find several at a time.
const LOOK_INTERVAL: Duration = Duration::from_nanos(250);

/// Number of waits in a row that must be shorter than [`SPIN_TIME`] before a thread spins. In a
/// model, time stands still, and no thread spins.
const SHORT_WAITS: i32 = if cfg!(all(test, loom)) { i32::MAX } else { 2 };

/// After a thread has spun in vain: number of short waits, in a row or not, that must come before
/// the [`SHORT_WAITS`].
const PENALTY: i32 = 20;

/// Longest time, in nanoseconds, of a yield in which no other program has had a time slice.
const LONG_YIELD_NANOS: u64 = 500_000;

/// Time without yields after a long one, in nanoseconds. It doubles with each long yield in a row.
const MIN_PAUSE_NANOS: u64 = 30_000_000;

/// The longest time without yields, in nanoseconds.
const MAX_PAUSE_NANOS: u64 = 1_000_000_000;

/// One yield in this many is timed, because reading the clock takes time itself.
const TIMED: u32 = 4;

/// Yields of all threads of this process.
static YIELDS: Yields = Yields::new();

/// What is known of the yields of this process. After one that has cost a time slice, there are
/// none for a while.
#[derive(Debug)]
struct Yields {
    /// Time from which threads may yield, in nanoseconds; 0 if they may now.
    next_at: AtomicU64,
    /// Time without yields after the next long one, in nanoseconds.
    pause: AtomicU64,
    /// Number of yields. It may miss some that come at the same moment.
    count: AtomicU32,
}

impl Yields {
    const fn new() -> Yields {
        Yields {
            next_at: AtomicU64::new(0),
            pause: AtomicU64::new(MIN_PAUSE_NANOS),
            count: AtomicU32::new(0),
        }
    }

    fn are_cheap(&self) -> bool {
        match self.next_at.load(Ordering::Relaxed) {
            0 => true,
            next_at => monotonic() >= next_at,
        }
    }

    /// Lets another thread run on this processor. Does nothing in the pause after a long yield.
    fn yield_now(&self) {
        if !self.are_cheap() {
            return;
        }
        let count = self.count.load(Ordering::Relaxed);
        self.count.store(count.wrapping_add(1), Ordering::Relaxed);
        let is_first_after_pause = self.next_at.load(Ordering::Relaxed) != 0;
        if !count.is_multiple_of(TIMED) && !is_first_after_pause {
            return std::thread::yield_now();
        }
        let begin = monotonic();
        std::thread::yield_now();
        self.note(begin, monotonic());
    }

    /// Notes the times of a yield.
    fn note(&self, begin: u64, end: u64) {
        let (next_at, next_pause) = if end - begin > LONG_YIELD_NANOS {
            let pause = self.pause.load(Ordering::Relaxed);
            (end + pause, (2 * pause).min(MAX_PAUSE_NANOS))
        } else {
            (0, MIN_PAUSE_NANOS)
        };
        self.pause.store(next_pause, Ordering::Relaxed);
        self.next_at.store(next_at, Ordering::Relaxed);
    }
}

/// Decides whether threads of this process spin before they sleep. All of them wait for the same
/// thing.
#[derive(Debug, Default)]
pub(crate) struct Spin {
    /// Number of the last waits in a row that were short. It is below 0 after a thread has spun in
    /// vain, and each short wait then adds 1, up to 0.
    short_waits: AtomicI32,
}

impl Spin {
    /// Spins until `is_there` returns true, if the last waits were short and the machine is not
    /// busy. Returns whether `is_there` has returned true. The wait began at `begin`.
    pub(crate) fn until(
        &self,
        begin: Instant,
        deadline: Option<Instant>,
        is_there: impl Fn() -> bool,
    ) -> bool {
        self.spin(&YIELDS, begin, deadline, is_there)
    }

    fn spin(
        &self,
        yields: &Yields,
        begin: Instant,
        deadline: Option<Instant>,
        is_there: impl Fn() -> bool,
    ) -> bool {
        if self.short_waits.load(Ordering::Relaxed) < SHORT_WAITS || !yields.are_cheap() {
            return false;
        }
        let end = begin + SPIN_TIME;
        let end = deadline.map_or(end, |deadline| deadline.min(end));
        let mut time = begin;
        while time < end {
            yields.yield_now();
            if is_there() {
                return true;
            }
            let next_yield = time + LOOK_INTERVAL;
            while time < next_yield {
                std::hint::spin_loop();
                time = now();
            }
            if is_there() {
                return true;
            }
        }
        self.short_waits.store(-PENALTY, Ordering::Relaxed);
        false
    }

    /// Notes the end of a wait that began at `begin`, and in which the thread has slept.
    pub(crate) fn note_sleep(&self, begin: Instant) {
        match now() - begin < SPIN_TIME {
            true => self.short_waits.fetch_add(1, Ordering::Relaxed),
            false => self.short_waits.fetch_min(0, Ordering::Relaxed),
        };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn cheap_yields() -> Yields {
        Yields::new()
    }

    fn note_short_waits(spin: &Spin, count: i32) {
        (0..count).for_each(|_| spin.note_sleep(now() + SPIN_TIME));
    }

    /// Whether a thread spins that finds nothing.
    fn spins(spin: &Spin) -> bool {
        let looks = std::cell::Cell::new(0);
        let found = spin.spin(&cheap_yields(), now(), None, || {
            looks.set(looks.get() + 1);
            false
        });
        assert!(!found);
        looks.get() > 0
    }

    #[test]
    fn threads_spin_after_short_waits() {
        let spin = Spin::default();
        assert!(!spins(&spin), "nothing is known of the waits");
        note_short_waits(&spin, SHORT_WAITS - 1);
        spin.note_sleep(now() - SPIN_TIME);
        note_short_waits(&spin, SHORT_WAITS - 1);
        assert!(!spins(&spin), "the short waits were not in a row");
        note_short_waits(&spin, 1);
        assert!(spins(&spin));
        note_short_waits(&spin, SHORT_WAITS + PENALTY - 1);
        assert!(!spins(&spin), "the thread has spun in vain");
        note_short_waits(&spin, 1);
        assert!(spin.spin(&cheap_yields(), now(), None, || true));
        let begin = now();
        let must_not_look = || unreachable!("the deadline has come");
        assert!(!spin.spin(&cheap_yields(), begin, Some(begin), must_not_look));
    }

    #[test]
    fn threads_do_not_spin_after_a_long_yield() {
        let (spin, yields) = (Spin::default(), cheap_yields());
        note_short_waits(&spin, SHORT_WAITS);
        let end = monotonic();
        yields.note(end - LONG_YIELD_NANOS, end);
        assert!(yields.are_cheap());
        yields.note(end - LONG_YIELD_NANOS - 1, end);
        assert_eq!(yields.next_at.load(Ordering::Relaxed), end + MIN_PAUSE_NANOS);
        (0..10).for_each(|_| yields.note(0, end));
        assert_eq!(yields.next_at.load(Ordering::Relaxed), end + MAX_PAUSE_NANOS);
        yields.note(end, end);
        assert!(yields.are_cheap());
        yields.note(0, end);
        assert_eq!(yields.next_at.load(Ordering::Relaxed), end + MIN_PAUSE_NANOS);
        yields.next_at.store(u64::MAX, Ordering::Relaxed);
        assert!(!spin.spin(&yields, now(), None, || unreachable!("the machine is busy")));
    }
}
