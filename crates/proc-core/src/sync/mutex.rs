//! Defines [`Mutex`], a lock around data.

use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytemuck::Pod;

use super::lock::some_or_refusal;
use super::object::{Kind, Slot, send_as_slot};
use super::raw_lock::{Acquired, Locker, Patience, RawLock};
use crate::call::running_index;
use crate::error::{Abandoned, Error, Origin};
use crate::memory::atomics::AtomicU64;
use crate::memory::{Placed, ProcessId, shared_struct};

shared_struct! {
    /// Words of a mutex, before its data.
    #[derive(Debug)]
    struct MutexWords {
        lock: RawLock,
        /// Number of the process that has locked the mutex last, and, in the lower half, the index
        /// of the task that it ran, plus 1; 0 if it ran none.
        task: AtomicU64,
    }
}

/// Offset of the data in a mutex's slot.
const DATA: usize = 64;

/// Data that one thread of all processes has at a time.
///
/// `T` is what bytemuck calls plain old data: integers, floats, arrays of these, and types of yours
/// that derive `bytemuck::Pod`. The data lie in shared memory, so all processes that have the mutex
/// see the same data. A clone is the same mutex, and so is what another process receives.
///
/// If a process dies while it has the mutex, the data may be half changed. From then on
/// [`lock`](Mutex::lock) is an error of kind [`Abandoned`](crate::ErrorKind::Abandoned) in all
/// processes, until one of them calls [`recover`](Mutex::recover) and repairs the data.
///
/// # Examples
///
/// ```
/// use proc_core::Pool;
/// use proc_core::sync::Mutex;
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let sum_and_count = Mutex::new([0_u64, 0])?;
///     let pool = Pool::builder().processes(2).build()?;
///     pool.with(sum_and_count.clone()).map(
///         |total, x: u64| {
///             let mut total = total.lock().expect("nobody dies here");
///             total[0] += x;
///             total[1] += 1;
///         },
///         1..=100,
///     )?;
///     assert_eq!(*sum_and_count.lock()?, [5050, 100]);
///     Ok(())
/// }
/// ```
pub struct Mutex<T> {
    slot: Arc<Slot>,
    words: Placed<MutexWords>,
    kind: PhantomData<fn() -> T>,
}

/// Right to the data of a [`Mutex`]. Dropping it releases the mutex.
///
/// See the example of [`Mutex`].
#[must_use = "the mutex is released when the guard is dropped"]
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    me: Locker,
    /// A mutex belongs to a thread, so its guard stays there.
    thread: PhantomData<*const ()>,
}

impl<T: Pod> Mutex<T> {
    /// Makes a mutex around `value`.
    ///
    /// # Errors
    ///
    /// There is no memory or descriptor for it ([`ErrorKind::Start`](crate::ErrorKind::Start)).
    ///
    /// See the example of [`Mutex`].
    pub fn new(value: T) -> Result<Mutex<T>, Error> {
        const {
            assert!(size_of::<T>() > 0, "there is nothing to protect in values without bytes");
            assert!(
                align_of::<T>() <= DATA,
                "values aligned to more than 64 bytes cannot be shared"
            );
        }
        let mutex = Mutex::of(Slot::new(Kind::Mutex, DATA + size_of::<T>())?);
        *mutex.slot.locked_mut(DATA) = value;
        Ok(mutex)
    }
}

impl<T> Mutex<T> {
    fn of(slot: Arc<Slot>) -> Mutex<T> {
        Mutex { words: slot.header(), slot, kind: PhantomData }
    }

    /// Waits until no other thread has the mutex, and takes it.
    ///
    /// # Errors
    ///
    /// - [`Abandoned`](crate::ErrorKind::Abandoned): a process died while it held the mutex, and
    ///   nobody has [recovered](Mutex::recover) the data since.
    /// - [`Invalid`](crate::ErrorKind::Invalid): this thread has the mutex already, and would wait
    ///   for itself.
    /// - [`Start`](crate::ErrorKind::Start): the kernel has no more record locks, of which each
    ///   process needs one.
    ///
    /// See the example of [`Mutex`].
    #[doc(alias = "acquire")]
    #[inline]
    pub fn lock(&self) -> Result<MutexGuard<'_, T>, Error> {
        loop {
            if let Some(guard) = self.guard(Patience::Endless)? {
                return Ok(guard);
            }
        }
    }

    /// Takes the mutex if no thread has it. Returns `None` if a thread has it, also if that is the
    /// calling thread.
    ///
    /// # Errors
    ///
    /// [`Abandoned`](crate::ErrorKind::Abandoned) and [`Start`](crate::ErrorKind::Start), as for
    /// [`lock`](Mutex::lock).
    ///
    /// See the example of [`lock_timeout`](Mutex::lock_timeout).
    pub fn try_lock(&self) -> Result<Option<MutexGuard<'_, T>>, Error> {
        self.guard(Patience::None)
    }

    /// Waits like [`lock`](Mutex::lock), but for at most `timeout`. Returns `None` if another
    /// thread has the mutex still.
    ///
    /// # Errors
    ///
    /// As for [`lock`](Mutex::lock).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use proc_core::Process;
    /// use proc_core::sync::Mutex;
    ///
    /// /// Returns the number, if it can be read at once, and if it can be read within 10 ms.
    /// fn try_both(number: Mutex<u32>) -> (Option<u32>, Option<u32>) {
    ///     let now = number.try_lock().expect("nobody has died").map(|number| *number);
    ///     let soon = number.lock_timeout(Duration::from_millis(10)).expect("nobody has died");
    ///     (now, soon.map(|number| *number))
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let number = Mutex::new(7)?;
    ///     let guard = number.lock()?;
    ///     assert_eq!(Process::new(try_both, number.clone()).start()?.join()?, (None, None));
    ///     drop(guard);
    ///     assert_eq!(Process::new(try_both, number.clone()).start()?.join()?, (Some(7), Some(7)));
    ///     Ok(())
    /// }
    /// ```
    pub fn lock_timeout(&self, timeout: Duration) -> Result<Option<MutexGuard<'_, T>>, Error> {
        self.guard(Patience::at_most(timeout))
    }

    /// Waits until no other thread has the mutex, and takes it, also if a process died while it had
    /// the mutex. When the guard is dropped, the mutex is as good as new.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) and [`Start`](crate::ErrorKind::Start), as for
    /// [`lock`](Mutex::lock).
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::sync::Mutex;
    /// use proc_core::{ErrorKind, Process};
    ///
    /// fn die_with(mutex: Mutex<[u32; 2]>) {
    ///     let mut pair = mutex.lock().expect("nobody else has it");
    ///     pair[0] += 1;
    ///     std::process::abort();
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let mutex = Mutex::new([5, 5])?;
    ///     assert!(Process::new(die_with, mutex.clone()).start()?.join().is_err());
    ///     assert_eq!(mutex.lock().expect_err("it died").kind(), ErrorKind::Abandoned);
    ///     let mut pair = mutex.recover()?;
    ///     pair[1] = pair[0];
    ///     drop(pair);
    ///     assert_eq!(*mutex.lock()?, [6, 6]);
    ///     Ok(())
    /// }
    /// ```
    pub fn recover(&self) -> Result<MutexGuard<'_, T>, Error> {
        let me = Locker::current(self.slot.family())?;
        loop {
            let acquired = self.words.lock.lock(me, Patience::Endless);
            if some_or_refusal(acquired, Patience::Endless, "mutex")?.is_some() {
                return Ok(self.guard_of(me));
            }
        }
    }

    #[inline]
    fn guard(&self, patience: Patience) -> Result<Option<MutexGuard<'_, T>>, Error> {
        let me = Locker::current(self.slot.family())?;
        match some_or_refusal(self.words.lock.lock(me, patience), patience, "mutex")? {
            None => Ok(None),
            Some(Acquired::Clean) => Ok(Some(self.guard_of(me))),
            Some(Acquired::Abandoned(dead)) => {
                let error = self.abandoned(me, dead);
                self.words.lock.unlock_abandoned(me);
                Err(error)
            }
        }
    }

    #[inline]
    fn guard_of(&self, me: Locker) -> MutexGuard<'_, T> {
        let task = running_index().and_then(|task| u32::try_from(task + 1).ok()).unwrap_or(0);
        let holder = u64::from(me.process.get()) << 32 | u64::from(task);
        self.words.task.store(holder, Ordering::Relaxed);
        MutexGuard { mutex: self, me, thread: PhantomData }
    }

    fn abandoned(&self, me: Locker, dead: Option<ProcessId>) -> Error {
        let (pid, status) = dead.map(|id| me.family.obituary(id)).unwrap_or_default();
        // A process that dies as soon as it has the lock leaves the task of an earlier one.
        let holder = self.words.task.load(Ordering::Relaxed);
        let is_of_dead = dead.is_some_and(|dead| u64::from(dead.get()) == holder >> 32);
        let task = is_of_dead.then_some(holder as u32).and_then(|task| task.checked_sub(1));
        let task = task.map(|task| task as usize);
        let origin = Origin { pid, task, ..Origin::default() };
        Error::abandoned(Abandoned::Mutex, status).with_origin(origin)
    }
}

impl<'a, T> MutexGuard<'a, T> {
    /// Releases the mutex, and returns it.
    pub(super) fn into_mutex(self) -> &'a Mutex<T> {
        self.mutex
    }
}

impl<T: Pod> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.mutex.slot.locked(DATA)
    }
}

impl<T: Pod> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.mutex.slot.locked_mut(DATA)
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.mutex.words.lock.unlock(self.me);
    }
}

impl<T> Clone for Mutex<T> {
    fn clone(&self) -> Mutex<T> {
        Mutex { slot: Arc::clone(&self.slot), words: self.words.clone(), kind: PhantomData }
    }
}

send_as_slot!(Mutex<T: Pod>, Kind::Mutex, DATA + size_of::<T>());

impl<T> Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").finish_non_exhaustive()
    }
}

impl<T: Pod + Debug> Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Debug::fmt(&**self, f)
    }
}
