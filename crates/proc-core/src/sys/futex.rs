//! Waits for a word of shared memory to change, and wakes those that wait.
//!
//! The words are in memory that several processes map, so none of the calls uses the kernel's
//! private futexes.

use std::sync::atomic::AtomicU32;
#[cfg(all(target_os = "linux", not(proc_core_portable)))]
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest time that a wait for two words sleeps if the system can only wait for one.
#[cfg(all(target_os = "linux", not(proc_core_portable)))]
const ONE_WORD_INTERVAL: Duration = Duration::from_millis(20);

/// How long a wait sleeps before it looks at the words again, on a system that cannot wait for a
/// word of shared memory.
#[cfg(not(all(target_os = "linux", not(proc_core_portable))))]
const POLL_INTERVAL: Duration = Duration::from_micros(200);

/// Sleeps while both words have the expected values, until one of them is [woken](wake), or
/// until `timeout` has passed. May also return earlier.
#[cfg(all(target_os = "linux", not(proc_core_portable)))]
pub(crate) fn wait_for_either(words: [(&AtomicU32, u32); 2], timeout: Duration) {
    use rustix::io::Errno;
    use rustix::thread::futex::{
        ClockId, Flags, Wait, WaitFlags, WaitPtr, WaitvFlags, wait, waitv,
    };

    /// Whether the kernel can wait for two words (Linux 5.16; some seccomp filters refuse it).
    static CAN_WAIT_FOR_TWO: AtomicBool = AtomicBool::new(true);

    if CAN_WAIT_FOR_TWO.load(Ordering::Relaxed) {
        let waits = words.map(|(word, expected)| {
            let mut wait = Wait::new();
            wait.val = expected.into();
            wait.uaddr = WaitPtr::new(word.as_ptr().cast());
            wait.flags = WaitFlags::SIZE_U32;
            wait
        });
        // This call takes a point in time, not a duration.
        let until = Duration::from_nanos(super::monotonic()) + timeout;
        let Ok(until) = until.try_into() else { return };
        match waitv(&waits, WaitvFlags::empty(), Some(&until), ClockId::Monotonic) {
            Err(Errno::NOSYS | Errno::PERM) => CAN_WAIT_FOR_TWO.store(false, Ordering::Relaxed),
            _ => return,
        }
    }
    let [(word, expected), _] = words;
    if let Ok(timeout) = timeout.min(ONE_WORD_INTERVAL).try_into() {
        let _ = wait(word, Flags::empty(), expected, Some(&timeout));
    }
}

/// Wakes up to `count` threads, in any process, that sleep because of `word`.
#[cfg(all(target_os = "linux", not(proc_core_portable)))]
pub(crate) fn wake(word: &AtomicU32, count: u32) {
    let _ = rustix::thread::futex::wake(word, rustix::thread::futex::Flags::empty(), count);
}

/// Sleeps for a moment. The caller looks at the words again.
#[cfg(not(all(target_os = "linux", not(proc_core_portable))))]
pub(crate) fn wait_for_either(_: [(&AtomicU32, u32); 2], timeout: Duration) {
    std::thread::sleep(POLL_INTERVAL.min(timeout));
}

/// Does nothing: on this system, those that wait look at the words now and then.
#[cfg(not(all(target_os = "linux", not(proc_core_portable))))]
pub(crate) fn wake(_: &AtomicU32, _: u32) {}
