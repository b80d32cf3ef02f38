//! Each item goes through a queue once and in order, whatever its size, and memory comes back.

use std::collections::HashMap;

use proc_core::StartMethod;
use proc_core::sync::{Event, Queue, Value};
use serde_bytes::ByteBuf;

use super::{child, shared_memory};
use crate::support::{Arguments, SOON, run, wait_until};

programs![
    one_to_one,
    three_to_three,
    grow_and_shrink,
    wrap_around,
    use_threads,
    wake_two,
    try_at_once
];

tests! {
    items_go_from_one_process_to_another: forkserver spawn fork;
    items_of_three_producers_go_to_three_consumers: forkserver spawn fork;
    queue_gives_memory_back;
    many_items_go_through_a_small_queue: forkserver spawn fork;
    threads_of_one_process_share_a_queue;
    two_items_wake_two_consumers_and_room_wakes_producers;
    try_put_fails_only_without_room;
}

const MIB: usize = 1 << 20;

fn payload(number: usize, len: usize) -> ByteBuf {
    ByteBuf::from(vec![(number % 251) as u8; len])
}

fn check(number: usize, payload: &[u8], len: usize) {
    assert_eq!(payload.len(), len);
    assert!(payload.iter().all(|byte| *byte == (number % 251) as u8), "item {number}");
}

fn put_payloads((queue, count, len): (Queue<ByteBuf>, usize, usize)) {
    for number in 0..count {
        queue.put(payload(number, len)).expect("the queue is open");
    }
}

fn put_texts((queue, count): (Queue<String>, usize)) {
    queue.put_all((0..count).map(|number| number.to_string())).expect("the queue is open");
}

/// One producer, and this process as the consumer; items of several sizes.
fn one_to_one(arguments: &Arguments) {
    for bound in [None, Some(1), Some(5)] {
        let make = || bound.map_or_else(Queue::new, Queue::bounded).expect("there is memory");
        for (count, len) in [(5000, 0), (5000, 7), (300, 100_000), (20, MIB), (3, 20 * MIB)] {
            let queue = make();
            let producer = child(arguments, put_payloads, (queue.clone(), count, len));
            for number in 0..count {
                check(number, &queue.get().expect("somebody puts it"), len);
            }
            producer.join().expect("it returns");
            assert_eq!(queue.try_get().expect("the queue is open"), None);
        }
        let queue = bound.map_or_else(Queue::new, Queue::bounded).expect("there is memory");
        let producer = child(arguments, put_texts, (queue.clone(), 10_000));
        let mut next = 0;
        while next < 10_000 {
            for text in queue.get_many(100).expect("somebody puts it") {
                assert_eq!(text, next.to_string());
                next += 1;
            }
        }
        producer.join().expect("it returns");
    }
    println!("in order");
}

fn items_go_from_one_process_to_another(start_method: StartMethod) {
    assert_eq!(run(one_to_one, start_method, &[]).succeeded(), "in order\n");
}

type Item = (usize, usize, ByteBuf);

const COUNT: usize = 3000;

fn len_of(number: usize) -> usize {
    match number % 500 {
        499 => 300_000,
        rest => rest % 90,
    }
}

fn produce((queue, producer): (Queue<Item>, usize)) {
    let item = |number| (producer, number, payload(number, len_of(number)));
    for start in (0..COUNT).step_by(100) {
        // In turn: a hundred at once, then a hundred one by one.
        match start % 200 {
            0 => queue.put_all((start..start + 100).map(item)).expect("the queue is open"),
            _ => (start..start + 100).for_each(|number| {
                queue.put(item(number)).expect("the queue is open");
            }),
        }
    }
}

fn consume((queue, most): (Queue<Item>, usize)) -> Vec<(usize, usize)> {
    let mut seen = Vec::new();
    loop {
        let items = match most {
            1 => queue.get().map(|item| vec![item]),
            most => queue.get_many(most),
        };
        match items {
            Ok(items) => seen.extend(items.into_iter().map(|(producer, number, bytes)| {
                check(number, &bytes, len_of(number));
                (producer, number)
            })),
            Err(error) => {
                assert!(error.is_closed(), "{error}");
                return seen;
            }
        }
    }
}

/// Each item comes once, and those of one producer in their order.
fn check_seen(seen: &[Vec<(usize, usize)>]) {
    for seen in seen {
        let mut last = HashMap::new();
        for (producer, number) in seen {
            let before = last.insert(producer, number);
            assert!(before.is_none_or(|before| before < number), "{producer}: {number}");
        }
    }
    let mut all: Vec<(usize, usize)> = seen.concat();
    all.sort_unstable();
    assert!(all.into_iter().eq((0..3).flat_map(|p| (0..COUNT).map(move |n| (p, n)))));
}

fn three_to_three(arguments: &Arguments) {
    for bound in [None, Some(1), Some(100)] {
        let queue = bound.map_or_else(Queue::new, Queue::bounded).expect("there is memory");
        let consumers = [1, 10, 100].map(|most| child(arguments, consume, (queue.clone(), most)));
        let producers = [0, 1, 2].map(|number| child(arguments, produce, (queue.clone(), number)));
        producers.into_iter().for_each(|producer| producer.join().expect("it returns"));
        queue.close();
        check_seen(&consumers.map(|consumer| consumer.join().expect("it returns")));
    }
    println!("each once");
}

fn items_of_three_producers_go_to_three_consumers(start_method: StartMethod) {
    assert_eq!(run(three_to_three, start_method, &[]).succeeded(), "each once\n");
}

/// A queue grows to 64 MiB and becomes empty, several times, with items of several sizes.
fn grow_and_shrink(_: &Arguments) {
    let queue = Queue::<ByteBuf>::new().expect("there is memory");
    let mut most = 0;
    for round in 0..6 {
        let len = [1000, MIB, 20 * MIB][round % 3];
        let count = (64 * MIB).div_ceil(len);
        let item = |number| payload(number, len);
        queue.put_all((0..count).map(item)).expect("there is memory");
        assert!(shared_memory() >= 64 * MIB as u64);
        for number in 0..count {
            check(number, &queue.get().expect("it was put"), len);
        }
        most = most.max(shared_memory());
        println!("{len}: {} KiB are left", shared_memory() >> 10);
    }
    // 4 MiB are kept for the next items, and the chunk of the last small items stays: 4 MiB.
    assert!(most <= 9 * MIB as u64, "{most} bytes are left");
    // What is kept is used.
    for number in 0..100 {
        let before = shared_memory();
        queue.put(payload(number, MIB)).expect("there is memory");
        assert_eq!(queue.len(), 1);
        check(number, &queue.get().expect("it was put"), MIB);
        let grown = shared_memory().abs_diff(before);
        assert!(number < 20 || grown == 0, "item {number} changed the memory by {grown} bytes");
    }
}

fn queue_gives_memory_back() {
    run(grow_and_shrink, StartMethod::Forkserver, &[]).succeeded();
}

const MANY: u32 = 100_000;

fn put_many(queue: Queue<u32>) {
    (0..MANY).for_each(|number| queue.put(number).expect("the queue is open"));
}

/// Many items go through a queue for three.
fn wrap_around(arguments: &Arguments) {
    let queue = Queue::bounded(3).expect("there is memory");
    let producer = child(arguments, put_many, queue.clone());
    for number in 0..MANY {
        assert_eq!(queue.get().expect("somebody puts it"), number);
        assert!(queue.len() <= 3);
    }
    producer.join().expect("it returns");
    assert!(shared_memory() < 2 * MIB as u64, "{}", shared_memory());
    println!("in order");
}

fn many_items_go_through_a_small_queue(start_method: StartMethod) {
    assert_eq!(run(wrap_around, start_method, &[]).succeeded(), "in order\n");
}

/// Threads of one process put and take items. Each lease is ended by another thread, while the
/// thread that has leased it uses the queue.
fn use_threads(_: &Arguments) {
    let queue = Queue::<Item>::bounded(50).expect("there is memory");
    std::thread::scope(|scope| {
        let consumers = [1, 10, 100].map(|most| {
            let queue = queue.clone();
            scope.spawn(move || consume((queue, most)))
        });
        let producers = [0, 1, 2].map(|number| {
            let queue = queue.clone();
            scope.spawn(move || produce((queue, number)))
        });
        producers.into_iter().for_each(|producer| producer.join().expect("it does not panic"));
        queue.close();
        check_seen(&consumers.map(|consumer| consumer.join().expect("it does not panic")));
    });
    let leased = Queue::<u32>::bounded(10).expect("there is memory");
    let done = Value::new(0_u32).expect("there is memory");
    std::thread::scope(|scope| {
        let (send, receive) = std::sync::mpsc::sync_channel(10);
        scope.spawn(|| put_many(leased.clone()));
        scope.spawn(|| {
            let send = send;
            for number in 0..MANY {
                let item = leased.lease().expect("somebody puts it");
                assert_eq!((*item, item.was_returned()), (number, false));
                send.send(item).expect("it is received");
            }
        });
        for item in receive {
            item.done();
            done.fetch_add(1);
        }
    });
    assert_eq!(done.get(), MANY);
    let is_done = leased.join_timeout(std::time::Duration::from_secs(1)).expect("it can wait");
    assert!(is_done, "each lease is done");
    println!("each once");
}

fn threads_of_one_process_share_a_queue() {
    let finished = run(use_threads, StartMethod::Forkserver, &[]);
    assert_eq!(finished.succeeded(), "each once\n");
}

const ROUNDS: u32 = 60;

/// Takes or puts one item in each round, and waits until the other process has done so too.
fn one_a_round((queue, passed, gets): (Queue<u32>, Value<u32>, bool)) {
    for round in 1..=ROUNDS {
        match gets {
            true => drop(queue.get().expect("somebody puts it")),
            false => queue.put(round).expect("the queue is open"),
        }
        passed.fetch_add(1);
        wait_until(|| passed.get() >= 2 * round);
    }
}

/// Two processes sleep, and there comes something for each of them at once. (A process that is not
/// woken looks after half a second: that would be half a minute in all rounds.)
fn wake_two(arguments: &Arguments) {
    for gets in [true, false] {
        let queue = Queue::bounded(2).expect("there is memory");
        let passed = Value::new(0_u32).expect("there is memory");
        if !gets {
            queue.put_all([0, 0]).expect("there is room");
        }
        let start = std::time::Instant::now();
        let one = |()| child(arguments, one_a_round, (queue.clone(), passed.clone(), gets));
        let processes = [(), ()].map(one);
        for round in 1..=ROUNDS {
            // Now both are about to sleep.
            std::thread::sleep(std::time::Duration::from_millis(5));
            match gets {
                true => {
                    queue.put(round).expect("there is room");
                    queue.put(round).expect("there is room");
                }
                false => {
                    queue.get().expect("there is an item");
                    queue.get().expect("there is an item");
                }
            }
            wait_until(|| passed.get() >= 2 * round);
        }
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
        processes.into_iter().for_each(|process| process.join().expect("it returns"));
    }
    println!("woken");
}

fn two_items_wake_two_consumers_and_room_wakes_producers() {
    assert_eq!(run(wake_two, StartMethod::Forkserver, &[]).succeeded(), "woken\n");
}

fn try_all((queue, go): (Queue<usize>, Event)) -> usize {
    go.wait();
    let put = |number: &usize| queue.try_put(*number).expect("it is open").is_none();
    (0..COUNT * 3).filter(put).count()
}

/// Several processes try to put at the same time.
fn try_at_once(arguments: &Arguments) {
    let queue = Queue::new().expect("there is memory");
    let go = Event::new().expect("there is memory");
    let start = |()| child(arguments, try_all, (queue.clone(), go.clone()));
    let processes = [(), (), ()].map(start);
    go.set();
    let put: usize = processes.map(|process| process.join().expect("it returns")).iter().sum();
    assert_eq!(put, 9 * COUNT, "there is room");
    assert_eq!(queue.len(), put);
    println!("all");
}

fn try_put_fails_only_without_room() {
    assert_eq!(run(try_at_once, StartMethod::Forkserver, &[]).succeeded(), "all\n");
}
