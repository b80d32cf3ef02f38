//! `map`, `try_map` and `apply`: numbers and types of inputs, and how tasks are shared out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proc_core::StartMethod;
use serde::{Deserialize, Serialize};

use crate::support::marker_files::{self, MarkerFiles};
use crate::support::{Arguments, assert_snapshot, describe, print_results, run};

programs![
    tasks_behind_a_stuck_task,
    numbers_of_inputs,
    million_tasks_and_texts,
    ten_million_inputs,
    results_of_many_types
];

tests! {
    idle_workers_get_what_waits_behind_a_stuck_task: forkserver spawn fork;
    every_number_of_inputs_works: forkserver spawn fork;
    million_tasks: forkserver spawn fork;
    #[ignore = "slow in debug builds"]
    ten_million_items;
    functions_own_results_are_plain_data: forkserver spawn fork;
}

/// One task waits for nearly all later tasks. So idle workers must get the tasks that were claimed
/// with it.
fn tasks_behind_a_stuck_task(arguments: &Arguments) {
    let workers = arguments.number();
    let pool = arguments.pool(workers);
    for (chunksize, waits_for) in [(Some(1), 1501), (Some(7), 1505), (None, 1530)] {
        let marks = MarkerFiles::new();
        let path = marks.path("");
        // The first tasks are cheap, so that later chunks have many tasks.
        let task = |(task, waits_for, marks): (usize, usize, PathBuf)| {
            match task {
                1500 => (waits_for..1800).for_each(|task| {
                    marker_files::wait_for(&marks.join(task.to_string()));
                }),
                1501.. => assert!(marker_files::create(&marks.join(task.to_string()))),
                _ => {}
            }
            task
        };
        let options = pool.options();
        let options = match chunksize {
            Some(tasks) => options.chunksize(tasks),
            None => options,
        };
        let inputs = (0..1800).map(|task| (task, waits_for, path.clone()));
        let results = options.map(task, inputs).expect("nothing fails");
        assert!(results.into_iter().eq(0..1800));
        println!("chunks of {chunksize:?}: all done");
    }
}

fn idle_workers_get_what_waits_behind_a_stuck_task(start_method: StartMethod) {
    for workers in ["2", "5"] {
        let finished = run(tasks_behind_a_stuck_task, start_method, &[workers]);
        let expected = ["Some(1)", "Some(7)", "None"].map(|c| format!("chunks of {c}: all done\n"));
        assert_eq!(finished.succeeded(), expected.concat());
    }
}

/// Calls with different numbers of inputs and chunk sizes.
fn numbers_of_inputs(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let add = |x: u32| x + 1;
    for len in [0, 1, 2, 3, 255, 256, 257, 5000] {
        let expected: Vec<u32> = (1..=len).collect();
        assert_eq!(pool.map(add, 0..len).expect("nothing fails"), expected);
        for chunksize in [1, 2, 100, 4999, 100_000, usize::MAX] {
            let options = pool.options().chunksize(chunksize);
            assert_eq!(options.map(add, 0..len).expect("nothing fails"), expected);
            let imap: Result<Vec<u32>, _> = options.imap(add, 0..len).collect();
            assert_eq!(imap.expect("nothing fails"), expected);
        }
    }
    println!("empty {:?}", pool.map(add, std::iter::empty()).expect("nothing fails"));
    println!("one {:?}", pool.map(add, [1]).expect("nothing fails"));
    let zero = pool.options().chunksize(0);
    println!("map: {}", describe(&zero.map(add, 0..3).expect_err("it is refused")));
    print_results(zero.try_map(add, 0..3));
    println!("apply_async: {}", describe(&zero.apply_async(add, 0).expect_err("it is refused")));
    // One error, not an endless sequence of errors.
    let errors: Vec<_> = zero.imap(add, 0..3).take(10).map(|r| describe(&r.unwrap_err())).collect();
    println!("imap: {errors:?}");
}

fn every_number_of_inputs_works(start_method: StartMethod) {
    assert_snapshot("sizes", 2, run(numbers_of_inputs, start_method, &[]).succeeded());
}

fn million_tasks_and_texts(arguments: &Arguments) {
    const TASKS: u64 = 1_000_000;
    let pool = arguments.pool(2);
    let results = pool.map(|x: u64| x * 2, 0..TASKS).expect("nothing fails");
    assert!(results.into_iter().eq((0..TASKS).map(|x| x * 2)));
    let lengths = pool.map(|s: String| s.len(), (0..TASKS / 10).map(|x| x.to_string()));
    let lengths = lengths.expect("nothing fails");
    assert!(lengths.into_iter().eq((0..TASKS / 10).map(|x| x.to_string().len())));
    println!("a million");
}

fn million_tasks(start_method: StartMethod) {
    assert_eq!(run(million_tasks_and_texts, start_method, &[]).succeeded(), "a million\n");
}

/// A list of ten million, as inputs, and as one argument and one result.
fn ten_million_inputs(arguments: &Arguments) {
    const ITEMS: u32 = 10_000_000;
    let pool = arguments.pool(2);
    let results = pool.map(|x: u32| x + 1, 0..ITEMS).expect("nothing fails");
    assert!(results.into_iter().eq(1..=ITEMS));
    let reverse = |mut items: Vec<u32>| {
        items.reverse();
        items
    };
    let list = pool.apply(reverse, (0..ITEMS).collect()).expect("nothing fails");
    assert!(list.into_iter().eq((0..ITEMS).rev()));
    println!("ten million");
}

/// `cargo test --release -p proc-tests --test it ten_million -- --ignored`
fn ten_million_items() {
    for start_method in [StartMethod::Forkserver, StartMethod::Spawn, StartMethod::Fork] {
        assert_eq!(run(ten_million_inputs, start_method, &[]).succeeded(), "ten million\n");
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum OwnError {
    Odd { number: u32 },
    Large(String),
}

/// Functions that return a `Result`, and values of many types.
fn results_of_many_types(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let halve = |x: u32| -> Result<u32, OwnError> {
        match x {
            100.. => Err(OwnError::Large(format!("{x} is too large"))),
            _ if x % 2 == 1 => Err(OwnError::Odd { number: x }),
            _ => Ok(x / 2),
        }
    };
    println!("{:?}", pool.map(halve, [4, 5, 100]).expect("nothing fails"));
    println!("{:?}", pool.apply(halve, 7).expect("nothing fails"));
    println!(
        "{:?}",
        pool.map(|(a, b): (u32, u32)| a + b, [(1, 2), (3, 4)]).expect("nothing fails")
    );
    println!("{:?}", pool.apply(|()| (), ()).expect("nothing fails"));
    println!("{:?}", pool.map(|x: Option<f64>| x, [None, Some(0.5)]).expect("nothing fails"));
    let text = |x: (char, String, Vec<u8>, BTreeMap<String, i128>)| x;
    let value =
        ('ü', "\0 text".to_owned(), vec![0, 255], BTreeMap::from([("a".to_owned(), i128::MIN)]));
    assert_eq!(pool.apply(text, value.clone()).expect("nothing fails"), value);
    let units = pool.apply(|units: Vec<()>| units, vec![(); 1000]).expect("nothing fails");
    assert_eq!(units.len(), 1000);
}

fn functions_own_results_are_plain_data(start_method: StartMethod) {
    assert_snapshot("own_results", 2, run(results_of_many_types, start_method, &[]).succeeded());
}
