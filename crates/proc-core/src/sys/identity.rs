//! Tells which process this is, correctly in every copy of a process, and on Linux without a system
//! call.

use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::os;

/// Pid of this process and another word, in a page that the kernel empties in the child of a fork.
/// The pointer is null before the first call, and on a system that has no such pages.
static CACHED: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());

/// Returns the pid of this process.
///
/// This is cheap enough to be called for each task. A copy that a user's `fork` makes gets its own
/// pid here, so callers can see that they run in a copy.
#[inline]
pub(crate) fn pid() -> u32 {
    let page = CACHED.load(Ordering::Acquire);
    if !page.is_null() {
        // SAFETY: `fill` has mapped this page for two words, and it is never unmapped.
        let pid = unsafe { &*page }.load(Ordering::Relaxed);
        if pid != 0 {
            return pid;
        }
    }
    fill()
}

/// In a copy of a process: stores the new pid. The first call of [`pid`] would do the same, but it
/// reads the page first, and then the kernel maps the page twice.
pub(super) fn renew_pid() {
    fill();
}

/// Asks the kernel for the pid, and stores the answer.
#[cold]
fn fill() -> u32 {
    let pid = std::process::id();
    let mut page = CACHED.load(Ordering::Acquire);
    if page.is_null() {
        let Some(made) = os::page_emptied_by_fork() else { return pid };
        let made = made.cast::<AtomicU32>().as_ptr();
        // If two threads make a page at the same time, the page of the second is wasted.
        let before = std::ptr::null_mut();
        page = match CACHED.compare_exchange(before, made, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => made,
            Err(other) => other,
        };
    }
    // SAFETY: as in `pid`.
    unsafe { &*page }.store(pid, Ordering::Relaxed);
    pid
}

/// Returns a word that is 0 at first, and 0 again in each copy of the process.
#[inline]
pub(crate) fn own_word() -> &'static AtomicU32 {
    let page = CACHED.load(Ordering::Acquire);
    if page.is_null() {
        return own_word_of_new_page();
    }
    // SAFETY: the page is larger than two words.
    let word = unsafe { page.add(1) };
    // SAFETY: as in `pid`.
    unsafe { &*word }
}

#[cold]
fn own_word_of_new_page() -> &'static AtomicU32 {
    static WITHOUT_PAGE: PerProcess<AtomicU32> = PerProcess::new();

    fill();
    let has_page = !CACHED.load(Ordering::Acquire).is_null();
    if has_page { own_word() } else { WITHOUT_PAGE.get() }
}

/// Value of which each process has its own. A copy that a user's `fork` makes begins with a new
/// value: the old one belongs to the other process, and its locks may stay held forever.
#[derive(Debug)]
pub(crate) struct PerProcess<T: 'static>(AtomicPtr<OwnedValue<T>>);

#[derive(Debug)]
struct OwnedValue<T> {
    /// Pid of the process that the value belongs to.
    pid: AtomicU32,
    value: T,
}

impl<T: Default + Sync + 'static> PerProcess<T> {
    pub(crate) const fn new() -> PerProcess<T> {
        PerProcess(AtomicPtr::new(std::ptr::null_mut()))
    }

    /// Returns the value of this process, which is made by the first call.
    pub(crate) fn get(&'static self) -> &'static T {
        let present = self.0.load(Ordering::Acquire);
        if let Some(owned) = value_at(present)
            && owned.pid.load(Ordering::Relaxed) == pid()
        {
            return &owned.value;
        }
        let new = Box::new(OwnedValue { pid: AtomicU32::new(pid()), value: T::default() });
        let new = Box::into_raw(new);
        // The old value is never dropped: it belongs to another process.
        match self.0.compare_exchange(present, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => &value_at(new).expect("it was made just now").value,
            Err(_) => {
                // SAFETY: `new` was made above, and nothing else has seen it.
                drop(unsafe { Box::from_raw(new) });
                self.get()
            }
        }
    }

    /// In a child that was forked while its parent had one thread: takes over the copy of the
    /// parent's value.
    pub(crate) fn inherit(&'static self) {
        if let Some(owned) = value_at(self.0.load(Ordering::Acquire)) {
            owned.pid.store(pid(), Ordering::Relaxed);
        }
    }
}

fn value_at<T>(owned: *mut OwnedValue<T>) -> Option<&'static OwnedValue<T>> {
    // SAFETY: the pointer is null, or it is from `Box::into_raw` in `get`; it is never freed once
    // stored.
    unsafe { owned.as_ref() }
}

#[cfg(test)]
mod tests {
    #[test]
    fn pid_is_that_of_the_kernel() {
        assert_eq!([super::pid(), super::pid()], [std::process::id(); 2]);
    }
}
