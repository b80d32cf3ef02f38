//! `imap` and `imap_unordered`: their window, their order, and inputs that are slow or panic.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use proc_core::StartMethod;
use serde_bytes::ByteBuf;

use crate::support::marker_files::{self, MarkerFiles};
use crate::support::{Arguments, SOON, run, wait_until};

programs![
    imap_window,
    imap_of_large_inputs,
    imap_with_a_stuck_task,
    drop_imap,
    imap_order,
    input_panics,
    input_waits_for_a_result
];

tests! {
    imap_stays_in_its_window: forkserver spawn fork;
    imap_takes_few_large_inputs_ahead: forkserver spawn fork;
    imap_keeps_its_window_while_one_task_is_stuck: forkserver spawn fork;
    dropped_imap_drops_the_rest: forkserver spawn fork;
    imap_gives_each_result_once: forkserver spawn fork;
    panic_of_the_input_reaches_the_caller: forkserver spawn fork;
    results_do_not_wait_for_slow_inputs: forkserver spawn fork;
}

/// The window that the documentation of `imap` names.
fn window(workers: usize) -> usize {
    (16 * workers).max(64)
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

fn imap_stays_in_its_window(start_method: StartMethod) {
    for workers in ["1", "2", "8"] {
        let finished = run(imap_window, start_method, &[workers]);
        assert_eq!(finished.succeeded(), "never more than the window ahead\n");
    }
}

/// No worker returns a result before the caller sleeps. So the caller takes all inputs that it may
/// take ahead.
fn imap_of_large_inputs(arguments: &Arguments) {
    const LEN: usize = 8 << 20;
    let pool = arguments.pool(2);
    let marks = MarkerFiles::new();
    let free = marks.path("free");
    let caller = std::process::id();
    let task = |(free, bytes): (PathBuf, ByteBuf)| {
        marker_files::wait_for(&free);
        bytes.len()
    };
    for is_ordered in [true, false] {
        let taken = AtomicUsize::new(0);
        let inputs = (0..64).map(|_| {
            taken.fetch_add(1, Ordering::Relaxed);
            (free.clone(), ByteBuf::from(vec![0; LEN]))
        });
        std::thread::scope(|scope| {
            scope.spawn(|| {
                wait_until(|| taken.load(Ordering::Relaxed) > 2 && stays_asleep(caller));
                marker_files::create(&free);
            });
            let first = match is_ordered {
                true => pool.imap(task, inputs).next(),
                false => pool.imap_unordered(task, inputs).next(),
            };
            assert_eq!(first.expect("there are inputs").expect("nothing fails"), LEN);
        });
        let taken = taken.into_inner();
        assert!((3..12).contains(&taken), "{taken} inputs of 8 MiB");
        std::fs::remove_file(&free).expect("it was made");
    }
    println!("few");
}

/// Whether the main thread of a process sleeps whenever it is looked at.
fn stays_asleep(pid: u32) -> bool {
    (0..50).all(|_| {
        std::thread::sleep(Duration::from_millis(1));
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
        stat.contains(") S ")
    })
}

fn imap_takes_few_large_inputs_ahead(start_method: StartMethod) {
    assert_eq!(run(imap_of_large_inputs, start_method, &[]).succeeded(), "few\n");
}

/// Task 0 waits for task 20: results arrive out of order, inputs stay in the window.
fn imap_with_a_stuck_task(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let marks = MarkerFiles::new();
    let taken = Cell::new(0);
    let path = marks.path("20");
    let inputs = (0_usize..).map(|task| (task, path.clone()));
    let inputs = inputs.inspect(|_| taken.set(taken.get() + 1));
    let task = |(task, mark): (usize, PathBuf)| {
        match task {
            0 => marker_files::wait_for(&mark),
            20 => assert!(marker_files::create(&mark)),
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

fn imap_keeps_its_window_while_one_task_is_stuck(start_method: StartMethod) {
    assert_eq!(run(imap_with_a_stuck_task, start_method, &[]).succeeded(), "in order\n");
}

/// One result is taken while every other task is stuck; then the iterator is dropped.
fn drop_imap(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let marks = MarkerFiles::new();
    let path = marks.path("");
    // Inputs are taken while the caller waits for a result. The first result comes when input 2 was
    // sent too.
    let inputs = (0_u32..).map(|task| {
        if task == 3 {
            marker_files::create(&path.join("sent"));
        }
        (task, path.clone())
    });
    let task = |(task, marks): (u32, PathBuf)| {
        match task {
            0 => marker_files::wait_for(&marks.join("sent")),
            1 => {
                marker_files::create(&marks.join("stuck"));
                marker_files::wait_for(&marks.join("free"));
            }
            _ => {
                marker_files::create(&marks.join(task.to_string()));
                marker_files::wait_for(&marks.join("free"));
            }
        }
        task
    };
    let mut results = pool.imap(task, inputs);
    assert_eq!(results.next().expect("it is endless").expect("nothing fails"), 0);
    marker_files::wait_for(&marks.path("stuck"));
    marker_files::wait_for(&marks.path("2"));
    let start = Instant::now();
    drop(results);
    let took = start.elapsed();
    assert!(took < SOON, "{took:?}");
    marker_files::create(&marks.path("free"));
    // Both workers are free again, and started no other task of the dropped call.
    assert_eq!(pool.map(|x: u32| x, 0..100).expect("nothing fails").len(), 100);
    assert!(!marks.path("3").exists() && !marks.path("4").exists());
    let unused = pool.imap(|x: u32| x, 0..);
    drop(unused);
    println!("dropped");
}

fn dropped_imap_drops_the_rest(start_method: StartMethod) {
    assert_eq!(run(drop_imap, start_method, &[]).succeeded(), "dropped\n");
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

fn imap_gives_each_result_once(start_method: StartMethod) {
    assert_eq!(run(imap_order, start_method, &[]).succeeded(), "each one once\n");
}

/// The caller's own iterator panics.
fn input_panics(arguments: &Arguments) {
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

fn panic_of_the_input_reaches_the_caller(start_method: StartMethod) {
    assert_eq!(run(input_panics, start_method, &[]).succeeded(), "[0, 1, 2]\n");
}

fn increment(x: u32) -> u32 {
    x + 1
}

/// The input gives its third item only after the first result was received.
fn input_waits_for_a_result(arguments: &Arguments) {
    // One worker, so the result of a task comes after the results of earlier tasks.
    let pool = arguments.pool(1);
    for ordered in [true, false] {
        let (send, third) = mpsc::channel();
        let inputs = (0..3).inspect(|number| match number {
            1 => drop(pool.apply(increment, 0).expect("nothing fails")),
            2 => third.recv().expect("the first result is there"),
            _ => {}
        });
        let print = |first: Option<Result<u32, _>>| {
            println!("{:?}", first.map(|result| result.expect("nothing fails")));
        };
        if ordered {
            let mut results = pool.imap(increment, inputs);
            print(results.next());
            send.send(()).expect("it is waited for");
            results.for_each(|result| print(Some(result)));
        } else {
            let mut results = pool.imap_unordered(increment, inputs);
            print(results.next());
            send.send(()).expect("it is waited for");
            results.for_each(|result| print(Some(result)));
        }
    }
}

fn results_do_not_wait_for_slow_inputs(start_method: StartMethod) {
    let results = "Some(1)\nSome(2)\nSome(3)\n";
    assert_eq!(run(input_waits_for_a_result, start_method, &[]).succeeded(), results.repeat(2));
}
