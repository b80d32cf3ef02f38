//! The model check of [`RawLock`], and of what [`Mutex`] adds to it.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard as StdMutexGuard};

use super::super::mutex::Mutex;
use super::super::raw_lock::{Acquired, RawLock, Refused};
use super::*;
use crate::error::ErrorKind;
use crate::memory::ProcessId;
use crate::memory::atomics::AtomicU32;
use crate::memory::loom::{make_all_waits_long, now, step, tick};

/// A lock, the data that it protects, and what is true of them.
#[derive(Default)]
struct Locked {
    lock: RawLock,
    data: AtomicU32,
    truth: StdMutex<Truth>,
}

/// What really happened. The checks use this; the lock does not.
#[derive(Default)]
struct Truth {
    holder: Option<u32>,
    /// Process that died while it had the lock, which nobody has had since.
    dead: Option<u32>,
    changes: u32,
}

impl Locked {
    /// Makes a free lock. The first thread that sleeps until the lock is released asks the others
    /// to let that thread go first.
    fn new() -> Arc<Locked> {
        make_all_waits_long();
        let locked = Arc::new(Locked::default());
        assert!(!locked.lock.is_with(1));
        locked
    }

    fn truth(&self) -> StdMutexGuard<'_, Truth> {
        self.truth.lock().expect("no thread panics")
    }

    fn lock(&self, me: Locker, patience: Patience) -> Result<(), Refused> {
        let acquired = self.lock.lock(me, patience)?;
        let mut truth = self.truth();
        assert_eq!(truth.holder.replace(me.process.get()), None, "another process has the lock");
        let expected = match truth.dead.take() {
            Some(dead) => Acquired::Abandoned(ProcessId::of(dead)),
            None => Acquired::Clean,
        };
        assert_eq!(acquired, expected);
        Ok(())
    }

    /// Changes the data, which this process has locked.
    fn change(&self) {
        let seen = self.data.load(Relaxed);
        assert_eq!(seen, self.truth().changes, "the holder sees all that was written before");
        self.data.store(seen + 1, Relaxed);
        self.truth().changes += 1;
    }

    fn unlock(&self, me: Locker) {
        assert_eq!(self.truth().holder.take(), Some(me.process.get()));
        self.lock.unlock(me);
    }

    fn lock_and_change(&self, patience: Patience) {
        let me = me();
        if self.lock(me, patience).is_ok() {
            self.change();
            self.unlock(me);
        }
    }

    /// Notes that process `id` was killed.
    fn note_death(&self, id: u32) {
        let had_lock = self.lock.is_with(id); // loom may switch threads here
        let mut truth = self.truth();
        truth.holder.take_if(|holder| *holder == id);
        if had_lock {
            truth.dead = Some(id);
        }
    }
}

/// Starts process `id`, which locks, changes the data, and unlocks.
fn start_user(locked: &Arc<Locked>, id: u32, life: usize, patience: Patience) -> JoinHandle<bool> {
    let [user, mourner] = [Arc::clone(locked), Arc::clone(locked)];
    start(id, life, move || user.lock_and_change(patience), move || mourner.note_death(id))
}

#[test]
fn one_process_at_a_time_has_the_lock() {
    check(3, || {
        begin(2);
        let locked = Locked::new();
        let other = start_user(&locked, 2, UNHARMED, Patience::Endless);
        locked.lock_and_change(Patience::Endless);
        locked.lock_and_change(Patience::Endless);
        join_all([other]);
        locked.lock_and_change(Patience::None);
        assert_eq!(locked.truth().changes, 4);
    });
}

#[test]
fn no_waiter_of_three_sleeps_forever() {
    check(2, || {
        begin(3);
        let locked = Locked::new();
        let others = [2, 3].map(|id| start_user(&locked, id, UNHARMED, Patience::Endless));
        locked.lock_and_change(Patience::Endless);
        join_all(others);
        assert_eq!(locked.truth().changes, 3);
    });
}

#[test]
fn death_at_any_operation_leaves_the_lock_to_the_other_process() {
    check_killed(3, 6, |life| {
        begin(2);
        let locked = Locked::new();
        let killed = start_user(&locked, 2, life, Patience::Endless);
        locked.lock_and_change(Patience::Endless);
        let is_alive = killed.join().expect("it does not panic");
        locked.lock_and_change(Patience::None);
        is_alive
    });
}

#[test]
fn death_of_a_waiter_at_any_operation_wakes_the_other_waiter() {
    check_killed(1, 6, |life| {
        begin(3);
        let locked = Locked::new();
        locked.lock(me(), Patience::None).expect("it is free");
        let killed = start_user(&locked, 2, life, Patience::Endless);
        let other = start_user(&locked, 3, UNHARMED, Patience::Endless);
        locked.unlock(me());
        let is_alive = killed.join().expect("it does not panic");
        join_all([other]);
        is_alive
    });
}

#[test]
fn waiter_that_gives_up_does_not_keep_the_wake_up_of_another() {
    check(2, || {
        begin(3);
        let locked = Locked::new();
        let me = me();
        locked.lock(me, Patience::None).expect("it is free");
        let hasty = start_user(&locked, 2, UNHARMED, Patience::Until(now() + ONE_TICK));
        let patient = start_user(&locked, 3, UNHARMED, Patience::Endless);
        // The first release may wake the hasty one, which then finds the lock taken.
        locked.unlock(me);
        let has_it_again = locked.lock(me, Patience::None).is_ok();
        tick();
        if has_it_again {
            locked.unlock(me);
        }
        join_all([hasty, patient]);
    });
}

#[test]
fn holder_is_told_which_process_died_last_with_the_lock() {
    check(2, || {
        begin(4);
        let locked = Locked::new();
        let die_with_lock = |locked: &Locked, id: u32| {
            let die = || {
                locked.lock(me(), Patience::Endless).expect("this thread does not have it");
                crate::memory::loom::die();
            };
            assert!(!play(id, UNHARMED, die, || locked.note_death(id)));
        };
        die_with_lock(&locked, 2);
        let others = {
            let locked = Arc::clone(&locked);
            thread::spawn(move || {
                die_with_lock(&locked, 3);
                play(4, UNHARMED, || locked.lock_and_change(Patience::Endless), ignore)
            })
        };
        assert!(live_as(1, UNHARMED, || locked.lock_and_change(Patience::None)));
        join_all([others]);
    });
}

/// Takes the mutex, whose data must be whole. Repairs them if their last holder died.
fn use_mutex(mutex: &Mutex<[u32; 2]>) {
    match mutex.lock() {
        Ok(pair) => assert_eq!(pair[0], pair[1]),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Abandoned);
            assert_eq!(error.pid(), Some(2));
            let again = mutex.try_lock().expect_err("nobody has repaired the data");
            assert_eq!(again.kind(), ErrorKind::Abandoned);
            let mut pair = mutex.recover().expect("this thread does not have it");
            pair[1] = pair[0];
        }
    }
}

#[test]
fn mutex_stays_abandoned_until_somebody_has_recovered_it() {
    check_killed(2, 8, |life| {
        begin(2);
        let mutex = Mutex::new([0; 2]).expect("there is memory");
        let killed = {
            let mutex = mutex.clone();
            let change = move || {
                let mut pair = mutex.lock().expect("nobody died yet");
                pair[0] += 1;
                step();
                pair[1] += 1;
            };
            start(2, life, change, ignore)
        };
        use_mutex(&mutex);
        let is_alive = killed.join().expect("it does not panic");
        use_mutex(&mutex);
        let pair = *mutex.lock().expect("it was recovered");
        assert_eq!(pair[0], pair[1]);
        assert!(!is_alive || pair == [1; 2]);
        is_alive
    });
}
