//! Leases of items.

use super::super::super::queue::Leased;
use super::*;
use crate::memory::atomics::AtomicU32;
use crate::memory::loom::Channel;

impl Shared {
    fn note_leased(&self, leased: &Leased<Vec<u64>>) {
        assert_eq!(leased.was_returned(), self.truth().was_lease_lost);
    }

    /// Says that an item is done. If the process is killed here, its thread unwinds and drops the
    /// lease. That does nothing, since the thread does not play the process any more.
    fn done(&self, leased: Leased<Vec<u64>>) {
        self.truth().done.push(leased[0]);
        leased.done();
    }
}

/// Leases an item, unless the queue is closed before there is one.
fn lease_one(shared: &Shared, id: u32) {
    if let Ok(leased) = shared.queue(id).lease() {
        shared.note_leased(&leased);
        shared.done(leased);
    }
}

/// Leases an item and gives it back.
fn give_back_one(shared: &Shared, id: u32) {
    if let Ok(leased) = shared.queue(id).lease() {
        shared.truth().was_lease_lost = true;
        drop(leased);
    }
}

/// Leases items until the queue is closed.
fn lease_all(shared: &Shared, id: u32) {
    while let Ok(leased) = shared.queue(id).lease() {
        shared.note_leased(&leased);
        shared.done(leased);
    }
}

/// Closes the queue, whose items are all done, and waits for the two processes. Returns whether the
/// first one was not killed.
fn close_after(shared: &Shared, killed: JoinHandle<bool>, other: JoinHandle<bool>) -> bool {
    shared.queue(1).close();
    let is_alive = killed.join().expect("it does not panic");
    join_all([other]);
    assert!(shared.queue(1).is_empty());
    is_alive
}

#[test]
fn item_that_is_given_back_wakes_another_consumer() {
    check(2, || {
        begin(3);
        let shared = Shared::new(3);
        shared.put(1, 10);
        let leased = shared.queue(1).lease().expect("there is one");
        shared.truth().was_lease_lost = true;
        let consumer = start_user(&shared, 2, UNHARMED, lease_all);
        drop(leased);
        shared.queue(1).join().expect("it has a number");
        assert_eq!(shared.truth().done, [10]);
        shared.queue(1).close();
        join_all([consumer]);
    });
}

#[test]
fn death_with_a_lease_at_any_operation_gives_the_item_back_once() {
    check_killed(0, 30, |life| {
        begin(3);
        let shared = Shared::new(3);
        shared.put(1, 10);
        let killed = start_user(&shared, 2, life, lease_one);
        let other = start_user(&shared, 3, UNHARMED, lease_all);
        shared.queue(1).join().expect("it has a number");
        assert!(shared.truth().done.contains(&10), "it is not done yet");
        close_after(&shared, killed, other)
    });
}

#[test]
fn death_with_the_last_lease_at_any_operation_lets_join_go_on_waiting() {
    check_killed(1, 30, |life| {
        begin(3);
        let shared = Shared::new(3);
        shared.put(1, 10);
        let killed = start_user(&shared, 2, life, lease_one);
        let joiner = start_user(&shared, 3, UNHARMED, |shared, id| {
            shared.queue(id).join().expect("it has a number");
            assert!(shared.truth().done.contains(&10), "it is not done yet");
        });
        let is_alive = killed.join().expect("it does not panic");
        let (_, taken) = shared.queue(1).counts();
        if shared.truth().was_lease_lost || taken == 0 {
            assert!(!is_alive);
            lease_one(&shared, 1);
        }
        join_all([joiner]);
        is_alive
    });
}

#[test]
fn death_while_an_item_is_given_back_at_any_operation_gives_it_back_once() {
    check_killed(0, 30, |life| {
        begin(3);
        let shared = Shared::new(3);
        shared.put(1, 10);
        let leased = shared.queue(1).lease().expect("there is one");
        let killed = start_user(&shared, 2, life, give_back_one);
        shared.truth().was_lease_lost = true;
        let other = start_user(&shared, 3, UNHARMED, lease_all);
        drop(leased);
        shared.queue(1).join().expect("it has a number");
        assert_eq!(shared.truth().done, [10]);
        close_after(&shared, killed, other)
    });
}

/// Each of the two processes has one item, or process 1 has both, one after the other.
#[test]
fn death_with_a_lease_of_one_of_two_items_loses_none() {
    check_killed(2, 30, |life| {
        begin(2);
        let shared = Shared::new(2);
        shared.put(1, 10);
        shared.put(1, 11);
        let killed = start_user(&shared, 2, life, |shared, id| {
            shared.done(shared.queue(id).lease().expect("there are two"));
        });
        let first = shared.queue(1).lease().expect("there are two");
        let number = first[0];
        assert!(!first.was_returned() || shared.truth().was_lease_lost);
        shared.done(first);
        let is_alive = killed.join().expect("it does not panic");
        let was_lost = shared.truth().was_lease_lost;
        let second = shared.queue(1).lease_timeout(Duration::ZERO).expect("it is open");
        match second {
            Some(second) => {
                assert!(!is_alive && second[0] != number);
                shared.done(second);
            }
            None => assert!(!was_lost),
        }
        assert!(shared.queue(1).join_timeout(Duration::ZERO).expect("it has a number"));
        for number in [10, 11] {
            assert!(shared.truth().done.contains(&number), "{number} is lost");
        }
        is_alive
    });
}

/// At every moment before the last item is taken, there is an item or a lease.
#[test]
fn join_waits_for_an_item_that_was_put_before_the_leased_one_was_done() {
    check(2, || {
        begin(2);
        let (shared, begun) = (Shared::new(2), Channel::new());
        // An atomic of the model, so that loom tries both orders of its two operations.
        let is_last_begun = Arc::new(AtomicU32::default());
        is_last_begun.store(0, Ordering::Relaxed);
        shared.put(1, 10);
        let leased = shared.queue(1).lease().expect("there is one");
        let joiner = {
            let shared = Arc::clone(&shared);
            let (begun, is_last_begun) = (Arc::clone(&begun), Arc::clone(&is_last_begun));
            let join = move || {
                begun.send(());
                shared.queue(2).join().expect("it has a number");
                assert_eq!(is_last_begun.load(Ordering::Relaxed), 1, "there is an item still");
            };
            start(2, UNHARMED, join, ignore)
        };
        begun.receive();
        shared.put(1, 11);
        leased.done();
        is_last_begun.store(1, Ordering::Relaxed);
        shared.get(1);
        join_all([joiner]);
    });
}
