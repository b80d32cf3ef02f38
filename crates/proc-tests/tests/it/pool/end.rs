//! The end of a pool: dropped, closed, terminated.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use proc_core::{Pool, Process, StartMethod};

use crate::support::marker_files::{self, MarkerFiles};
use crate::support::{Arguments, assert_snapshot, describe, print_results, run, work_forever};

programs![
    building_thread_ends,
    task_waits_for_sigterm,
    time_to_end,
    times_to_end,
    drop_pool_with_tasks,
    terminate_from_a_thread,
    use_closed_pool
];

tests! {
    pool_outlives_the_thread_that_built_it: forkserver spawn;
    terminate_sends_no_sigterm: forkserver spawn fork;
    pool_ends_quickly_whatever_its_workers_do: forkserver spawn fork;
    tasks_of_a_dropped_pool_report_that_it_is_closed: forkserver spawn fork;
    calls_end_when_a_thread_terminates_the_pool: forkserver spawn fork;
    closed_pool_refuses_calls: forkserver spawn fork;
}

/// A pool and a process are started in a thread, which also uses the pool. Both are used after that
/// thread has ended.
fn building_thread_ends(arguments: &Arguments) {
    let marks = MarkerFiles::new();
    let start_method = arguments.start_method;
    let path = marks.path("go");
    let make = move || {
        let pool = Pool::builder().processes(2).start_method(start_method).build();
        let pool = pool.expect("it can be built");
        let pids = pool.map(|_: u32| std::process::id(), 0..50).expect("nothing fails");
        let wait = |mark: PathBuf| {
            marker_files::wait_for(&mark);
            7
        };
        let child =
            Process::new(wait, path).start_method(start_method).start().expect("it can be started");
        (pool, pids, child)
    };
    let (pool, mut pids, child) = std::thread::spawn(make).join().expect("it does not panic");
    pids.extend(pool.map(|_: u32| std::process::id(), 0..50).expect("nothing fails"));
    pids.sort_unstable();
    pids.dedup();
    assert!(pids.len() <= 2, "a worker was replaced: {pids:?}");
    marker_files::create(&marks.path("go"));
    println!("{}", child.join().expect("it lives on"));
}

fn pool_outlives_the_thread_that_built_it(start_method: StartMethod) {
    assert_eq!(run(building_thread_ends, start_method, &[]).succeeded(), "7\n");
}

/// A task waits for SIGTERM; the pool is terminated and joined.
fn task_waits_for_sigterm(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let marks = MarkerFiles::new();
    let task = |(ready, told): (PathBuf, PathBuf)| -> () {
        let signals: SigSet = [Signal::SIGTERM].into_iter().collect();
        signals.thread_block().expect("signals can be blocked");
        marker_files::create(&ready);
        signals.wait().expect("it is blocked");
        marker_files::create(&told);
        work_forever();
    };
    let paths = (marks.path("ready"), marks.path("told"));
    let stuck = pool.apply_async(task, paths).expect("the pool is open");
    marker_files::wait_for(&marks.path("ready"));
    pool.terminate();
    pool.join().expect("it has ended");
    assert!(pool.worker_pids().is_empty());
    println!("{}", describe(&stuck.get().expect_err("it was terminated")));
    println!("told {}", marks.path("told").exists());
}

fn terminate_sends_no_sigterm(start_method: StartMethod) {
    let finished = run(task_waits_for_sigterm, start_method, &[]);
    assert_eq!(finished.succeeded(), "closed | the pool is closed\ntold false\n");
}

/// Ends pools in ten tries. If a pool waited for a worker to end by itself, each try would take
/// half a second. One quick try is enough, because a busy machine may pause.
fn assert_quick(what: &str, mut pool: impl FnMut() -> Pool) {
    let end = |_| {
        let pool = pool();
        let start = Instant::now();
        drop(pool);
        start.elapsed()
    };
    let slow = |took: &Duration| *took >= Duration::from_millis(400);
    let tries: Vec<_> = (0..10).map(end).take_while(slow).collect();
    assert!(tries.len() < 10, "{what}: {tries:?}");
}

/// The same for pools of one worker, which runs a task without end.
fn assert_quick_with_task<F: Fn(PathBuf) + Copy + 'static>(
    what: &str,
    pool: impl Fn() -> Pool,
    task: F,
) {
    let mut results = Vec::new();
    assert_quick(what, || {
        let marks = MarkerFiles::new();
        let pool = pool();
        results.push(pool.apply_async(task, marks.path("busy")).expect("the pool is open"));
        marker_files::wait_for(&marks.path("busy"));
        pool
    });
    for result in results {
        assert!(result.get().expect_err("it was dropped").is_closed());
    }
}

/// Tells whether a pool ends at once. With `Fork`, a program has only one pool.
fn time_to_end(arguments: &Arguments) {
    let pool = arguments.pool(4);
    pool.map(|x: u32| x, 0..100).expect("nothing fails");
    let start = Instant::now();
    drop(pool);
    println!("{}", start.elapsed() < Duration::from_millis(400));
}

/// A pool ends at once if no worker takes time for its own end.
fn times_to_end(arguments: &Arguments) {
    let start_method = arguments.start_method;
    let pool = |processes| {
        let builder = Pool::builder().processes(processes).start_method(start_method);
        builder.build().expect("it can be built")
    };
    assert_quick("just built", || pool(4));
    assert_quick("idle", || {
        let idle = pool(4);
        idle.map(|x: u32| x, 0..100).expect("nothing fails");
        idle
    });
    assert_quick_with_task(
        "asleep",
        || pool(1),
        |mark: PathBuf| {
            marker_files::create(&mark);
            work_forever();
        },
    );
    assert_quick_with_task(
        "spinning",
        || pool(1),
        |mark: PathBuf| {
            marker_files::create(&mark);
            loop {
                std::hint::spin_loop();
            }
        },
    );
    assert_quick_with_task(
        "deaf",
        || pool(1),
        |mark: PathBuf| {
            SigSet::all().thread_block().expect("signals can be blocked");
            marker_files::create(&mark);
            work_forever();
        },
    );
    let slow_initializer = |mark: PathBuf| {
        marker_files::create(&mark);
        work_forever();
    };
    assert_quick("initializing", || {
        let marks = MarkerFiles::new();
        let builder = Pool::builder().processes(1).start_method(start_method);
        let pool = builder.initializer(slow_initializer, marks.path("begun")).build();
        marker_files::wait_for(&marks.path("begun"));
        pool.expect("it can be built")
    });
    println!("quick");
}

fn pool_ends_quickly_whatever_its_workers_do(start_method: StartMethod) {
    if start_method == StartMethod::Fork {
        let is_quick = |_| run(time_to_end, start_method, &[]).succeeded() == "true\n";
        assert!((0..10).any(is_quick), "one quick try is enough");
        return;
    }
    assert_eq!(run(times_to_end, start_method, &[]).succeeded(), "quick\n");
}

fn drop_pool_with_tasks(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let marks = MarkerFiles::new();
    let task = |mark: PathBuf| {
        marker_files::create(&mark);
        work_forever();
    };
    let tasks: Vec<_> = (0..5)
        .map(|task_number| marks.path(&task_number.to_string()))
        .map(|mark| pool.apply_async(task, mark).expect("the pool is open"))
        .collect();
    marker_files::wait_for(&marks.path("0"));
    marker_files::wait_for(&marks.path("1"));
    drop(pool);
    print_results(tasks.into_iter().map(proc_core::Task::get));
    println!("begun {}", (0..5).filter(|n| marks.path(&n.to_string()).exists()).count());
}

fn tasks_of_a_dropped_pool_report_that_it_is_closed(start_method: StartMethod) {
    assert_snapshot("dropped_pool", 2, run(drop_pool_with_tasks, start_method, &[]).succeeded());
}

/// Each of the usual calls waits while another thread terminates the pool.
fn terminate_from_a_thread(arguments: &Arguments) {
    let task = |(task, mark): (u32, PathBuf)| {
        if task > 1 {
            marker_files::create(&mark);
            work_forever();
        }
        task
    };
    let marks = MarkerFiles::new();
    let mark = marks.path("stuck");
    // One worker, so that the first two tasks are done when the third begins.
    let pool = arguments.pool(1);
    let way = arguments.word();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            marker_files::wait_for(&mark);
            pool.terminate();
        });
        let inputs = (0..6).map(|task| (task, mark.clone()));
        let options = pool.options().chunksize(1);
        match way {
            "map" => println!("{}", describe(&options.map(task, inputs).expect_err("it ends"))),
            "try_map" => print_results(options.try_map(task, inputs)),
            "imap" => print_results(options.imap(task, inputs)),
            "apply" => {
                println!(
                    "{}",
                    describe(&pool.apply(task, (2, mark.clone())).expect_err("it ends"))
                );
            }
            other => panic!("no such call: {other}"),
        }
    });
}

fn calls_end_when_a_thread_terminates_the_pool(start_method: StartMethod) {
    for call in ["map", "try_map", "imap", "apply"] {
        let finished = run(terminate_from_a_thread, start_method, &[call]);
        assert_snapshot(&format!("terminated_{call}"), 2, finished.succeeded());
    }
}

/// Calls of a pool that was closed, joined or terminated.
fn use_closed_pool(arguments: &Arguments) {
    let pool = arguments.pool(2);
    println!("join: {}", describe(&pool.join().expect_err("it is open")));
    let tasks: Vec<_> =
        (0..20).map(|x| pool.apply_async(|x: u32| x, x).expect("the pool is open")).collect();
    pool.close();
    println!("apply_async: {}", describe(&pool.apply_async(|x: u32| x, 1).expect_err("closed")));
    pool.join().expect("what was asked for is done");
    let results: Result<Vec<u32>, _> = tasks.into_iter().map(proc_core::Task::get).collect();
    assert!(results.expect("nothing fails").into_iter().eq(0..20));
    println!("map: {}", describe(&pool.map(|x: u32| x, 0..3).expect_err("it is closed")));
    println!("apply: {}", describe(&pool.apply(|x: u32| x, 1).expect_err("it is closed")));
    print_results(pool.try_map(|x: u32| x, 0..2));
    print_results(pool.imap(|x: u32| x, 0..).take(5));
    pool.join().expect("it may be joined again");
    pool.close();
    pool.terminate();
    pool.terminate();
    pool.join().expect("it may be joined again");
    println!("map: {}", describe(&pool.map(|x: u32| x, 0..3).expect_err("it is over")));
}

fn closed_pool_refuses_calls(start_method: StartMethod) {
    assert_snapshot("closed_pool", 2, run(use_closed_pool, start_method, &[]).succeeded());
}
