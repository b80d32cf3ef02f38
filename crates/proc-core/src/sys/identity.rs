//! Which process this is, told without a system call, and right in every copy of a process.

use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::os;

/// The pid of this process, in a page that the kernel empties in the child of a fork; null before
/// the first call, and where the system has no such pages.
static CACHED: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());

/// The pid of this process.
///
/// Cheap enough to be asked for each task. A copy that a user's `fork` makes finds its own pid
/// here, which is how a copy is told from the process that it is a copy of.
#[inline]
pub(crate) fn pid() -> u32 {
    let page = CACHED.load(Ordering::Acquire);
    if !page.is_null() {
        // SAFETY: a page that `fill` has mapped for an AtomicU32, and that is never unmapped.
        let pid = unsafe { &*page }.load(Ordering::Relaxed);
        if pid != 0 {
            return pid;
        }
    }
    fill()
}

/// Asks the kernel, and notes the answer.
#[cold]
fn fill() -> u32 {
    let pid = std::process::id();
    let mut page = CACHED.load(Ordering::Acquire);
    if page.is_null() {
        let Some(made) = os::page_emptied_by_fork() else { return pid };
        let made = made.cast::<AtomicU32>().as_ptr();
        // Of two threads that make one, the second wastes a page.
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

/// A value of which each process has its own: a copy that a user's `fork` makes begins with a new
/// one, since what lies in the old one belongs to the other process, and its locks may be held for
/// ever.
#[derive(Debug)]
pub(crate) struct PerProcess<T: 'static>(AtomicPtr<Entry<T>>);

#[derive(Debug)]
struct Entry<T> {
    owner: AtomicU32,
    value: T,
}

impl<T: Default + Sync + 'static> PerProcess<T> {
    pub(crate) const fn new() -> PerProcess<T> {
        PerProcess(AtomicPtr::new(std::ptr::null_mut()))
    }

    /// The value of this process.
    pub(crate) fn get(&'static self) -> &'static T {
        let present = self.0.load(Ordering::Acquire);
        if let Some(entry) = entry_at(present)
            && entry.owner.load(Ordering::Relaxed) == pid()
        {
            return &entry.value;
        }
        let new = Box::new(Entry { owner: AtomicU32::new(pid()), value: T::default() });
        let new = Box::into_raw(new);
        // What was there is never dropped: that would be the business of its owner.
        match self.0.compare_exchange(present, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => &entry_at(new).expect("it was made just now").value,
            Err(_) => {
                // SAFETY: made above, and nobody else has seen it.
                drop(unsafe { Box::from_raw(new) });
                self.get()
            }
        }
    }

    /// In a child that was forked while its parent had one thread: takes over the copy of its
    /// value.
    pub(crate) fn inherit(&'static self) {
        if let Some(entry) = entry_at(self.0.load(Ordering::Acquire)) {
            entry.owner.store(pid(), Ordering::Relaxed);
        }
    }
}

fn entry_at<T>(entry: *mut Entry<T>) -> Option<&'static Entry<T>> {
    // SAFETY: null, or from `Box::into_raw` in `get`, which is never freed once it was stored.
    unsafe { entry.as_ref() }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_pid_is_the_kernels() {
        assert_eq!([super::pid(), super::pid()], [std::process::id(); 2]);
    }
}
