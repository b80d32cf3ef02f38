//! Defines [`Condition`], by which a holder of a lock waits for what another holder does.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::lock::LockGuard;
use super::mutex::MutexGuard;
use super::object::{Kind, Slot, send_as_slot};
use crate::error::Error;
use crate::memory::atomics::AtomicU32;
use crate::memory::{Placed, now, shared_struct, wake_all, wake_one};

shared_struct! {
    /// Words of a condition.
    #[derive(Debug)]
    struct ConditionWords {
        /// Number of notifications.
        notified: AtomicU32,
    }
}

/// Place where a thread that has a [`Lock`](crate::sync::Lock) or a [`Mutex`](crate::sync::Mutex)
/// waits until another thread has changed something.
///
/// A clone is the same condition, and so is what another process receives. As everywhere, a thread
/// may be woken without a notification: look again at what you wait for, or use
/// [`wait_while`](Condition::wait_while). Each death of a process wakes all that wait, because the
/// process may have been killed just after it was woken in their place. A death is no notification:
/// [`wait`](Condition::wait) returns, but `wait_while` waits on, and forever if only the dead
/// process would have made the change.
///
/// # Examples
///
/// ```
/// use proc_core::Process;
/// use proc_core::sync::{Condition, Mutex};
///
/// fn produce((stock, changed): (Mutex<u32>, Condition)) {
///     *stock.lock().expect("nobody dies here") += 3;
///     changed.notify_one();
/// }
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let (stock, changed) = (Mutex::new(0)?, Condition::new()?);
///     let child = Process::new(produce, (stock.clone(), changed.clone())).start()?;
///     let guard = changed.wait_while(stock.lock()?, |stock| *stock == 0)?;
///     assert_eq!(*guard, 3);
///     drop(guard);
///     child.join()
/// }
/// ```
#[doc(alias = "multiprocessing.Condition")]
#[doc(alias = "Condvar")]
#[derive(Clone)]
pub struct Condition {
    slot: Arc<Slot>,
    words: Placed<ConditionWords>,
}

/// Guards with which a thread can wait for a [`Condition`]: those of a
/// [`Lock`](crate::sync::Lock) and of a [`Mutex`](crate::sync::Mutex).
///
/// See the example of [`Condition`].
pub trait Guard: private::Sealed + Sized {
    /// What the lock protects; `()` for a [`Lock`](crate::sync::Lock).
    type Data;

    #[doc(hidden)]
    fn data(&mut self) -> &mut Self::Data;

    /// Releases the lock, calls `wait`, and takes the lock again.
    #[doc(hidden)]
    fn release_during(self, wait: impl FnOnce()) -> Result<Self, Error>;
}

mod private {
    pub trait Sealed {}
    impl Sealed for super::LockGuard<'_> {}
    impl<T> Sealed for super::MutexGuard<'_, T> {}
}

impl Guard for LockGuard<'_> {
    type Data = ();

    fn data(&mut self) -> &mut () {
        self.nothing()
    }

    fn release_during(self, wait: impl FnOnce()) -> Result<Self, Error> {
        let lock = self.into_lock();
        wait();
        lock.lock()
    }
}

impl<T: bytemuck::Pod> Guard for MutexGuard<'_, T> {
    type Data = T;

    fn data(&mut self) -> &mut T {
        self
    }

    fn release_during(self, wait: impl FnOnce()) -> Result<Self, Error> {
        let mutex = self.into_mutex();
        wait();
        mutex.lock()
    }
}

impl Condition {
    /// Makes a condition.
    ///
    /// # Errors
    ///
    /// There is no memory or descriptor for it ([`ErrorKind::Start`](crate::ErrorKind::Start)).
    ///
    /// See the example of [`Condition`].
    pub fn new() -> Result<Condition, Error> {
        Slot::new(Kind::Condition, size_of::<ConditionWords>()).map(Condition::of)
    }

    fn of(slot: Arc<Slot>) -> Condition {
        Condition { words: slot.header(), slot }
    }

    /// Releases the lock, waits for a notification or a death, and takes the lock again.
    ///
    /// # Errors
    ///
    /// The lock cannot be taken again, as for [`Mutex::lock`](crate::sync::Mutex::lock).
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Process;
    /// use proc_core::sync::{Condition, Mutex};
    ///
    /// fn produce((stock, changed): (Mutex<u32>, Condition)) {
    ///     *stock.lock().expect("nobody dies here") += 3;
    ///     changed.notify_all();
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let (stock, changed) = (Mutex::new(0)?, Condition::new()?);
    ///     let child = Process::new(produce, (stock.clone(), changed.clone())).start()?;
    ///     let mut guard = stock.lock()?;
    ///     while *guard == 0 {
    ///         guard = changed.wait(guard)?;
    ///     }
    ///     assert_eq!(*guard, 3);
    ///     drop(guard);
    ///     child.join()
    /// }
    /// ```
    pub fn wait<G: Guard>(&self, guard: G) -> Result<G, Error> {
        self.wait_until(guard, None).map(|(guard, _)| guard)
    }

    /// Waits like [`wait`](Condition::wait), but for at most `timeout`; it may take longer to take
    /// the lock again. Also returns whether the thread was woken in time.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Condition::wait).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use proc_core::sync::{Condition, Lock};
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let (lock, never) = (Lock::new()?, Condition::new()?);
    ///     let (_guard, was_woken) = never.wait_timeout(lock.lock()?, Duration::from_millis(1))?;
    ///     assert!(!was_woken);
    ///     Ok(())
    /// }
    /// ```
    pub fn wait_timeout<G: Guard>(&self, guard: G, timeout: Duration) -> Result<(G, bool), Error> {
        self.wait_until(guard, now().checked_add(timeout))
    }

    /// Waits as long as `condition` is true. It is called with the lock held, before each wait.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Condition::wait).
    ///
    /// See the example of [`Condition`].
    #[doc(alias = "wait_for")]
    pub fn wait_while<G: Guard>(
        &self,
        guard: G,
        condition: impl FnMut(&mut G::Data) -> bool,
    ) -> Result<G, Error> {
        self.wait_while_until(guard, None, condition).map(|(guard, _)| guard)
    }

    /// Waits like [`wait_while`](Condition::wait_while), but for at most `timeout`; it may take
    /// longer to take the lock again. Also returns whether `condition` is false at the end.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Condition::wait).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use proc_core::sync::{Condition, Mutex};
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let (stock, changed) = (Mutex::new(0)?, Condition::new()?);
    ///     let is_empty = |stock: &mut u32| *stock == 0;
    ///     let short = Duration::from_millis(1);
    ///     let (mut guard, has_come) = changed.wait_while_timeout(stock.lock()?, short, is_empty)?;
    ///     assert!(!has_come);
    ///     *guard += 1;
    ///     assert!(changed.wait_while_timeout(guard, short, is_empty)?.1);
    ///     Ok(())
    /// }
    /// ```
    pub fn wait_while_timeout<G: Guard>(
        &self,
        guard: G,
        timeout: Duration,
        condition: impl FnMut(&mut G::Data) -> bool,
    ) -> Result<(G, bool), Error> {
        self.wait_while_until(guard, now().checked_add(timeout), condition)
    }

    fn wait_while_until<G: Guard>(
        &self,
        mut guard: G,
        deadline: Option<Instant>,
        mut condition: impl FnMut(&mut G::Data) -> bool,
    ) -> Result<(G, bool), Error> {
        while condition(guard.data()) {
            if deadline.is_some_and(|deadline| deadline <= now()) {
                return Ok((guard, false));
            }
            guard = self.wait_until(guard, deadline)?.0;
        }
        Ok((guard, true))
    }

    fn wait_until<G: Guard>(
        &self,
        guard: G,
        deadline: Option<Instant>,
    ) -> Result<(G, bool), Error> {
        let (word, family) = (&self.words.notified, self.slot.family());
        // Both are read while the lock is held, so a notification after its release counts.
        let (deaths, notified) = (family.deaths(), word.load(Ordering::Relaxed));
        let mut was_woken = false;
        let guard = guard.release_during(|| {
            while deadline.is_none_or(|deadline| now() < deadline) {
                family.wait(word, notified, deaths, deadline);
                was_woken = word.load(Ordering::Relaxed) != notified || family.deaths() != deaths;
                if was_woken {
                    break;
                }
            }
        })?;
        Ok((guard, was_woken))
    }

    /// Wakes one thread that waits, if there is one.
    ///
    /// See the example of [`Condition`].
    #[doc(alias = "notify")]
    pub fn notify_one(&self) {
        self.words.notified.fetch_add(1, Ordering::Relaxed);
        wake_one(&self.words.notified);
    }

    /// Wakes all threads that wait.
    ///
    /// See the example of [`Condition`], which wakes one.
    pub fn notify_all(&self) {
        self.words.notified.fetch_add(1, Ordering::Relaxed);
        wake_all(&self.words.notified);
    }
}

send_as_slot!(Condition, Kind::Condition, size_of::<ConditionWords>());

impl Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condition").finish_non_exhaustive()
    }
}
