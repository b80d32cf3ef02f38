//! The model check of [`Semaphore`].

use std::mem::ManuallyDrop;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::Ordering::Relaxed;

use super::super::semaphore::{Permit, Semaphore};
use super::*;
use crate::memory::atomics::AtomicU32;
use crate::memory::loom::tick;

/// A semaphore, and who really has its permits. If the semaphore has only one permit, the holder of
/// the permit changes `data`.
struct Lent {
    semaphore: Semaphore,
    permits: u32,
    holders: StdMutex<Vec<u32>>,
    data: AtomicU32,
    changes: StdMutex<u32>,
}

impl Lent {
    fn new(permits: u32) -> Arc<Lent> {
        let semaphore = Semaphore::new(permits).expect("there is memory");
        // Loom's atomics are made when they are first used. That must happen before there are
        // threads.
        assert_eq!(semaphore.available_permits().expect("this process has a number"), permits);
        let (holders, data, changes) = Default::default();
        Arc::new(Lent { semaphore, permits, holders, data, changes })
    }

    /// Acquires a permit. If this process is killed, its thread unwinds, and must not drop the
    /// permit: a killed process drops nothing.
    fn acquire(&self, id: u32) -> ManuallyDrop<Permit<'_>> {
        self.note(id, self.semaphore.acquire().expect("there is room"))
    }

    fn note<'a>(&self, id: u32, permit: Permit<'a>) -> ManuallyDrop<Permit<'a>> {
        let mut holders = self.holders.lock().expect("no thread panics");
        holders.push(id);
        assert!(holders.len() as u32 <= self.permits, "{holders:?} have permits");
        ManuallyDrop::new(permit)
    }

    fn give_back(&self, id: u32, permit: ManuallyDrop<Permit<'_>>) {
        self.forget(id);
        drop(ManuallyDrop::into_inner(permit));
    }

    fn forget(&self, id: u32) {
        let mut holders = self.holders.lock().expect("no thread panics");
        let place = holders.iter().position(|holder| *holder == id);
        place.map(|place| holders.remove(place));
    }

    /// Changes the data that the only permit protects.
    fn acquire_and_change(&self, id: u32) {
        let permit = self.acquire(id);
        let seen = self.data.load(Relaxed);
        let changes = *self.changes.lock().expect("no thread panics");
        assert_eq!(seen, changes, "the holder sees all that was written before");
        self.data.store(seen + 1, Relaxed);
        *self.changes.lock().expect("no thread panics") += 1;
        self.give_back(id, permit);
    }
}

/// Starts process `id`.
fn start_user(lent: &Arc<Lent>, id: u32, life: usize, process: fn(&Lent, u32)) -> JoinHandle<bool> {
    let [user, mourner] = [Arc::clone(lent), Arc::clone(lent)];
    start(id, life, move || process(&user, id), move || mourner.forget(id))
}

#[test]
fn one_permit_is_lent_to_one_process_at_a_time() {
    check(2, || {
        begin(2);
        let lent = Lent::new(1);
        let other = start_user(&lent, 2, UNHARMED, Lent::acquire_and_change);
        lent.acquire_and_change(1);
        join_all([other]);
        lent.acquire_and_change(1);
        assert_eq!(lent.semaphore.available_permits().expect("it has a number"), 1);
    });
}

#[test]
fn permit_comes_back_after_a_death_at_any_operation() {
    check_killed(2, 20, |life| {
        begin(2);
        let lent = Lent::new(1);
        let killed = start_user(&lent, 2, life, Lent::acquire_and_change);
        lent.acquire_and_change(1);
        let is_alive = killed.join().expect("it does not panic");
        assert_eq!(lent.semaphore.available_permits().expect("it has a number"), 1);
        lent.acquire_and_change(1);
        is_alive
    });
}

#[test]
fn death_of_a_waiter_at_any_operation_wakes_the_other_waiter() {
    check_killed(1, 20, |life| {
        begin(3);
        let lent = Lent::new(1);
        let permit = lent.acquire(1);
        let killed = start_user(&lent, 2, life, Lent::acquire_and_change);
        let other = start_user(&lent, 3, UNHARMED, Lent::acquire_and_change);
        lent.give_back(1, permit);
        let is_alive = killed.join().expect("it does not panic");
        join_all([other]);
        assert_eq!(lent.semaphore.available_permits().expect("it has a number"), 1);
        is_alive
    });
}

/// Acquires a permit, and keeps it.
fn acquire_for_good(lent: &Lent, id: u32) {
    lent.acquire(id);
}

#[test]
fn as_many_waiters_wake_as_permits_come_back() {
    check(2, || {
        begin(3);
        let lent = Lent::new(2);
        let permits = [lent.acquire(1), lent.acquire(1)];
        let others = [2, 3].map(|id| start_user(&lent, id, UNHARMED, acquire_for_good));
        for permit in permits {
            lent.give_back(1, permit);
        }
        join_all(others);
        assert_eq!(lent.semaphore.available_permits().expect("it has a number"), 0);
    });
}

#[test]
fn each_signal_wakes_a_waiter() {
    check(2, || {
        begin(3);
        let lent = Lent::new(0);
        let receive =
            |lent: &Lent, _: u32| lent.semaphore.acquire().expect("there is room").forget();
        let others = [2, 3].map(|id| start_user(&lent, id, UNHARMED, receive));
        lent.semaphore.add_permits(1).expect("there is room");
        lent.semaphore.add_permits(1).expect("there is room");
        join_all(others);
        assert_eq!(lent.semaphore.available_permits().expect("it has a number"), 0);
    });
}

#[test]
fn waiter_that_gives_up_does_not_keep_the_wake_up_of_another() {
    check(2, || {
        begin(3);
        let lent = Lent::new(1);
        let permit = lent.acquire(1);
        let hasty = start_user(&lent, 2, UNHARMED, |lent, id| {
            let permit = lent.semaphore.acquire_timeout(ONE_TICK).expect("there is room");
            if let Some(permit) = permit {
                let permit = lent.note(id, permit);
                lent.give_back(id, permit);
            }
        });
        let patient = start_user(&lent, 3, UNHARMED, Lent::acquire_and_change);
        // The first permit that comes back may wake the hasty one, which then finds none.
        lent.give_back(1, permit);
        let permit = lent.semaphore.try_acquire().expect("there is room");
        tick();
        if let Some(permit) = permit {
            let permit = lent.note(1, permit);
            lent.give_back(1, permit);
        }
        join_all([hasty, patient]);
    });
}
