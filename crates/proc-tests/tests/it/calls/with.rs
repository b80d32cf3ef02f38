//! Functions that borrow data: how often the data cross, when they go, and what they may hold.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use proc_core::ipc::{self, IpcSender};
use proc_core::{ErrorKind, Shared, StartMethod};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::support::{Arguments, describe, procfs, run, wait_until};

programs![
    borrow_data,
    count_crossings,
    share_channel_ends,
    fail_to_decode,
    fail_to_encode,
    drop_data,
    hold_many_data,
    outlive_the_handle,
    lose_workers
];

tests! {
    every_call_borrows_data: forkserver spawn fork;
    data_are_encoded_once_and_decoded_once_in_each_worker: forkserver spawn fork;
    channel_ends_and_shared_memory_may_be_part_of_data: forkserver spawn fork;
    data_that_cannot_be_decoded_are_one_error_of_the_call: forkserver spawn fork;
    data_that_cannot_be_encoded_are_the_error_of_each_call: forkserver spawn fork;
    workers_drop_data_that_nobody_has: forkserver spawn fork;
    data_beyond_the_bound_are_fetched_again: forkserver spawn fork;
    calls_keep_their_data: forkserver spawn fork;
    replaced_worker_gets_the_data_too: forkserver spawn fork;
}

/// How many times this process has encoded, decoded and dropped [`Counted`].
static ENCODED: AtomicU32 = AtomicU32::new(0);
static DECODED: AtomicU32 = AtomicU32::new(0);
static DROPPED: AtomicU32 = AtomicU32::new(0);

/// A number that counts how often it crosses.
struct Counted(u64);

impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ENCODED.fetch_add(1, Ordering::Relaxed);
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        DECODED.fetch_add(1, Ordering::Relaxed);
        u64::deserialize(deserializer).map(Counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Makes the usual calls with data, and two of them with a state too.
fn borrow_data(arguments: &Arguments) {
    let pool = arguments.pool_builder(2).state(|from: u64| from, 1).build().expect("it is built");
    let with = pool.with(HashMap::from([("ten".to_owned(), 10_u64)]));
    assert_eq!(with.map(|map, x: u64| map["ten"] * x, 0..1000).expect("nothing fails")[999], 9990);
    assert_eq!(with.apply(|map, x: u64| map["ten"] + x, 1).expect("nothing fails"), 11);
    let task = with.apply_async(|map, x: u64| map["ten"] + x, 2).expect("it is accepted");
    assert_eq!(task.get().expect("nothing fails"), 12);
    let task = with.map_async(|map, x: u64| map["ten"] + x, [3, 4]).expect("it is accepted");
    assert_eq!(task.get().expect("nothing fails"), [13, 14]);
    let fates = with.try_map(|map, x: u64| map["ten"] / x, [5, 0]);
    assert!(fates[0].as_ref().is_ok_and(|half| *half == 2));
    assert!(fates[1].as_ref().is_err_and(|error| error.is_panic() && error.task() == Some(1)));
    let results: Result<Vec<u64>, _> = with.imap(|map, x: u64| map["ten"] - x, 0..100).collect();
    drop(results.expect_err("some are negative"));
    let words = with.imap_unordered(|map, word: String| map.contains_key(&word), ["ten".into()]);
    assert_eq!(words.collect::<Result<Vec<_>, _>>().expect("nothing fails"), [true]);
    let wide = pool.options().chunksize(7).retries(1).with(vec![1_u8; 1 << 20]);
    let lens = wide.map(|bytes, x: usize| bytes.len() + x, 0..100).expect("nothing fails");
    assert!(lens.into_iter().eq((0..100).map(|x| (1 << 20) + x)));
    let both = pool.with(5_u64).with_state();
    let add = |state: &mut u64, five: &u64, x: u64| {
        *state += five * x;
        *state % 5
    };
    assert_eq!(both.map(add, 0..100).expect("nothing fails"), [1; 100]);
    assert_eq!(both.apply(add, 1).expect("nothing fails"), 1);
    let clone = both.clone();
    drop(both);
    assert_eq!(clone.apply(add, 1).expect("nothing fails"), 1);
}

fn every_call_borrows_data(start_method: StartMethod) {
    run(borrow_data, start_method, &[]).succeeded();
}

fn counts(_: &Counted, _: u32) -> (u32, u32) {
    (std::process::id(), DECODED.load(Ordering::Relaxed))
}

/// Counts how often data are encoded and decoded in many calls.
fn count_crossings(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let with = pool.with(Counted(7));
    for _ in 0..10 {
        for (pid, decoded) in with.map(counts, 0..1000).expect("nothing fails") {
            assert!(pool.worker_pids().contains(&pid));
            assert_eq!(decoded, 1, "decoded once in each worker");
        }
        assert_eq!(with.apply(|data, ()| data.0, ()).expect("nothing fails"), 7);
    }
    assert_eq!(ENCODED.load(Ordering::Relaxed), 1);
}

fn data_are_encoded_once_and_decoded_once_in_each_worker(start_method: StartMethod) {
    run(count_crossings, start_method, &[]).succeeded();
}

/// Data with a sender, and with shared memory, in workers that are replaced now and then.
fn share_channel_ends(arguments: &Arguments) {
    let pool = arguments.pool_builder(2).max_tasks_per_child(5).build().expect("it is built");
    let (sender, receiver) = ipc::channel::<u32>().expect("a channel");
    let table = Shared::from_slice(&[2.5_f64; 100_000]).expect("there is memory");
    let with = pool.with((sender, table));
    type Data = (IpcSender<u32>, Shared<f64>);
    let send = |(sender, table): &Data, x: u32| {
        sender.send(x).expect("main receives");
        table[x as usize]
    };
    assert_eq!(with.map(send, 0..50).expect("nothing fails"), [2.5; 50]);
    let mut sent: Vec<u32> = (0..50).map(|_| receiver.recv().expect("it was sent")).collect();
    sent.sort_unstable();
    assert!(sent.into_iter().eq(0..50));
    drop(with);
    drop(pool);
    assert!(receiver.recv().is_err(), "nobody has a sender any more");
}

fn channel_ends_and_shared_memory_may_be_part_of_data(start_method: StartMethod) {
    run(share_channel_ends, start_method, &[]).succeeded();
}

/// A number that can be encoded, but never decoded.
#[derive(Serialize)]
struct Stubborn(u32);

impl<'de> Deserialize<'de> for Stubborn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            0 => panic!("no zero here"),
            number => Err(serde::de::Error::custom(format!("{number} is refused"))),
        }
    }
}

/// Calls whose data cannot be decoded; others go on.
fn fail_to_decode(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let never = |_: &Stubborn, x: u32| x;
    for (stubborn, why) in [(3, "3 is refused"), (0, "no zero here")] {
        let with = pool.with(Stubborn(stubborn));
        let error = with.map(never, 0..1000).expect_err("it cannot be decoded");
        assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
        assert_eq!(error.task(), None, "it is an error of the call");
        assert!(error.pid().is_some() && error.worker().is_some(), "{error}");
        assert!(error.to_string().contains("the data of `with` cannot be decoded"), "{error}");
        assert!(error.to_string().contains(why), "{error}");
        let errors: Vec<_> = with.imap(never, 0..1000).collect();
        assert_eq!(errors.len(), 1, "told once");
        let fates = with.try_map(never, 0..10);
        assert_eq!(fates.len(), 10, "each input has a fate");
        assert!(
            fates.iter().all(|fate| fate.as_ref().is_err_and(|e| e.kind() == ErrorKind::Decode))
        );
        let task = with.apply_async(never, 1).expect("it is accepted");
        assert_eq!(task.get().expect_err("it cannot be decoded").kind(), ErrorKind::Decode);
        assert_eq!(pool.map(|x: u32| x, 0..100).expect("nothing fails").len(), 100);
    }
    println!("{}", describe(&pool.with(Stubborn(3)).apply(never, 1).expect_err("as before")));
}

fn data_that_cannot_be_decoded_are_one_error_of_the_call(start_method: StartMethod) {
    let finished = run(fail_to_decode, start_method, &[]);
    let output = finished.succeeded();
    assert!(output.contains("3 is refused"), "{output}");
}

/// Data that cannot be encoded: every call says why.
fn fail_to_encode(arguments: &Arguments) {
    #[derive(Deserialize)]
    struct Unwritable;
    impl Serialize for Unwritable {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("it is not to be written"))
        }
    }
    let pool = arguments.pool(1);
    let with = pool.with(Unwritable);
    for error in [
        with.map(|_, x: u8| x, [1]).expect_err("it has no data"),
        with.apply(|_, x: u8| x, 1).expect_err("it has no data"),
        with.imap(|_, x: u8| x, [1]).next().expect("an error").expect_err("it has no data"),
        with.try_map(|_, x: u8| x, [1]).remove(0).expect_err("it has no data"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Encode);
        assert!(error.to_string().contains("the data of `with` cannot be encoded"), "{error}");
        assert!(error.to_string().contains("it is not to be written"), "{error}");
    }
}

fn data_that_cannot_be_encoded_are_the_error_of_each_call(start_method: StartMethod) {
    run(fail_to_encode, start_method, &[]).succeeded();
}

/// Workers drop data when the last handle is gone: those that sleep, and those that work.
fn drop_data(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let dropped = |()| DROPPED.load(Ordering::Relaxed);
    let with = pool.with(Counted(1));
    let clone = with.clone();
    with.map(counts, 0..1000).expect("nothing fails");
    drop(with);
    assert_eq!(pool.map(dropped, [(); 100]).expect("nothing fails").iter().max(), Some(&0));
    drop(clone);
    // A worker that has never had the data drops none.
    wait_until(|| pool.map(dropped, [(); 100]).expect("nothing fails").contains(&1));
    let large = pool.with(vec![1_u64; 4 << 20]);
    large.map(|data, x: usize| data[x], 0..1000).expect("nothing fails");
    let used = || pool.worker_pids().into_iter().map(procfs::anonymous_memory).sum::<u64>();
    let before = used();
    assert!(before > 32 << 20, "at least one of them has it");
    drop(large);
    // No call wakes the workers.
    wait_until(|| used() < before - (31 << 20));
}

fn workers_drop_data_that_nobody_has(start_method: StartMethod) {
    run(drop_data, start_method, &[]).succeeded();
}

/// More data at the same time than a worker keeps.
fn hold_many_data(arguments: &Arguments) {
    let pool = arguments.pool(1);
    let all: Vec<_> = (0..200_u64).map(|number| pool.with(Counted(number))).collect();
    for _ in 0..2 {
        for (number, with) in (0..).zip(&all) {
            assert_eq!(with.apply(|data, ()| data.0, ()).expect("nothing fails"), number);
        }
    }
    let counts = |()| (DECODED.load(Ordering::Relaxed), DROPPED.load(Ordering::Relaxed));
    let (decoded, dropped) = pool.apply(counts, ()).expect("nothing fails");
    assert_eq!((decoded, decoded - dropped), (400, 64));
}

fn data_beyond_the_bound_are_fetched_again(start_method: StartMethod) {
    run(hold_many_data, start_method, &[]).succeeded();
}

/// The handle is dropped while calls are open, and nobody waits for them.
fn outlive_the_handle(arguments: &Arguments) {
    static LEFT: AtomicUsize = AtomicUsize::new(0);
    let pool = arguments.pool(2);
    let (sender, receiver) = ipc::channel::<u64>().expect("a channel");
    for number in 0..50 {
        let send = |data: &(IpcSender<u64>, Counted), ()| {
            data.0.send(data.1.0).expect("main receives");
            LEFT.fetch_add(1, Ordering::Relaxed);
        };
        let task = pool.with((sender.clone(), Counted(number))).apply_async(send, ());
        drop(task.expect("it is accepted"));
    }
    drop(sender);
    let mut sent: Vec<u64> = (0..50).map(|_| receiver.recv().expect("it was sent")).collect();
    sent.sort_unstable();
    assert!(sent.into_iter().eq(0..50));
    // The workers drop their senders, although no call follows.
    assert!(receiver.recv().is_err());
}

fn calls_keep_their_data(start_method: StartMethod) {
    run(outlive_the_handle, start_method, &[]).succeeded();
}

/// Workers die of some tasks; the next ones get the data too.
fn lose_workers(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let with = pool.with(vec![9_u64; 100_000]);
    let deadly = |data: &Vec<u64>, x: usize| {
        if x % 10 == 3 {
            std::process::abort();
        }
        data[x]
    };
    let fates = with.try_map(deadly, 0..100);
    for (x, fate) in fates.into_iter().enumerate() {
        match fate {
            Ok(value) => assert!(value == 9 && x % 10 != 3),
            Err(error) => assert!(error.is_death() && x % 10 == 3, "{error}"),
        }
    }
}

fn replaced_worker_gets_the_data_too(start_method: StartMethod) {
    run(lose_workers, start_method, &[]).succeeded();
}
