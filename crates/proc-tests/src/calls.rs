//! Calls as they should be: windows, sizes, replaced workers.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use proc_core::{ErrorKind, Pool};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::life::children;
use crate::marks::{self, Marks};
use crate::{Arguments, Scenario, describe, print_fates, work_for_ever};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("max-tasks", max_tasks),
    ("imap-window", imap_window),
    ("imap-stuck", imap_stuck),
    ("shared-chunks", shared_chunks),
    ("imap-dropped", imap_dropped),
    ("imap-order", imap_order),
    ("imap-input-panics", imap_input_panics),
    ("sizes", sizes),
    ("million", million),
    ("ten-million", ten_million),
    ("huge-values", huge_values),
    ("refused-numbers", refused_numbers),
    ("own-results", own_results),
    ("apply-async", apply_async),
    ("large-values", large_values),
];

/// The window that the documentation of `imap` names.
fn window(workers: usize) -> usize {
    (16 * workers).max(64)
}

/// One worker, two tasks each, 100 tasks.
fn max_tasks(arguments: &Arguments) {
    let pool = Pool::builder()
        .processes(1)
        .start_method(arguments.context)
        .max_tasks_per_child(2)
        .build()
        .expect("the pool can be built");
    let task = |task: u32| (task, std::process::id());
    let results = match arguments.number() {
        0 => pool.map(task, 0..100),
        chunksize => pool.options().chunksize(chunksize).map(task, 0..100),
    };
    let results = results.expect("nothing fails");
    assert!(results.iter().map(|(task, _)| *task).eq(0..100));
    let mut tasks = BTreeMap::<u32, u32>::new();
    for (_, pid) in &results {
        *tasks.entry(*pid).or_default() += 1;
    }
    println!("{} processes", tasks.len());
    println!("at most {} tasks in one", tasks.values().max().expect("there are some"));
}

/// An endless input and a consumer that takes one result at a time.
fn imap_window(arguments: &Arguments) {
    let workers = arguments.number();
    let pool = arguments.pool(workers);
    for chunksize in [None, Some(1), Some(7)] {
        let taken = Cell::new(0);
        let inputs = (0_usize..).inspect(|_| taken.set(taken.get() + 1));
        let options = pool.options();
        let options = match chunksize {
            Some(tasks) => options.chunksize(tasks),
            None => options,
        };
        let mut results = options.imap(|x: usize| 2 * x, inputs);
        assert_eq!(taken.get(), 0, "nothing is taken before it is asked for");
        let mut most = 0;
        for consumed in 0..2000 {
            assert_eq!(
                results.next().expect("it is endless").expect("nothing fails"),
                2 * consumed
            );
            most = most.max(taken.get() - consumed);
        }
        assert!(most <= window(workers), "{most} ahead with chunks of {chunksize:?}");
        assert!(most > workers, "only {most} ahead, so workers wait");
    }
    println!("never more than the window ahead");
}

/// The first task waits for the twentieth: results arrive out of order, inputs stay in the window.
fn imap_stuck(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let marks = Marks::new();
    let taken = Cell::new(0);
    let path = marks.path("twentieth");
    let inputs = (0_usize..).map(|task| (task, path.clone()));
    let inputs = inputs.inspect(|_| taken.set(taken.get() + 1));
    let task = |(task, mark): (usize, PathBuf)| {
        match task {
            0 => marks::wait_for(&mark),
            20 => assert!(marks::leave(&mark)),
            _ => {}
        }
        task
    };
    let mut results = pool.imap(task, inputs);
    for expected in 0..200 {
        assert_eq!(results.next().expect("it is endless").expect("nothing fails"), expected);
        assert!(taken.get() - expected <= window(2), "{} after {expected}", taken.get());
    }
    println!("in order");
}

/// One task waits for all that come after its step: idle workers get what was claimed with it.
fn shared_chunks(arguments: &Arguments) {
    let workers = arguments.number();
    let pool = arguments.pool(workers);
    for (chunksize, waits_for) in [(Some(1), 1501), (Some(7), 1505), (None, 1530)] {
        let marks = Marks::new();
        let path = marks.path("");
        // The first tasks cost next to nothing, so that later chunks have many.
        let task = |(task, waits_for, marks): (usize, usize, PathBuf)| {
            match task {
                1500 => (waits_for..1800).for_each(|task| {
                    marks::wait_for(&marks.join(task.to_string()));
                }),
                1501.. => assert!(marks::leave(&marks.join(task.to_string()))),
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

/// One result is taken while every other task is stuck; then the iterator is dropped.
fn imap_dropped(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let marks = Marks::new();
    let path = marks.path("");
    // Inputs are taken while a result is waited for: the first one's comes when 2 is on its way
    // too.
    let inputs = (0_u32..).map(|task| {
        if task == 3 {
            marks::leave(&path.join("sent"));
        }
        (task, path.clone())
    });
    let task = |(task, marks): (u32, PathBuf)| {
        match task {
            0 => marks::wait_for(&marks.join("sent")),
            1 => {
                marks::leave(&marks.join("stuck"));
                marks::wait_for(&marks.join("free"));
            }
            _ => {
                marks::leave(&marks.join(task.to_string()));
                marks::wait_for(&marks.join("free"));
            }
        }
        task
    };
    let mut results = pool.imap(task, inputs);
    assert_eq!(results.next().expect("it is endless").expect("nothing fails"), 0);
    marks::wait_for(&marks.path("stuck"));
    marks::wait_for(&marks.path("2"));
    let start = Instant::now();
    drop(results);
    let took = start.elapsed();
    assert!(took < Duration::from_millis(500), "{took:?}");
    marks::leave(&marks.path("free"));
    // Both workers are free again, and nothing of the dropped call was begun.
    assert_eq!(pool.map(|x: u32| x, 0..100).expect("nothing fails").len(), 100);
    assert!(!marks.path("3").exists() && !marks.path("4").exists());
    let unused = pool.imap(|x: u32| x, 0..);
    drop(unused);
    println!("dropped");
}

/// Ordered and unordered, with failures in between.
fn imap_order(arguments: &Arguments) {
    let pool = arguments.pool(3);
    let task = |x: u32| {
        assert!(x % 10 != 7, "no {x}");
        x
    };
    for chunksize in [1, 4] {
        let results = pool.options().chunksize(chunksize).imap(task, 0..300);
        for (index, result) in results.enumerate() {
            check(index, result);
        }
        let results = pool.options().chunksize(chunksize).imap_unordered(task, 0..300);
        let mut seen = vec![0; 300];
        for result in results {
            let index = match &result {
                Ok(x) => *x as usize,
                Err(error) => error.task().expect("a task panicked"),
            };
            seen[index] += 1;
            check(index, result);
        }
        assert!(seen.iter().all(|times| *times == 1), "{seen:?}");
    }
    assert!(pool.imap(task, 0..0).next().is_none());
    assert!(pool.imap_unordered(task, 0..0).next().is_none());
    println!("each one once");

    fn check(index: usize, result: Result<u32, proc_core::Error>) {
        match result {
            Ok(x) => assert!(x as usize == index && index % 10 != 7),
            Err(error) => {
                assert_eq!(error.task(), Some(index));
                assert_eq!(error.panic_message(), Some(format!("no {index}").as_str()));
            }
        }
    }
}

/// The caller's own iterator panics.
fn imap_input_panics(arguments: &Arguments) {
    let pool = arguments.pool(2);
    std::panic::set_hook(Box::new(|_| {}));
    let inputs = || (0..10).inspect(|x| assert!(*x != 5, "no more input"));
    for run in 0..3 {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match run {
            0 => pool.map(|x: u32| x, inputs()).map(|results| results.len()),
            1 => pool.imap(|x: u32| x, inputs()).collect::<Result<Vec<_>, _>>().map(|r| r.len()),
            _ => Ok(pool.try_map(|x: u32| x, inputs()).len()),
        }));
        let payload = outcome.expect_err("it is the caller's panic");
        assert_eq!(payload.downcast_ref(), Some(&"no more input"));
    }
    println!("{:?}", pool.map(|x: u32| x, 0..3).expect("the pool goes on"));
}

/// Inputs of every number.
fn sizes(arguments: &Arguments) {
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
    print_fates(zero.try_map(add, 0..3));
    println!("apply_async: {}", describe(&zero.apply_async(add, 0).expect_err("it is refused")));
    // An error, not an endless row of them.
    let errors: Vec<_> = zero.imap(add, 0..3).take(10).map(|r| describe(&r.unwrap_err())).collect();
    println!("imap: {errors:?}");
}

fn million(arguments: &Arguments) {
    const TASKS: u64 = 1_000_000;
    let pool = arguments.pool(2);
    let results = pool.map(|x: u64| x * 2, 0..TASKS).expect("nothing fails");
    assert!(results.into_iter().eq((0..TASKS).map(|x| x * 2)));
    let lengths = pool.map(|s: String| s.len(), (0..TASKS / 10).map(|x| x.to_string()));
    let lengths = lengths.expect("nothing fails");
    assert!(lengths.into_iter().eq((0..TASKS / 10).map(|x| x.to_string().len())));
    println!("a million");
}

/// A list of ten million, as inputs, and as one argument and one result.
fn ten_million(arguments: &Arguments) {
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

/// An argument, then a result, of so many GiB and a byte.
fn huge_values(arguments: &Arguments) {
    let len = (arguments.number() << 30) + 1;
    let pool = arguments.pool(1);
    let ends = |bytes: ByteBuf| (bytes.len(), bytes.first().copied(), bytes.last().copied());
    let argument = pool.apply(ends, ByteBuf::from(vec![7; len])).expect("there is memory");
    assert_eq!(argument, (len, Some(7), Some(7)));
    let result = pool.apply(|len: usize| ByteBuf::from(vec![8; len]), len);
    assert_eq!(ends(result.expect("there is memory")), (len, Some(8), Some(8)));
    println!("huge");
}

/// Numbers that make no pool.
fn refused_numbers(arguments: &Arguments) {
    let build = |processes, tasks: Option<u64>| {
        let builder = Pool::builder().processes(processes).start_method(arguments.context);
        let builder = match tasks {
            Some(tasks) => builder.max_tasks_per_child(tasks),
            None => builder,
        };
        println!("{}", describe(&builder.build().expect_err("it is refused")));
    };
    build(0, None);
    build(10_000, None);
    build(usize::MAX, None);
    build(2, Some(0));
    // Nothing was started: only the fork server that init made is there.
    println!("children {}", children().len());
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum OwnError {
    Odd { number: u32 },
    Large(String),
}

/// Functions that return results of their own, and values of many shapes.
fn own_results(arguments: &Arguments) {
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

/// Results that are fetched later.
fn apply_async(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let marks = Marks::new();
    let wait = |mark: PathBuf| {
        marks::wait_for(&mark);
        5
    };
    let mut task = pool.apply_async(wait, marks.path("go")).expect("the pool is open");
    assert!(!task.is_ready());
    let start = Instant::now();
    let early = task.get_timeout(Duration::from_millis(50)).expect("it runs");
    assert_eq!(early, None, "it waits for the mark");
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert!(!task.is_ready());
    let mut task = pool.apply_async(wait, marks.path("go")).expect("the pool is open");
    marks::leave(&marks.path("go"));
    let result = task.get_timeout(Duration::from_secs(30)).expect("it returns");
    println!("{:?}", result.expect("the mark is there"));
    assert!(task.is_ready() && !task.cancel());
    let again = task.get_timeout(Duration::from_secs(30)).expect_err("it was given");
    assert_eq!(again.kind(), ErrorKind::Invalid, "{again}");
    println!("{}", describe(&pollster::block_on(task).expect_err("it was given")));
    let mut task = pool.apply_async(|x: u32| x, 1).expect("the pool is open");
    marks::wait_until(|| task.is_ready());
    println!("{:?}", task.get().expect("it returns"));
    // Nobody waits for these; they run all the same.
    for number in 0..20 {
        let leave = |mark: PathBuf| assert!(marks::leave(&mark));
        drop(pool.apply_async(leave, marks.path(&number.to_string())).expect("the pool is open"));
    }
    (0..20).for_each(|number| marks::wait_for(&marks.path(&number.to_string())));
    let stuck = pool.apply_async(|()| work_for_ever(), ()).expect("the pool is open");
    drop(pool);
    println!("{}", describe(&stuck.get().expect_err("the pool was dropped")));
}

/// 64 MiB there and back, alone and in a chunk with small ones.
fn large_values(arguments: &Arguments) {
    const LARGE: usize = 64 << 20;
    let pool = arguments.pool(2);
    let echo = |bytes: ByteBuf| bytes;
    let sizes = [0, LARGE, 1, 0, 5000];
    let inputs = sizes.iter().zip(1..).map(|(len, byte)| ByteBuf::from(vec![byte; *len]));
    let results = pool.options().chunksize(3).map(echo, inputs).expect("nothing fails");
    for ((len, byte), result) in sizes.iter().zip(1_u8..).zip(results) {
        assert!(result == vec![byte; *len]);
    }
    // A large result of a small argument, and the other way round.
    let long = |len: usize| "y".repeat(len);
    let results = pool.map(long, [1, LARGE / 16, 2]).expect("nothing fails");
    assert!(results.iter().map(String::len).eq([1, LARGE / 16, 2]));
    let length = pool.apply(|text: String| text.len(), "x".repeat(LARGE / 16));
    assert_eq!(length.expect("it returns"), LARGE / 16);
    // Element by element.
    let numbers: Vec<u16> = (0..=u16::MAX).cycle().take(100_000).collect();
    assert!(
        pool.apply(|numbers: Vec<u16>| numbers, numbers.clone()).expect("it returns") == numbers
    );
    println!("large");
}
