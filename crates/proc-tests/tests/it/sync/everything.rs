//! One object of each kind of shared state, to test what all of them must do.

use proc_core::sync::{Array, Barrier, Condition, Event, Lock, Mutex, RLock, Semaphore, Value};
use serde::{Deserialize, Serialize};

/// A handle of each kind. The barrier has one party, and the semaphore two permits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Everything {
    pub(super) lock: Lock,
    pub(super) rlock: RLock,
    pub(super) mutex: Mutex<[u64; 3]>,
    pub(super) small: Value<u64>,
    pub(super) large: Value<[u64; 9]>,
    pub(super) array: Array<u64>,
    pub(super) semaphore: Semaphore,
    pub(super) event: Event,
    pub(super) condition: Condition,
    pub(super) barrier: Barrier,
}

impl Everything {
    pub(super) fn new() -> Everything {
        let made = || -> Result<Everything, proc_core::Error> {
            Ok(Everything {
                lock: Lock::new()?,
                rlock: RLock::new()?,
                mutex: Mutex::new([0; 3])?,
                small: Value::new(0)?,
                large: Value::new([0; 9])?,
                array: Array::zeroed(2)?,
                semaphore: Semaphore::new(2)?,
                event: Event::new()?,
                condition: Condition::new()?,
                barrier: Barrier::new(1)?,
            })
        };
        made().expect("there is memory")
    }

    /// Uses each of the objects. Most of them count the uses.
    pub(super) fn use_once(&self) {
        let permit = self.semaphore.acquire().expect("two at a time are few");
        let outer = self.rlock.lock().expect("nobody dies");
        let inner = self.rlock.lock().expect("this thread has it");
        let guard = self.lock.lock().expect("this thread does not have it");
        self.array.set(1, self.array.get(1) + 1); // the lock makes one change of the two steps
        drop(guard);
        drop((outer, inner));
        self.array.update(0, |x| *x += 1);
        self.mutex.lock().expect("nobody dies").iter_mut().for_each(|x| *x += 1);
        self.small.fetch_add(1);
        self.large.update(|words| words.iter_mut().for_each(|x| *x += 1));
        self.condition.notify_all();
        assert_eq!(self.barrier.wait().expect("nobody dies"), 0);
        self.event.set();
        drop(permit);
    }

    /// Asserts that the objects were used so often since they were made, and that nobody has any of
    /// them.
    #[track_caller]
    pub(super) fn expect_used(&self, times: u64) {
        assert_eq!(self.array.snapshot(), [times; 2], "the array");
        assert_eq!(*self.mutex.lock().expect("nobody died"), [times; 3], "the mutex");
        assert_eq!((self.small.get(), self.large.get()), (times, [times; 9]), "the values");
        assert_eq!(self.semaphore.available_permits().expect("there are locks"), 2);
        assert_eq!(self.event.is_set(), times > 0);
        let guard = self.lock.try_lock().expect("there are locks").expect("nobody has the lock");
        assert!(!guard.was_abandoned());
        let guard = self.rlock.try_lock().expect("there are locks").expect("nobody has the lock");
        assert!(!guard.was_abandoned());
    }
}
