//! Words that two processes share without this library, and the futexes on them: the limit of any
//! exchange between processes that sleep.
#![expect(unsafe_code, reason = "memory that is inherited by a fork has no safe wrapper")]

use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use rustix::thread::futex::{Flags, wait, wake};

/// Two words: the number of questions, and of answers.
pub(crate) struct Words {
    asked: AtomicU32,
    answered: AtomicU32,
    started: AtomicU32,
}

static WORDS: OnceLock<&'static Words> = OnceLock::new();

/// Maps the words. Processes that are forked later have them too.
pub(crate) fn shared_words() -> Result<&'static Words> {
    let len = NonZeroUsize::new(size_of::<Words>()).context("the words have a size")?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: the kernel chooses a free address.
    let page = unsafe { mmap_anonymous(None, len, access, MapFlags::MAP_SHARED) }?;
    // SAFETY: the page is zero, which is a value of the atomics, and it is never unmapped.
    let words: &'static Words = unsafe { page.cast::<Words>().as_ref() };
    Ok(WORDS.get_or_init(|| words))
}

/// The words, in a process that was forked later.
pub(crate) fn words() -> &'static Words {
    WORDS.get().expect("they were mapped before the fork server was made")
}

fn sleep_while(word: &AtomicU32, value: u32) {
    while word.load(Ordering::Acquire) == value {
        let _ = wait(word, Flags::empty(), value, None);
    }
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

    pub(crate) fn wait_for_start(&self) {
        sleep_while(&self.started, 0);
    }

    /// Asks so many times, and waits for each answer.
    pub(crate) fn ask(&self, times: u32) {
        for time in 1..=times {
            set(&self.asked, time);
            sleep_while(&self.answered, time - 1);
        }
    }

    /// Answers so many times.
    pub(crate) fn answer(&self, times: u32) {
        set(&self.started, 1);
        for time in 1..=times {
            sleep_while(&self.asked, time - 1);
            set(&self.answered, time);
        }
    }
}
