//! Producers and consumers are killed at random moments. Nobody waits for them, what was put is
//! there, and what was done is done once.

use std::time::{Duration, Instant};

use proc_core::sync::{Array, Event, Queue, Value};
use proc_core::{Child, StartMethod};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{child, shared_memory};
use crate::support::descriptors::count_descriptors;
use crate::support::{Arguments, SOON, start};

programs![storm];

tests! {
    killed_producers_lose_nothing_that_they_have_put: forkserver spawn fork;
    killed_consumers_lose_one_item_each: forkserver spawn fork;
    killed_consumers_with_leases_lose_nothing: forkserver spawn fork;
    producers_and_consumers_are_killed: forkserver spawn fork;
    producers_and_consumers_with_leases_are_killed: forkserver spawn fork;
}

/// How long processes are killed.
const STORM: Duration = Duration::from_secs(4);

/// The most producers that a storm starts in all (three at a time), and the most items of one.
const PRODUCERS: usize = 1024;
const ITEMS: usize = 2048;

/// A producer, the number of its item, and some bytes.
type Item = (usize, usize, ByteBuf);

/// What all processes of a storm have.
#[derive(Clone, Serialize, Deserialize)]
struct Common {
    queue: Queue<Item>,
    /// For each producer, how many items it knows that it has put.
    put: Array<u32>,
    /// For each item, how often a consumer has got it or begun with it.
    begun: Array<u8>,
    /// For each item, how often a consumer was done with it.
    done: Array<u8>,
    /// Grows as long as something goes on.
    steps: Value<u64>,
    stop: Event,
}

fn bytes_of(producer: usize, number: usize) -> ByteBuf {
    let len = match (producer * 7 + number * 31) % 97 {
        0 => 1_200_000,
        1 | 2 => 300_000,
        3..=8 => 70_000,
        9..=20 => 3000,
        rest => rest,
    };
    ByteBuf::from(vec![(producer + number) as u8; len])
}

fn produce((common, producer): (Common, usize)) {
    let mut number = 0;
    while number < ITEMS && !common.stop.is_set() {
        if common.queue.len() > 300 {
            std::thread::sleep(Duration::from_millis(1)); // the consumers catch up
            continue;
        }
        let item = |number| (producer, number, bytes_of(producer, number));
        let count = if number % 5 == 0 { 3.min(ITEMS - number) } else { 1 };
        match count {
            1 => common.queue.put(item(number)).expect("the queue is open"),
            // The items are put one by one, but the producer notes them only when all are put.
            _ => common.queue.put_all((number..number + count).map(item)).expect("it is open"),
        }
        number += count;
        common.put.set(producer, number as u32);
        common.steps.fetch_add(1);
    }
}

fn mark(marks: &Array<u8>, (producer, number, bytes): &Item) {
    assert_eq!(*bytes, bytes_of(*producer, *number), "item {number} of producer {producer}");
    marks.update(producer * ITEMS + number, |count| *count += 1);
}

fn consume((common, leases): (Common, bool)) {
    loop {
        let error = match leases {
            true => match common.queue.lease() {
                Ok(item) => {
                    mark(&common.begun, &item);
                    mark(&common.done, &item.done());
                    common.steps.fetch_add(1);
                    continue;
                }
                Err(error) => error,
            },
            false => match common.queue.get() {
                Ok(item) => {
                    mark(&common.begun, &item);
                    common.steps.fetch_add(1);
                    continue;
                }
                Err(error) => error,
            },
        };
        assert!(error.is_closed(), "{error}");
        return;
    }
}

/// Words: who is killed, how items are taken, the bound of the queue, a seed.
fn storm(arguments: &Arguments) {
    let [killed, taken, bound, seed] = &arguments.rest[..] else { panic!("four words") };
    let seed: u64 = seed.parse().expect("a number");
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let leases = taken == "lease";
    let queue = match bound.parse().expect("a number") {
        0 => Queue::new(),
        bound => Queue::bounded(bound),
    };
    let zeros = || Array::zeroed(PRODUCERS * ITEMS).expect("there is memory");
    let common = Common {
        queue: queue.expect("there is memory"),
        put: Array::zeroed(PRODUCERS).expect("there is memory"),
        begun: zeros(),
        done: zeros(),
        steps: Value::new(0).expect("there is memory"),
        stop: Event::new().expect("there is memory"),
    };
    let mut producers = 0;
    let mut produce_next = || -> Child<()> {
        producers += 1;
        child(arguments, produce, (common.clone(), producers - 1))
    };
    let consume_next = || -> Child<()> { child(arguments, consume, (common.clone(), leases)) };
    let mut producing: Vec<Child<()>> = (0..3).map(|_| produce_next()).collect();
    let mut consuming: Vec<Child<()>> = (0..3).map(|_| consume_next()).collect();
    let descriptors = count_descriptors();
    let (begin, mut kills, mut longest) = (Instant::now(), [0, 0], Duration::ZERO);
    while begin.elapsed() < STORM && kills[0] < PRODUCERS - 10 {
        let before = common.steps.get();
        std::thread::sleep(Duration::from_micros(random.u64(0..6000))); // a random moment
        let kills_producer = match killed.as_str() {
            "producers" => true,
            "consumers" => false,
            _ => random.bool(),
        };
        let at = random.usize(0..3);
        let old = match kills_producer {
            true => std::mem::replace(&mut producing[at], produce_next()),
            false => std::mem::replace(&mut consuming[at], consume_next()),
        };
        kills[usize::from(!kills_producer)] += 1;
        old.kill().expect("it is a child");
        let _ = old.join(); // a producer may have put all its items
        // The others go on.
        let wait = Instant::now();
        while common.steps.get() == before {
            assert!(wait.elapsed() < SOON, "nothing goes on after {kills:?} kills");
            std::thread::sleep(Duration::from_micros(100));
            for producer in &mut producing {
                if !producer.is_alive() {
                    *producer = produce_next();
                }
            }
        }
        longest = longest.max(wait.elapsed());
    }
    assert!(kills[0] + kills[1] >= 30, "{kills:?}");
    println!("{kills:?} kills, the longest wait was {longest:?}");
    assert!(count_descriptors() <= descriptors + 12, "{} {descriptors}", count_descriptors());
    common.stop.set();
    producing.into_iter().for_each(|producer| producer.join().expect("it returns"));
    common.queue.close();
    consuming.into_iter().for_each(|consumer| consumer.join().expect("it returns"));
    // Leases of the killed may have come back after the last consumer has seen the end.
    while let Ok(item) = common.queue.lease() {
        mark(&common.begun, &item);
        mark(&common.done, &item.done());
    }
    assert!(common.queue.join_timeout(SOON).expect("it can wait"), "all is done");
    assert_eq!(common.queue.len(), 0);
    let (put, begun, done) =
        (common.put.snapshot(), common.begun.snapshot(), common.done.snapshot());
    let mut lost = 0;
    for (producer, put) in put.iter().enumerate().take(producers) {
        for number in 0..ITEMS {
            let index = producer * ITEMS + number;
            assert!(done[index] <= 1, "item {number} of producer {producer} was done twice");
            if leases {
                // A consumer that was killed just after it was done could not note that.
                lost += usize::from(begun[index] > 0 && done[index] == 0);
            } else {
                assert!(begun[index] <= 1, "item {number} of producer {producer} came twice");
            }
            let is_lost = number < *put as usize && begun[index] == 0;
            assert!(!is_lost || !leases, "item {number} of producer {producer} is lost");
            lost += usize::from(is_lost);
        }
    }
    assert!(lost <= kills[1], "{lost} items are lost");
    println!("{} items", put.iter().sum::<u32>());
    drop(common.begun);
    drop(common.done);
    let left = shared_memory();
    println!("{left} bytes of memory are left");
    assert!(left < 8 << 20, "{left} bytes of memory are left");
}

fn run_storms(start_method: StartMethod, killed: &str, taken: &str) {
    for bound in ["0", "5"] {
        let seed = fastrand::u64(..).to_string();
        let program = start(storm, start_method, &[killed, taken, bound, &seed]);
        let finished = program.finish();
        eprintln!("{killed} {taken} {bound}: {}", finished.stdout.replace('\n', ", "));
        finished.succeeded();
    }
}

fn killed_producers_lose_nothing_that_they_have_put(start_method: StartMethod) {
    run_storms(start_method, "producers", "lease");
    run_storms(start_method, "producers", "get");
}

fn killed_consumers_lose_one_item_each(start_method: StartMethod) {
    run_storms(start_method, "consumers", "get");
}

fn killed_consumers_with_leases_lose_nothing(start_method: StartMethod) {
    run_storms(start_method, "consumers", "lease");
}

fn producers_and_consumers_are_killed(start_method: StartMethod) {
    run_storms(start_method, "both", "get");
}

fn producers_and_consumers_with_leases_are_killed(start_method: StartMethod) {
    run_storms(start_method, "both", "lease");
}
