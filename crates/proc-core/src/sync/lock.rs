//! Defines [`Lock`] and [`RLock`], which one thread of all processes has at a time.

use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::object::{Kind, Slot, send_as_slot};
use super::raw_lock::{Acquired, Locker, Patience, RawLock, Refused};
use crate::error::Error;
use crate::memory::Placed;

/// Lock between processes and threads: one thread has it at a time.
///
/// A clone is the same lock, and so is what a process receives when the lock is part of an
/// argument, of a pool's state, or of data of [`with`](crate::Pool::with).
///
/// If a process dies while it has the lock, the next one gets it, and its guard says
/// [`was_abandoned`](LockGuard::was_abandoned).
///
/// A thread that asks for the lock while others wait may get it first. But once in each
/// millisecond, a thread that has waited for so long goes before those that call `lock` later. So a
/// thread that takes the lock again and again cannot make another one wait forever.
///
/// # Examples
///
/// ```
/// use std::io::Write;
///
/// use proc_core::Pool;
/// use proc_core::sync::Lock;
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let pool = Pool::builder().processes(2).build()?;
///     let one_at_a_time = pool.with(Lock::new()?);
///     one_at_a_time.map(
///         |lock, x: u32| {
///             let _guard = lock.lock().expect("this task does not have the lock");
///             // Nobody else prints now, so the two lines stay together.
///             let mut out = std::io::stdout();
///             let _ = write!(out, "the number\n{x}\n");
///         },
///         [1, 2, 3],
///     )?;
///     Ok(())
/// }
/// ```
#[doc(alias = "multiprocessing.Lock")]
#[derive(Clone)]
pub struct Lock {
    slot: Arc<Slot>,
    raw: Placed<RawLock>,
}

/// Right to a [`Lock`]. Dropping it releases the lock.
///
/// See the example of [`Lock`].
#[must_use = "the lock is released when the guard is dropped"]
pub struct LockGuard<'a> {
    lock: &'a Lock,
    me: Locker,
    was_abandoned: bool,
    nothing: (),
    /// A lock belongs to a thread, so its guard stays there.
    thread: PhantomData<*const ()>,
}

/// Lock that the thread which has it can take again and again. Others can take it when each guard
/// of that thread was dropped.
///
/// Otherwise it is like a [`Lock`], but a [`Condition`](super::Condition) does not take its guard.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use proc_core::sync::RLock;
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let lock = RLock::new()?;
///     let outer = lock.lock()?;
///     let inner = lock.lock()?; // the same thread
///     assert!(lock.lock_timeout(Duration::ZERO)?.is_some()); // and again
///     drop(outer);
///     let other = lock.clone();
///     let has_it = move || other.try_lock().map(|guard| guard.is_some());
///     assert!(!std::thread::spawn(has_it).join().expect("it does not panic")?);
///     drop(inner);
///     Ok(())
/// }
/// ```
#[doc(alias = "multiprocessing.RLock")]
#[derive(Clone)]
pub struct RLock {
    slot: Arc<Slot>,
    raw: Placed<RawLock>,
}

/// Right to an [`RLock`]. Dropping it releases the lock, if it is the last one of its thread.
///
/// See the example of [`RLock`].
#[must_use = "the lock is released when the guard is dropped"]
pub struct RLockGuard<'a> {
    raw: &'a RawLock,
    me: Locker,
    was_abandoned: bool,
    thread: PhantomData<*const ()>,
}

impl Lock {
    /// Makes a lock that nobody has.
    ///
    /// # Errors
    ///
    /// There is no memory or descriptor for it ([`ErrorKind::Start`](crate::ErrorKind::Start)).
    ///
    /// See the example of [`Lock`].
    pub fn new() -> Result<Lock, Error> {
        Slot::new(Kind::Lock, size_of::<RawLock>()).map(Lock::of)
    }

    fn of(slot: Arc<Slot>) -> Lock {
        Lock { raw: slot.header(), slot }
    }

    /// Waits until no other thread has the lock, and takes it.
    ///
    /// # Errors
    ///
    /// - [`Invalid`](crate::ErrorKind::Invalid): this thread has the lock already, and would wait
    ///   for itself. Use an [`RLock`] to take a lock again.
    /// - [`Start`](crate::ErrorKind::Start): the kernel has no more record locks, of which each
    ///   process needs one.
    ///
    /// See the example of [`Lock`].
    #[doc(alias = "acquire")]
    #[inline]
    pub fn lock(&self) -> Result<LockGuard<'_>, Error> {
        loop {
            if let Some(guard) = self.guard(Patience::Endless)? {
                return Ok(guard);
            }
        }
    }

    /// Takes the lock if no thread has it. Returns `None` if a thread has it, also if that is the
    /// calling thread.
    ///
    /// # Errors
    ///
    /// The kernel has no more record locks, of which each process needs one
    /// ([`ErrorKind::Start`](crate::ErrorKind::Start)).
    ///
    /// See the example of [`lock_timeout`](Lock::lock_timeout).
    pub fn try_lock(&self) -> Result<Option<LockGuard<'_>>, Error> {
        self.guard(Patience::None)
    }

    /// Waits like [`lock`](Lock::lock), but for at most `timeout`. Returns `None` if another thread
    /// has the lock still.
    ///
    /// # Errors
    ///
    /// As for [`lock`](Lock::lock).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use proc_core::Process;
    /// use proc_core::sync::Lock;
    ///
    /// /// Returns whether it has got the lock at once, and within 10 ms.
    /// fn try_both(lock: Lock) -> (bool, bool) {
    ///     let now = lock.try_lock().expect("there are locks").is_some();
    ///     let soon = lock.lock_timeout(Duration::from_millis(10)).expect("there are locks");
    ///     (now, soon.is_some())
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let lock = Lock::new()?;
    ///     let guard = lock.lock()?;
    ///     assert_eq!(Process::new(try_both, lock.clone()).start()?.join()?, (false, false));
    ///     drop(guard);
    ///     assert_eq!(Process::new(try_both, lock.clone()).start()?.join()?, (true, true));
    ///     Ok(())
    /// }
    /// ```
    pub fn lock_timeout(&self, timeout: Duration) -> Result<Option<LockGuard<'_>>, Error> {
        self.guard(Patience::at_most(timeout))
    }

    #[inline]
    fn guard(&self, patience: Patience) -> Result<Option<LockGuard<'_>>, Error> {
        let me = Locker::current(self.slot.family())?;
        let acquired = self.raw.lock(me, patience);
        let guard = |acquired| LockGuard {
            lock: self,
            me,
            was_abandoned: acquired != Acquired::Clean,
            nothing: (),
            thread: PhantomData,
        };
        some_or_refusal(acquired, patience, "lock").map(|acquired| acquired.map(guard))
    }
}

/// Turns what [`RawLock::lock`] returns into what its callers return.
#[inline]
pub(super) fn some_or_refusal(
    acquired: Result<Acquired, Refused>,
    patience: Patience,
    what: &str,
) -> Result<Option<Acquired>, Error> {
    match acquired {
        Ok(acquired) => Ok(Some(acquired)),
        Err(refused) => refusal(refused, patience, what).map(|()| None),
    }
}

#[cold]
fn refusal(refused: Refused, patience: Patience, what: &str) -> Result<(), Error> {
    match (refused, patience) {
        (Refused::Taken, _) | (Refused::OwnLock, Patience::None) => Ok(()),
        (Refused::OwnLock, _) => Err(Error::invalid(format!(
            "this thread has the {what} already and would wait for itself: drop its guard first, or \
             use an RLock"
        ))),
    }
}

impl<'a> LockGuard<'a> {
    /// Releases the lock, and returns it.
    pub(super) fn into_lock(self) -> &'a Lock {
        self.lock
    }

    /// Returns the data that a lock protects: none.
    pub(super) fn nothing(&mut self) -> &mut () {
        &mut self.nothing
    }

    /// Whether a process died while it had the lock, and nobody has had the lock since. What the
    /// lock protects may be in the middle of a change.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Process;
    /// use proc_core::sync::Lock;
    ///
    /// fn die_with(lock: Lock) {
    ///     let _guard = lock.lock();
    ///     std::process::abort();
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let lock = Lock::new()?;
    ///     assert!(Process::new(die_with, lock.clone()).start()?.join().is_err());
    ///     assert!(lock.lock()?.was_abandoned());
    ///     assert!(!lock.lock()?.was_abandoned());
    ///     Ok(())
    /// }
    /// ```
    pub fn was_abandoned(&self) -> bool {
        self.was_abandoned
    }
}

impl Drop for LockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.lock.raw.unlock(self.me);
    }
}

impl RLock {
    /// Makes a lock that nobody has.
    ///
    /// # Errors
    ///
    /// As for [`Lock::new`].
    ///
    /// See the example of [`RLock`].
    pub fn new() -> Result<RLock, Error> {
        Slot::new(Kind::RLock, size_of::<RawLock>()).map(RLock::of)
    }

    fn of(slot: Arc<Slot>) -> RLock {
        RLock { raw: slot.header(), slot }
    }

    /// Waits until no other thread has the lock, and takes it.
    ///
    /// # Errors
    ///
    /// The thread has taken it 2³² times, or the kernel has no more record locks, of which each
    /// process needs one.
    ///
    /// See the example of [`RLock`].
    #[doc(alias = "acquire")]
    pub fn lock(&self) -> Result<RLockGuard<'_>, Error> {
        loop {
            if let Some(guard) = self.guard(Patience::Endless)? {
                return Ok(guard);
            }
        }
    }

    /// Takes the lock if no other thread has it. Returns `None` if one does.
    ///
    /// # Errors
    ///
    /// As for [`lock`](RLock::lock).
    ///
    /// See the example of [`RLock`].
    pub fn try_lock(&self) -> Result<Option<RLockGuard<'_>>, Error> {
        self.guard(Patience::None)
    }

    /// Waits like [`lock`](RLock::lock), but for at most `timeout`. Returns `None` if another
    /// thread has the lock still.
    ///
    /// # Errors
    ///
    /// As for [`lock`](RLock::lock).
    ///
    /// See the example of [`RLock`].
    pub fn lock_timeout(&self, timeout: Duration) -> Result<Option<RLockGuard<'_>>, Error> {
        self.guard(Patience::at_most(timeout))
    }

    fn guard(&self, patience: Patience) -> Result<Option<RLockGuard<'_>>, Error> {
        let me = Locker::current(self.slot.family())?;
        let guard =
            |was_abandoned| RLockGuard { raw: &self.raw, me, was_abandoned, thread: PhantomData };
        if self.raw.lock_again(me)? {
            return Ok(Some(guard(false)));
        }
        let acquired = some_or_refusal(self.raw.lock(me, patience), patience, "lock")?;
        Ok(acquired.map(|acquired| {
            if acquired != Acquired::Clean {
                self.raw.reset_depth();
            }
            guard(acquired != Acquired::Clean)
        }))
    }
}

impl RLockGuard<'_> {
    /// Whether a process died while it had the lock, and nobody has had the lock since.
    ///
    /// See the example of [`LockGuard::was_abandoned`].
    pub fn was_abandoned(&self) -> bool {
        self.was_abandoned
    }
}

impl Drop for RLockGuard<'_> {
    fn drop(&mut self) {
        self.raw.unlock_once(self.me);
    }
}

send_as_slot!(Lock, Kind::Lock, size_of::<RawLock>());
send_as_slot!(RLock, Kind::RLock, size_of::<RawLock>());

impl Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").finish_non_exhaustive()
    }
}

impl Debug for RLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLock").finish_non_exhaustive()
    }
}

impl Debug for LockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard")
            .field("was_abandoned", &self.was_abandoned)
            .finish_non_exhaustive()
    }
}

impl Debug for RLockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLockGuard")
            .field("was_abandoned", &self.was_abandoned)
            .finish_non_exhaustive()
    }
}
