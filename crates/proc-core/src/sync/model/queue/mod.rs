//! The model check of [`Queue`].
//!
//! A chunk of a model has 64 bytes, unless an item needs a larger one, and there are at most three.
//! So a chunk has room for four items of one word, or for one item of [`LARGE`] words and one of
//! one word.

mod chunks;
mod leases;
mod waits;

use std::sync::{Mutex as StdMutex, MutexGuard as StdMutexGuard};

use super::super::queue::Queue;
use super::*;
use crate::error::ErrorKind;

/// Number of words of an item of which a chunk has room for one only.
const LARGE: usize = 5;

/// Number of words of an item that needs a chunk of 64 bytes of its own.
const FULL: usize = 6;

/// Number of words of an item that needs a chunk of 128 bytes.
const LARGER: usize = 10;

/// A queue as each process of a model has it, and what is true of it.
struct Shared {
    /// The queue as the processes have it, beginning with process 1. They last longer than the
    /// processes: who drops a queue wakes others, which would hide a lost wake-up.
    queues: Vec<Queue<Vec<u64>>>,
    truth: StdMutex<Truth>,
}

/// What really happened. The checks use this; the queue does not.
#[derive(Default)]
struct Truth {
    /// Items of which the producer was told that they are put, in order.
    put: Vec<u64>,
    /// Items that a consumer has, in order.
    taken: Vec<u64>,
    /// Whether a process has died with a lease, or has given an item back.
    was_lease_lost: bool,
    /// Items of which a process was about to say that they are done.
    done: Vec<u64>,
}

impl Shared {
    /// Makes a queue that `processes` processes have.
    fn new(processes: u32) -> Arc<Shared> {
        Shared::of(Queue::new(), processes)
    }

    /// Like [`new`](Shared::new), with room for one item.
    fn bounded(processes: u32) -> Arc<Shared> {
        Shared::of(Queue::bounded(1), processes)
    }

    fn of(queue: Result<Queue<Vec<u64>>, crate::Error>, processes: u32) -> Arc<Shared> {
        let queue = queue.expect("there is memory");
        let received: Vec<_> = (1..processes).map(|_| queue.received()).collect();
        let queues = [queue].into_iter().chain(received).collect();
        Arc::new(Shared { queues, truth: StdMutex::default() })
    }

    fn truth(&self) -> StdMutexGuard<'_, Truth> {
        self.truth.lock().expect("no thread panics")
    }

    fn queue(&self, id: u32) -> &Queue<Vec<u64>> {
        &self.queues[id as usize - 1]
    }

    /// Lets process `id` put an item of one word.
    fn put(&self, id: u32, number: u64) {
        self.put_words(id, number, 1);
    }

    /// Lets process `id` put an item of several words.
    fn put_words(&self, id: u32, number: u64, words: usize) {
        self.queue(id).put(vec![number; words]).expect("it is open, and has room");
        self.truth().put.push(number);
    }

    fn note_taken(&self, item: &[u64]) -> u64 {
        let number = item[0];
        let is_whole = item.iter().all(|word| *word == number);
        assert!(is_whole && matches!(item.len(), 1 | LARGE | FULL | LARGER), "{item:?}");
        let mut truth = self.truth();
        assert!(!truth.taken.contains(&number), "{number} comes twice");
        truth.taken.push(number);
        number
    }

    /// Lets process `id` take an item.
    fn get(&self, id: u32) -> u64 {
        self.note_taken(&self.queue(id).get().expect("it is open"))
    }

    /// Lets process 1 take all items that are there.
    fn get_rest(&self) {
        while let Some(item) = self.queue(1).try_get().expect("it is open") {
            self.note_taken(&item);
        }
    }

    /// Checks that what was put and taken agree, but for `killed` items. Nobody uses the queue any
    /// more.
    fn check_taken(&self, killed: usize) {
        let truth = self.truth();
        let lost: Vec<_> = truth.put.iter().filter(|item| !truth.taken.contains(item)).collect();
        assert!(lost.len() <= killed, "{lost:?} are lost");
        let (put, taken) = self.queue(1).counts();
        assert_eq!(put, taken);
    }

    /// Checks that the items from `numbers` were taken in this order, as far as they were.
    fn check_order(&self, numbers: &[u64]) {
        let truth = self.truth();
        let taken: Vec<u64> =
            truth.taken.iter().filter(|item| numbers.contains(item)).copied().collect();
        let expected: Vec<u64> =
            numbers.iter().filter(|item| truth.taken.contains(item)).copied().collect();
        assert_eq!(taken, expected);
    }
}

/// Starts process `id`.
fn start_user(
    shared: &Arc<Shared>,
    id: u32,
    life: usize,
    process: fn(&Shared, u32),
) -> JoinHandle<bool> {
    let [user, mourner] = [Arc::clone(shared), Arc::clone(shared)];
    let at_death = move || {
        let has_lease = mourner.queue(id).has_lease(id); // loom may switch threads here
        mourner.truth().was_lease_lost |= has_lease;
    };
    start(id, life, move || process(&user, id), at_death)
}

fn get_one(shared: &Shared, id: u32) {
    shared.get(id);
}

/// Lets one process put two items and another one take them.
fn check_two_items(interruptions: usize, make: fn(u32) -> Arc<Shared>) {
    check(interruptions, move || {
        begin(2);
        let shared = make(2);
        let producer = start_user(&shared, 2, UNHARMED, |shared, id| {
            shared.put(id, 20);
            shared.put(id, 21);
        });
        assert_eq!(shared.get(1), 20);
        assert_eq!(shared.get(1), 21);
        join_all([producer]);
        shared.check_taken(0);
    });
}

#[test]
fn items_arrive_once_and_in_order() {
    check_two_items(2, Shared::new);
}

#[test]
fn two_items_wake_two_consumers() {
    check(1, || {
        begin(3);
        let shared = Shared::new(3);
        let consumers = [2, 3].map(|id| start_user(&shared, id, UNHARMED, get_one));
        shared.put(1, 10);
        shared.put(1, 11);
        join_all(consumers);
        shared.check_taken(0);
    });
}

#[test]
fn death_of_the_producer_at_any_operation_wakes_the_consumer_or_puts_nothing() {
    check_killed(1, 15, |life| {
        begin(3);
        let shared = Shared::new(3);
        let killed = start_user(&shared, 2, life, |shared, id| shared.put(id, 20));
        let consumer = start_user(&shared, 3, UNHARMED, get_one);
        let is_alive = killed.join().expect("it does not panic");
        let (put, _) = shared.queue(1).counts();
        assert!(put == 1 || !is_alive);
        if put == 0 {
            shared.put(1, 10);
        }
        join_all([consumer]);
        shared.check_taken(0);
        is_alive
    });
}

#[test]
fn death_of_a_producer_at_any_operation_loses_no_item_that_was_put() {
    check_killed(1, 20, |life| {
        begin(3);
        let shared = Shared::new(3);
        let killed = start_user(&shared, 2, life, |shared, id| shared.put(id, 20));
        let other = start_user(&shared, 3, UNHARMED, |shared, id| shared.put(id, 30));
        while shared.get(1) != 30 {}
        let is_alive = killed.join().expect("it does not panic");
        join_all([other]);
        shared.get_rest();
        shared.check_taken(0);
        is_alive
    });
}

#[test]
fn death_of_the_producer_at_any_operation_keeps_the_order() {
    check_killed(1, 40, |life| {
        begin(2);
        let shared = Shared::new(2);
        let killed = start_user(&shared, 2, life, |shared, id| {
            shared.put(id, 20);
            shared.put(id, 21);
        });
        shared.put(1, 10);
        while shared.get(1) != 10 {}
        let is_alive = killed.join().expect("it does not panic");
        shared.get_rest();
        shared.check_taken(0);
        shared.check_order(&[20, 21]);
        is_alive
    });
}

#[test]
fn death_of_a_consumer_at_any_operation_loses_at_most_the_item_that_it_took() {
    check_killed(1, 20, |life| {
        begin(3);
        let shared = Shared::new(3);
        let killed = start_user(&shared, 2, life, get_one);
        let other = start_user(&shared, 3, UNHARMED, get_one);
        shared.put(1, 10);
        shared.put(1, 11);
        let is_alive = killed.join().expect("it does not panic");
        join_all([other]);
        let (_, taken) = shared.queue(1).counts();
        let lost = taken as usize - shared.truth().taken.len();
        assert!(lost == 0 || (lost == 1 && !is_alive));
        shared.get_rest();
        shared.check_taken(lost);
        is_alive
    });
}
