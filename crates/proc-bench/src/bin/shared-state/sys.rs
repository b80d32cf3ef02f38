//! Words that two processes share without this library, and the futexes on them: the limit of any
//! exchange between processes that sleep.
#![expect(unsafe_code, reason = "memory that is inherited by a fork has no safe wrapper")]

use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::thread::futex::{
    ClockId, Flags, Timespec, Wait, WaitFlags, WaitPtr, WaitvFlags, wait, waitv, wake,
};
use serde::{Deserialize, Serialize};

/// Words that two processes share: among them, the number of questions and of answers. No other
/// words lie in their cache line.
#[repr(align(64))]
pub(crate) struct Words {
    /// [`END`] after the last question.
    asked: AtomicU32,
    answered: AtomicU32,
    started: AtomicU32,
    /// Stands for a count of deaths. Nobody changes it here.
    deaths: AtomicU32,
}

/// Number that no question has.
const END: u32 = u32::MAX;

/// How a process sleeps.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Sleep {
    /// Until one word changes.
    OneWord,
    /// Until one of two words changes, for at most 500 ms. Shared state sleeps so, to learn of
    /// deaths.
    TwoWords,
}

static WORDS: OnceLock<&'static [Words; 2]> = OnceLock::new();

/// Maps the words of two pairs of processes. Processes that are forked later have them too.
pub(crate) fn shared_words() -> Result<&'static [Words; 2]> {
    let len = NonZeroUsize::new(size_of::<[Words; 2]>()).context("the words have a size")?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: the kernel chooses a free address.
    let page = unsafe { mmap_anonymous(None, len, access, MapFlags::MAP_SHARED) }?;
    // SAFETY: the page is zero, which is a value of the atomics, and it is never unmapped.
    let words: &'static [Words; 2] = unsafe { page.cast::<[Words; 2]>().as_ref() };
    Ok(WORDS.get_or_init(|| words))
}

/// The words, in a process that was forked later.
pub(crate) fn words() -> &'static [Words; 2] {
    WORDS.get().expect("they were mapped before the fork server was made")
}

/// Calls `work` while this thread, and the processes that it starts, have one processor.
pub(crate) fn on_one_processor<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this)?;
    let is_ours = |number: &usize| before.is_set(*number).unwrap_or(false);
    let first = (0..CpuSet::count()).find(is_ours).context("a process has a processor")?;
    let mut one = CpuSet::new();
    one.set(first)?;
    sched_setaffinity(this, &one)?;
    let done = work();
    sched_setaffinity(this, &before)?;
    done
}

fn set(word: &AtomicU32, value: u32) {
    word.store(value, Ordering::Release);
    let _ = wake(word, Flags::empty(), 1);
}

impl Words {
    pub(crate) fn reset(&self) {
        for word in [&self.asked, &self.answered, &self.started] {
            word.store(0, Ordering::Relaxed);
        }
    }

    fn sleep_while(&self, word: &AtomicU32, value: u32, sleep: Sleep) {
        while word.load(Ordering::Acquire) == value {
            match sleep {
                Sleep::OneWord => drop(wait(word, Flags::empty(), value, None)),
                Sleep::TwoWords => self.sleep_by_two_words(word, value),
            }
        }
    }

    fn sleep_by_two_words(&self, word: &AtomicU32, value: u32) {
        let waits = [(word, value), (&self.deaths, 0)].map(|(word, expected)| {
            let mut wait = Wait::new();
            wait.val = expected.into();
            wait.uaddr = WaitPtr::new(word.as_ptr().cast());
            wait.flags = WaitFlags::SIZE_U32;
            wait
        });
        let Timespec { tv_sec, tv_nsec } = rustix::time::clock_gettime(ClockId::Monotonic);
        let nanos = tv_nsec + 500_000_000;
        let until =
            Timespec { tv_sec: tv_sec + nanos / 1_000_000_000, tv_nsec: nanos % 1_000_000_000 };
        match waitv(&waits, WaitvFlags::empty(), Some(&until), ClockId::Monotonic) {
            Ok(_) | Err(Errno::AGAIN | Errno::TIMEDOUT | Errno::INTR) => {}
            Err(error) => panic!("the kernel cannot wait for two words: {error}"),
        }
    }

    pub(crate) fn wait_for_start(&self) {
        self.sleep_while(&self.started, 0, Sleep::OneWord);
    }

    /// Asks question `number`, and waits for the answer. The first number is 0.
    pub(crate) fn ask(&self, number: u32, sleep: Sleep) {
        set(&self.asked, number + 1);
        self.sleep_while(&self.answered, number, sleep);
    }

    /// Lets the other process end.
    pub(crate) fn end(&self) {
        set(&self.asked, END);
    }

    /// Answers questions until there are no more.
    pub(crate) fn answer(&self, sleep: Sleep) {
        set(&self.started, 1);
        for time in 1.. {
            self.sleep_while(&self.asked, time - 1, sleep);
            if self.asked.load(Ordering::Relaxed) == END {
                return;
            }
            set(&self.answered, time);
        }
    }
}
