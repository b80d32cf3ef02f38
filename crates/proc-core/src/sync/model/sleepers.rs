//! The model check of [`Sleepers`] alone, without what a queue adds.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::super::sleepers::Sleepers;
use super::*;
use crate::memory::atomics::AtomicU32;
use crate::memory::loom::tick;

/// Things that processes take, and those that wait for one.
#[derive(Default)]
struct Things {
    sleepers: Sleepers,
    count: AtomicU32,
}

impl Things {
    fn new() -> Arc<Things> {
        let things = Arc::new(Things::default());
        things.sleepers.wake(1);
        assert!(!things.take());
        things
    }

    fn put(&self) {
        self.count.fetch_add(1, SeqCst);
        self.sleepers.wake(1);
    }

    fn take(&self) -> bool {
        let less = |count: u32| count.checked_sub(1);
        // The exchange alone may read an old zero when it fails, so a sequentially consistent load
        // looks first.
        self.count.load(SeqCst) > 0 && self.count.fetch_update(SeqCst, Relaxed, less).is_ok()
    }

    fn wait_and_take(&self, patience: Patience) {
        let mut sleeper = self.sleepers.sleeper(Family::get().expect("a model has a family"));
        loop {
            sleeper.announce();
            if self.take() || patience.is_over() {
                break;
            }
            sleeper.sleep(patience.deadline());
        }
        sleeper.leave(|| self.count.load(SeqCst) > 0);
    }
}

fn start_waiter(things: &Arc<Things>, id: u32, life: usize) -> JoinHandle<bool> {
    let things = Arc::clone(things);
    start(id, life, move || things.wait_and_take(Patience::Endless), ignore)
}

fn start_putter(things: &Arc<Things>, id: u32, life: usize) -> JoinHandle<bool> {
    let things = Arc::clone(things);
    start(id, life, move || things.put(), ignore)
}

#[test]
fn two_changes_wake_two_sleepers() {
    check(3, || {
        begin(3);
        let things = Things::new();
        let waiters = [2, 3].map(|id| start_waiter(&things, id, UNHARMED));
        things.put();
        things.put();
        join_all(waiters);
        assert!(!things.take());
    });
}

#[test]
fn two_processes_wake_two_sleepers() {
    check(2, || {
        begin(4);
        let things = Things::new();
        let waiters = [2, 3].map(|id| start_waiter(&things, id, UNHARMED));
        let putter = start_putter(&things, 4, UNHARMED);
        things.put();
        join_all(waiters);
        join_all([putter]);
        assert!(!things.take());
    });
}

#[test]
fn death_of_a_sleeper_at_any_operation_leaves_its_change_to_the_other() {
    check_killed(2, 5, |life| {
        begin(3);
        let things = Things::new();
        let killed = start_waiter(&things, 2, life);
        let other = start_waiter(&things, 3, UNHARMED);
        things.put();
        things.put();
        let is_alive = killed.join().expect("it does not panic");
        join_all([other]);
        is_alive
    });
}

#[test]
fn death_of_the_changer_at_any_operation_wakes_the_sleeper() {
    check_killed(3, 2, |life| {
        begin(3);
        let things = Things::new();
        let waiter = start_waiter(&things, 2, UNHARMED);
        let is_alive = start_putter(&things, 3, life).join().expect("it does not panic");
        if life == 0 {
            things.put();
        }
        join_all([waiter]);
        is_alive
    });
}

#[test]
fn sleeper_that_gives_up_does_not_keep_the_wake_up_of_another() {
    check(3, || {
        begin(3);
        let things = Things::new();
        let hasty = {
            let things = Arc::clone(&things);
            let patience = Patience::Until(crate::memory::loom::now() + ONE_TICK);
            start(2, UNHARMED, move || things.wait_and_take(patience), ignore)
        };
        let patient = start_waiter(&things, 3, UNHARMED);
        things.put();
        tick();
        join_all([hasty]);
        things.put();
        join_all([patient]);
    });
}
