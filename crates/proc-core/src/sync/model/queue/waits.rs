//! Waits of a queue: for room, for an item that comes late, and for the end.

use super::*;
use crate::memory::loom::{Channel, tick};

fn put_one(shared: &Shared, id: u32) {
    shared.put(id, 10 * u64::from(id));
}

#[test]
fn room_wakes_a_producer() {
    check_two_items(1, Shared::bounded);
}

#[test]
fn room_wakes_each_producer() {
    check(1, || {
        begin(3);
        let shared = Shared::bounded(3);
        shared.put(1, 10);
        let producers = [2, 3].map(|id| start_user(&shared, id, UNHARMED, put_one));
        for _ in 0..3 {
            shared.get(1);
            assert!(shared.queue(1).len() <= 1);
        }
        join_all(producers);
        shared.check_taken(0);
    });
}

#[test]
fn death_of_a_consumer_at_any_operation_wakes_the_producer_or_makes_no_room() {
    check_killed(1, 15, |life| {
        begin(3);
        let shared = Shared::bounded(3);
        shared.put(1, 10);
        let killed = start_user(&shared, 2, life, get_one);
        let producer = start_user(&shared, 3, UNHARMED, put_one);
        let is_alive = killed.join().expect("it does not panic");
        let (_, taken) = shared.queue(1).counts();
        assert!(taken == 1 || !is_alive);
        if taken == 0 {
            shared.get(1);
        }
        join_all([producer]);
        shared.get_rest();
        shared.check_taken(1);
        is_alive
    });
}

#[test]
fn death_of_a_producer_that_waits_leaves_its_room_to_the_other() {
    check_killed(0, 15, |life| {
        begin(3);
        let shared = Shared::bounded(3);
        shared.put(1, 10);
        let killed = start_user(&shared, 2, life, put_one);
        let other = start_user(&shared, 3, UNHARMED, put_one);
        shared.get(1);
        // The item of the other producer comes in any case, perhaps after that of the killed one.
        while shared.get(1) != 30 {}
        let is_alive = killed.join().expect("it does not panic");
        join_all([other]);
        shared.get_rest();
        shared.check_taken(0);
        is_alive
    });
}

#[test]
fn consumer_that_gives_up_does_not_keep_the_wake_up_of_another() {
    check(2, || {
        begin(3);
        let (shared, taken) = (Shared::new(3), Channel::new());
        let consumers = [2, 3].map(|id| {
            let (shared, taken) = (Arc::clone(&shared), Arc::clone(&taken));
            let is_hasty = id == 2;
            let consume = move || {
                let queue = shared.queue(id);
                let item = match is_hasty {
                    true => queue.get_timeout(ONE_TICK).expect("it is open"),
                    false => Some(queue.get().expect("it is open")),
                };
                item.into_iter().for_each(|item| taken.send(shared.note_taken(&item)));
            };
            start(id, UNHARMED, consume, ignore)
        });
        shared.put(1, 10);
        tick();
        assert_eq!(taken.receive(), 10);
        shared.put(1, 11);
        tick();
        join_all(consumers);
    });
}

/// Waits for an item that does not come.
fn wait_for_end(shared: &Shared, id: u32) {
    let error = shared.queue(id).get().expect_err("there is no item");
    assert_eq!(error.kind(), ErrorKind::Closed);
}

/// Waits for room that does not come.
fn wait_for_room(shared: &Shared, id: u32) {
    let error = shared.queue(id).put(vec![0]).expect_err("there is no room");
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[test]
fn end_wakes_all_consumers() {
    check(2, || {
        begin(3);
        let shared = Shared::new(3);
        let consumers = [2, 3].map(|id| start_user(&shared, id, UNHARMED, wait_for_end));
        shared.queue(1).close();
        join_all(consumers);
    });
}

/// The item wakes one consumer. The other one sleeps unannounced until that one goes on.
#[test]
fn end_after_an_item_wakes_all_consumers() {
    check(2, || {
        begin(3);
        let shared = Shared::new(3);
        let take_all = |shared: &Shared, id| while shared.queue(id).get().is_ok() {};
        let consumers = [2, 3].map(|id| start_user(&shared, id, UNHARMED, take_all));
        shared.put(1, 10);
        shared.queue(1).close();
        join_all(consumers);
    });
}

#[test]
fn end_wakes_all_producers() {
    check(2, || {
        begin(3);
        let shared = Shared::bounded(3);
        shared.put(1, 10);
        let producers = [2, 3].map(|id| start_user(&shared, id, UNHARMED, wait_for_room));
        shared.queue(1).close();
        join_all(producers);
        assert_eq!(shared.get(1), 10);
    });
}

#[test]
fn death_of_the_closer_at_any_operation_wakes_all_or_closes_nothing() {
    check_killed(1, 3, |life| {
        begin(4);
        let shared = Shared::bounded(4);
        shared.put(1, 10);
        let producers = [2, 3].map(|id| start_user(&shared, id, UNHARMED, wait_for_room));
        let killed = start_user(&shared, 4, life, |shared, id| shared.queue(id).close());
        let is_alive = killed.join().expect("it does not panic");
        // It is closed unless there was no operation.
        if life == 0 {
            shared.queue(1).close();
        }
        join_all(producers);
        is_alive
    });
}

/// The other consumer may have the lock when the time is over.
#[test]
fn consumer_that_gives_up_is_not_told_of_the_end_while_there_is_an_item() {
    check(2, || {
        begin(2);
        let shared = Shared::new(2);
        shared.put(1, 10);
        shared.put(1, 11);
        shared.queue(1).close();
        let hasty = start_user(&shared, 2, UNHARMED, |shared, id| {
            let item = shared.queue(id).get_timeout(ONE_TICK).expect("there is an item");
            item.map(|item| shared.note_taken(&item));
        });
        let ticking = thread::spawn(tick);
        shared.get(1);
        join_all([hasty]);
        ticking.join().expect("it does not panic");
    });
}

#[test]
fn consumers_are_told_of_the_end_after_the_last_item_that_was_put() {
    check(3, || {
        put_and_close(UNHARMED);
    });
}

#[test]
fn death_of_the_producer_at_any_operation_puts_no_item_after_the_end() {
    check_killed(2, 15, put_and_close);
}

/// Lets process 2 put an item if the queue is open still, and process 3 take items until the end.
fn put_and_close(life: usize) -> bool {
    begin(3);
    let shared = Shared::new(3);
    let killed = start_user(&shared, 2, life, |shared, id| {
        if shared.queue(id).put(vec![20]).is_ok() {
            shared.truth().put.push(20);
        }
    });
    let consumer = start_user(&shared, 3, UNHARMED, |shared, id| {
        while let Ok(item) = shared.queue(id).get() {
            shared.note_taken(&item);
        }
    });
    shared.queue(1).close();
    let is_alive = killed.join().expect("it does not panic");
    join_all([consumer]);
    shared.check_taken(0);
    is_alive
}
