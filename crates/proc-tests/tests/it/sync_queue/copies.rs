//! Copies that the user's own `fork` makes use and drop queues, leases and pipes, and harm nobody.

use std::time::Duration;

use proc_core::sync::{Event, Queue, pipe};
use proc_core::{Error, StartMethod};

use super::child;
use crate::support::fork::{exit_now, expect_success, fork, in_copy};
use crate::support::{Arguments, SOON, run};

programs![drop_in_copies, use_in_copies, keep_after_copies];

tests! {
    leases_and_pipes_dropped_by_a_copy_are_kept: forkserver;
    copies_use_queues: forkserver;
    queue_dropped_by_a_copy_is_known_to_be_held: forkserver spawn fork;
}

fn drop_in_copies(_: &Arguments) {
    let queue = Queue::<u32>::new().expect("there is memory");
    queue.put_all([1, 2, 3]).expect("it is open");
    let leased = queue.lease().expect("there are items");
    let (one, other) = pipe::<u32, u32>().expect("there is memory");
    one.send(1).expect("it is open");
    for way in 0..3 {
        let Some(copy) = fork() else {
            match way {
                0 => drop(leased),
                1 => drop(leased.done()),
                _ => std::mem::forget(leased),
            }
            drop(queue);
            drop((one, other));
            exit_now(0);
        };
        expect_success(copy);
        assert_eq!(queue.len(), 2, "the lease is ours");
        assert!(!queue.join_timeout(Duration::ZERO).expect("it can wait"));
    }
    assert_eq!(other.recv().expect("it was sent"), 1);
    one.send(2).expect("it is open");
    assert_eq!(other.recv().expect("it was sent"), 2);
    other.send(3).expect("it is open");
    assert_eq!(one.recv().expect("it was sent"), 3);
    assert_eq!(*leased, 1);
    drop(leased);
    assert_eq!(queue.get_many(5).expect("there are items"), [1, 2, 3]);
    println!("unharmed");
}

fn leases_and_pipes_dropped_by_a_copy_are_kept(start_method: StartMethod) {
    assert_eq!(run(drop_in_copies, start_method, &[]).succeeded(), "unharmed\n");
}

/// Copies put, take and lease. In each round one dies with a lease, and no fork server tells of its
/// death.
fn use_in_copies(_: &Arguments) {
    let queue = Queue::<u32>::bounded(4).expect("there is memory");
    for round in 0..20 {
        queue.put(round).expect("it is open");
        expect_success(in_copy(|| {
            assert_eq!(queue.get().expect("it was put"), round);
            queue.put_all([round + 1, round + 2]).expect("it is open");
        }));
        assert_eq!(queue.get().expect("it was put"), round + 1);
        expect_success(in_copy(|| {
            let leased = queue.lease().expect("it was put");
            assert_eq!(*leased, round + 2);
            exit_now(0);
        }));
        let leased = queue.lease_timeout(SOON).expect("it is open").expect("it comes back");
        assert_eq!((*leased, leased.was_returned()), (round + 2, true));
        leased.done();
        assert!(queue.join_timeout(SOON).expect("it can wait"));
    }
    // Both at the same time.
    let copy = in_copy(|| (0..10_000).for_each(|number| queue.put(number).expect("it is open")));
    assert!((0..10_000).all(|number| queue.get().expect("the copy puts it") == number));
    expect_success(copy);
    println!("used");
}

fn copies_use_queues(start_method: StartMethod) {
    assert_eq!(run(use_in_copies, start_method, &[]).succeeded(), "used\n");
}

fn take_soon((queue, ready): (Queue<u32>, Event)) -> Result<Option<u32>, Error> {
    ready.set();
    queue.get_timeout(Duration::from_millis(1200))
}

/// A copy drops a queue. Another process that waits still knows that this one has it.
fn keep_after_copies(arguments: &Arguments) {
    // Makes the fork server before there are copies.
    child(arguments, |()| {}, ()).join().expect("it returns");
    let queue = Queue::<u32>::new().expect("there is memory");
    let ready = Event::new().expect("there is memory");
    let consumer = child(arguments, take_soon, (queue.clone(), ready.clone()));
    ready.wait();
    match fork() {
        None => {
            drop(queue);
            exit_now(0);
        }
        Some(copy) => expect_success(copy),
    }
    println!("{:?}", consumer.join().expect("it returns").map_err(|error| error.to_string()));
    drop(queue);
}

fn queue_dropped_by_a_copy_is_known_to_be_held(start_method: StartMethod) {
    assert_eq!(run(keep_after_copies, start_method, &[]).succeeded(), "Ok(None)\n");
}
