//! Grace periods: tasks that are late or cancelled, or whose pool ends, are asked to stop before they
//! are killed.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use proc_core::{ErrorKind, Pool, StartMethod, current};
use serde::{Deserialize, Deserializer, Serialize};

use crate::support::marker_files::{self, MarkerFiles};
use crate::support::{Arguments, run, work_forever};

programs![
    stop_late_tasks,
    stop_cancelled_tasks,
    stop_cancelled_chunks,
    cancel_beside_a_free_worker,
    cancel_while_data_are_decoded,
    wait_without_end,
    end_pool_with_grace,
    end_pool_with_a_chunk,
    signal_stopped_tasks,
];

tests! {
    late_task_is_asked_to_stop_first: forkserver spawn fork;
    cancelled_task_is_asked_to_stop_first: forkserver spawn fork;
    all_tasks_of_a_cancelled_chunk_are_asked_to_stop: forkserver spawn fork;
    no_other_worker_takes_tasks_of_a_cancelled_call: forkserver;
    no_task_runs_that_was_cancelled_before_it_began: forkserver spawn fork;
    longest_timeouts_are_no_limit: forkserver spawn fork;
    task_is_asked_to_stop_when_the_pool_ends: forkserver spawn fork;
    tasks_of_a_chunk_that_return_in_time_have_results: forkserver spawn fork;
    worker_gets_the_stop_signal: forkserver spawn fork;
}

/// Long compared with what a busy machine delays.
const LONG: Duration = Duration::from_secs(50);
const SHORT: Duration = Duration::from_millis(50);

/// Works until it is asked to stop.
fn obedient(x: u32) -> u32 {
    while !current().stop_requested() {
        std::thread::yield_now();
    }
    x
}

/// Stops when it is asked to, if `x` is even; works forever otherwise.
fn half_obedient(x: u32) -> u32 {
    if x % 2 == 1 {
        work_forever();
    }
    obedient(x)
}

/// Tasks whose time is over: the result of those that return in time counts; the others are killed.
fn stop_late_tasks(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let calls = pool.options().timeout(SHORT).grace(LONG);
    assert_eq!(calls.map(obedient, 0..4).expect("all return within the period"), [0, 1, 2, 3]);
    let pids = pool.worker_pids();
    let fates =
        pool.options().timeout(SHORT).grace(Duration::from_secs(2)).try_map(half_obedient, 0..4);
    for (x, fate) in (0..).zip(fates) {
        match fate {
            Ok(same) => assert!(x % 2 == 0 && same == x),
            Err(error) => assert!(x % 2 == 1 && error.is_timeout(), "{error}"),
        }
    }
    assert!(pool.worker_pids().iter().any(|pid| !pids.contains(pid)), "some were killed");
    // The first task of a chunk is asked to stop. The next ones are not.
    let asked = |x: u32| if x == 0 { obedient(1) == 1 } else { current().stop_requested() };
    let chunk = pool.options().chunksize(4).timeout(SHORT).grace(LONG).map(asked, 0..4);
    assert_eq!(chunk.expect("all return"), [true, false, false, false]);
    // The first task of a chunk ignores that it is asked, and is killed. The next ones run.
    let ignores = |x: u32| {
        if x == 0 {
            work_forever();
        }
        std::thread::sleep(4 * SHORT); // the pool looks for late tasks several times meanwhile
        x
    };
    let calls = pool.options().chunksize(3).timeout(40 * SHORT).grace(SHORT);
    let [killed, second, third] = &calls.try_map(ignores, 0..3)[..] else { panic!("three tasks") };
    assert!(killed.as_ref().is_err_and(proc_core::Error::is_timeout), "{killed:?}");
    assert_eq!((second.as_ref().ok(), third.as_ref().ok()), (Some(&1), Some(&2)), "{second:?}");
}

fn late_task_is_asked_to_stop_first(start_method: StartMethod) {
    run(stop_late_tasks, start_method, &[]).succeeded();
}

fn begin(mark: PathBuf) -> u32 {
    marker_files::create(&mark);
    obedient(7)
}

/// Cancelled tasks: a task that runs may return its result, a task that waits never runs.
fn stop_cancelled_tasks(arguments: &Arguments) {
    let pool = arguments.pool(1);
    let marks = MarkerFiles::new();
    let calls = pool.options().grace(LONG);
    let running = calls.apply_async(begin, marks.path("a")).expect("it is accepted");
    marker_files::wait_for(&marks.path("a"));
    let waiting = calls.apply_async(begin, marks.path("b")).expect("it is accepted");
    assert!(waiting.cancel() && running.cancel());
    assert!(waiting.get().expect_err("it never ran").is_cancelled());
    assert_eq!(running.get().expect("it returned in time"), 7);
    assert!(!marks.path("b").exists());
    // A call of which tasks were withdrawn has no result.
    let many = calls.map_async(begin, vec![marks.path("c"); 100]).expect("it is accepted");
    marker_files::wait_for(&marks.path("c"));
    assert!(many.cancel());
    assert!(many.get().expect_err("most never ran").is_cancelled());
    assert_eq!(pool.apply(|x: u32| x, 5).expect("the worker is free"), 5);
    // A task that does not stop is killed at the end of the period.
    let calls = pool.options().grace(SHORT);
    let stubborn = |mark: PathBuf| {
        marker_files::create(&mark);
        work_forever();
    };
    let task = calls.apply_async(stubborn, marks.path("d")).expect("it is accepted");
    marker_files::wait_for(&marks.path("d"));
    assert!(task.cancel());
    assert!(!task.cancel(), "it was asked to stop before");
    assert!(task.get().expect_err("it was killed").is_cancelled());
    // A task that is dropped is cancelled, if it says so.
    let task = calls.apply_async(stubborn, marks.path("e")).expect("it is accepted");
    marker_files::wait_for(&marks.path("e"));
    drop(task.cancel_on_drop());
    assert_eq!(pool.apply(|x: u32| x, 6).expect("by the next worker"), 6);
}

fn cancelled_task_is_asked_to_stop_first(start_method: StartMethod) {
    run(stop_cancelled_tasks, start_method, &[]).succeeded();
}

/// While one worker runs a task of a cancelled call and has others in hand, another one has nothing
/// to do.
fn cancel_beside_a_free_worker(arguments: &Arguments) {
    const TASKS: u32 = 400;
    let pool = arguments.pool(2);
    let marks = MarkerFiles::new();
    let paths = ["first", "last", "cancelled", "end"].map(|name| marks.path(name));
    // Quick tasks come in chunks, of which a worker takes several tasks at a time. One worker stops
    // at a task in the middle, the other one at the last task.
    let is_asked = |(number, [first, last, cancelled, end]): (u32, [PathBuf; 4])| {
        let is_asked = current().stop_requested() || !cancelled.exists();
        if number == TASKS / 2 {
            marker_files::create(&first);
            obedient(number);
            marker_files::wait_for(&end);
        } else if number == TASKS - 1 {
            marker_files::create(&last);
            marker_files::wait_for(&cancelled);
        }
        is_asked
    };
    let inputs = (0..TASKS).map(|number| (number, paths.clone()));
    let call = pool.options().grace(LONG).map_async(is_asked, inputs).expect("it is accepted");
    let [first, last, cancelled, end] = &paths;
    marker_files::wait_for(first);
    marker_files::wait_for(last);
    assert!(call.cancel());
    marker_files::create(cancelled);
    // The free worker runs these, and could take tasks of the call in between.
    for x in 0..100 {
        assert_eq!(pool.apply(|x: u32| x, x).expect("a worker is free"), x);
    }
    marker_files::create(end);
    assert_eq!(call.get().expect("all return in time"), [true; TASKS as usize]);
}

fn no_other_worker_takes_tasks_of_a_cancelled_call(start_method: StartMethod) {
    run(cancel_beside_a_free_worker, start_method, &[]).succeeded();
}

/// Data that take some time to decode. The first decoding makes a file at their path, and never
/// ends if they say so.
#[derive(Serialize, Deserialize)]
struct Slow(#[serde(deserialize_with = "decode_slowly")] (PathBuf, bool), Vec<u8>);

fn decode_slowly<'de, D: Deserializer<'de>>(from: D) -> Result<(PathBuf, bool), D::Error> {
    let (path, is_endless) = <(PathBuf, bool)>::deserialize(from)?;
    if marker_files::create(&path) && is_endless {
        work_forever();
    }
    std::thread::sleep(Duration::from_millis(300));
    Ok((path, is_endless))
}

/// The worker has claimed the tasks, but has not begun the first one.
fn cancel_while_data_are_decoded(arguments: &Arguments) {
    let pool = arguments.pool(1);
    let marks = MarkerFiles::new();
    let data = Slow((marks.path("decoded"), true), Vec::new());
    let calls = pool.options().grace(LONG).chunksize(5);
    let runs = |_: &Slow, mark: PathBuf| marker_files::create(&mark);
    let mark = marks.path("run");
    let call = calls.with(data).map_async(runs, vec![mark.clone(); 5]).expect("it is accepted");
    marker_files::wait_for(&marks.path("decoded"));
    assert!(call.cancel());
    assert!(call.get().expect_err("it never ran").is_cancelled());
    assert_eq!(pool.apply(|x: u32| x, 5).expect("by the next worker"), 5);
    assert!(!mark.exists());
}

fn no_task_runs_that_was_cancelled_before_it_began(start_method: StartMethod) {
    run(cancel_while_data_are_decoded, start_method, &[]).succeeded();
}

/// The longest timeout is no limit, and the timeouts of other calls count on.
fn wait_without_end(arguments: &Arguments) {
    let pool = arguments.pool(1);
    let calls = pool.options().timeout(Duration::MAX);
    let is_far = |_: ()| {
        let in_an_hour = Instant::now() + Duration::from_secs(3600);
        current().deadline().is_none_or(|deadline| deadline > in_an_hour)
    };
    assert!(calls.apply(is_far, ()).expect("it returns"));
    let marks = MarkerFiles::new();
    let data = Slow((marks.path("decoded"), false), vec![1; 1 << 20]);
    let len = |data: &Slow, more: usize| data.1.len() + more;
    assert_eq!(calls.with(data).apply(len, 1).expect("it has time"), (1 << 20) + 1);
    let late = pool.options().timeout(SHORT).apply(obedient, 1).expect_err("it is killed");
    assert_eq!(late.kind(), ErrorKind::Timeout);
}

fn longest_timeouts_are_no_limit(start_method: StartMethod) {
    run(wait_without_end, start_method, &[]).succeeded();
}

/// Cancelled calls whose tasks are all in one chunk, which one worker has claimed.
fn stop_cancelled_chunks(arguments: &Arguments) {
    let pool = arguments.pool(1);
    let marks = MarkerFiles::new();
    // All tasks of the chunk are asked to stop, the later ones when they begin.
    let calls = pool.options().chunksize(4).grace(LONG);
    let first = marks.path("a");
    let is_asked = |(number, mark): (u32, PathBuf)| match number {
        0 => begin(mark) == 7,
        _ => current().stop_requested(),
    };
    let inputs = (0..4).map(|number| (number, first.clone()));
    let call = calls.map_async(is_asked, inputs).expect("it is accepted");
    marker_files::wait_for(&first);
    assert!(call.cancel());
    assert!(!call.cancel(), "it was asked to stop before");
    assert_eq!(call.get().expect("all return in time"), [true; 4]);
    // They have one grace period together. After it, none of them runs, or is tried again.
    let calls = pool.options().chunksize(4).grace(Duration::from_secs(2)).retries(3);
    let first = marks.path("b");
    let ignores = |(number, mark): (u32, PathBuf)| {
        let own_mark = mark.with_extension(number.to_string());
        assert!(marker_files::create(&own_mark), "a task runs once");
        match number {
            0 => drop(begin(mark)),
            _ => work_forever(),
        }
    };
    let inputs = (0..4).map(|number| (number, first.clone()));
    let call = calls.map_async(ignores, inputs).expect("it is accepted");
    marker_files::wait_for(&first);
    assert!(call.cancel());
    assert!(call.get().expect_err("the second task was killed").is_cancelled());
    assert_eq!(pool.apply(|x: u32| x, 5).expect("by the next worker"), 5);
    let has_begun = |number: u32| first.with_extension(number.to_string()).exists();
    assert_eq!([0, 1, 2, 3].map(has_begun), [true, true, false, false]);
    // A task that panics when it is asked is not tried again. The pool may check its timeouts just
    // before it collects the result: this happens in one of some hundred rounds.
    let calls = pool.options().grace(LONG).retries(3);
    let panics = |mark: PathBuf| {
        assert!(marker_files::create(&mark), "it runs once");
        panic!("it was told to stop: {}", obedient(1))
    };
    for round in 0..300 {
        let mark = marks.path(&format!("c{round}"));
        let task = calls.apply_async::<_, _, ()>(panics, mark.clone()).expect("it is accepted");
        marker_files::wait_for(&mark);
        assert!(task.cancel());
        let error = task.get().expect_err("it panicked");
        assert_eq!(error.panic_message(), Some("it was told to stop: 1"));
    }
    // If a late task was asked before, those after it are asked when the call is cancelled.
    let calls = pool.options().chunksize(2).timeout(SHORT).grace(LONG);
    let (asked, go) = (marks.path("d"), marks.path("e"));
    let late = |(number, asked, go): (u32, PathBuf, PathBuf)| match number {
        0 => {
            obedient(0);
            marker_files::create(&asked);
            marker_files::wait_for(&go);
            true
        }
        _ => current().stop_requested(),
    };
    let inputs = (0..2).map(|number| (number, asked.clone(), go.clone()));
    let call = calls.map_async(late, inputs).expect("it is accepted");
    marker_files::wait_for(&asked);
    assert!(call.cancel(), "its second task was not asked before");
    marker_files::create(&go);
    assert_eq!(call.get().expect("both return in time"), [true; 2]);
}

fn all_tasks_of_a_cancelled_chunk_are_asked_to_stop(start_method: StartMethod) {
    run(stop_cancelled_chunks, start_method, &[]).succeeded();
}

/// A pool ends while tasks run: those that stop in time return their results.
fn end_pool_with_grace(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let marks = MarkerFiles::new();
    let calls = pool.options().grace(LONG);
    let obeys = calls.apply_async(begin, marks.path("a")).expect("it is accepted");
    let stubborn = |mark: PathBuf| {
        marker_files::create(&mark);
        work_forever();
    };
    let ignores = pool.options().grace(SHORT).apply_async(stubborn, marks.path("b"));
    let ignores = ignores.expect("it is accepted");
    marker_files::wait_for(&marks.path("a"));
    marker_files::wait_for(&marks.path("b"));
    let waits = calls.apply_async(begin, marks.path("c")).expect("it is accepted");
    pool.terminate();
    assert_eq!(obeys.get().expect("it returned in time"), 7);
    assert!(ignores.get().expect_err("it was killed").is_closed());
    assert!(waits.get().expect_err("it never ran").is_closed());
    assert!(!marks.path("c").exists() && pool.worker_pids().is_empty());
}

/// A pool ends while a worker runs a chunk: the tasks that return in time have their results.
fn end_pool_with_a_chunk(arguments: &Arguments) {
    let pool = arguments.pool(1);
    let mark = MarkerFiles::new();
    let second = mark.path("second");
    let calls = pool.options().chunksize(4).grace(Duration::from_secs(2)).retries(1);
    let task = |(number, second): (u32, PathBuf)| {
        match number {
            0 => {}
            1 => drop(begin(second)),
            _ => work_forever(),
        }
        number
    };
    let fates = std::thread::scope(|scope| {
        let inputs = (0..4).map(|number| (number, second.clone()));
        let call = scope.spawn(move || calls.try_map(task, inputs));
        marker_files::wait_for(&second);
        pool.terminate();
        call.join().expect("it does not panic")
    });
    let [Ok(0), Ok(1), Err(third), Err(fourth)] = &fates[..] else { panic!("{fates:?}") };
    assert!(third.is_closed() && fourth.is_closed(), "{fates:?}");
}

fn tasks_of_a_chunk_that_return_in_time_have_results(start_method: StartMethod) {
    run(end_pool_with_a_chunk, start_method, &[]).succeeded();
}

fn task_is_asked_to_stop_when_the_pool_ends(start_method: StartMethod) {
    run(end_pool_with_grace, start_method, &[]).succeeded();
}

/// A task that blocks in a system call returns because of the signal.
#[expect(unsafe_code, reason = "setting a handler needs it")]
fn signal_stopped_tasks(arguments: &Arguments) {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    static SIGNALS: AtomicU32 = AtomicU32::new(0);
    static BEFORE: AtomicU32 = AtomicU32::new(0);
    extern "C" fn count(_: i32) {
        SIGNALS.fetch_add(1, Ordering::Relaxed);
    }
    let handle = |()| {
        let action = SigAction::new(SigHandler::Handler(count), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler only counts.
        unsafe { sigaction(Signal::SIGUSR1, &action) }.expect("it can be handled");
    };
    let builder = arguments.pool_builder(1).initializer(handle, ());
    let pool = builder.stop_signal(Signal::SIGUSR1 as i32).build().expect("it is built");
    let blocked = |()| {
        while !current().stop_requested() {
            nix::unistd::pause(); // until a signal comes
        }
        "stopped".to_owned()
    };
    let result = pool.options().timeout(SHORT).grace(LONG).apply(blocked, ());
    assert_eq!(result.expect("it returned"), "stopped");
    // If a call is cancelled, each task of a chunk gets a signal of its own.
    let marks = MarkerFiles::new();
    let first = marks.path("first");
    let counts = |(number, first): (u32, PathBuf)| {
        if number == 0 {
            BEFORE.store(SIGNALS.load(Ordering::Relaxed), Ordering::Relaxed);
            marker_files::create(&first);
        }
        while SIGNALS.load(Ordering::Relaxed) <= BEFORE.load(Ordering::Relaxed) + number {
            std::thread::yield_now();
        }
        number
    };
    let inputs = (0..3).map(|number| (number, first.clone()));
    let call = pool.options().chunksize(3).grace(LONG).map_async(counts, inputs);
    let call = call.expect("it is accepted");
    marker_files::wait_for(&first);
    assert!(call.cancel());
    assert_eq!(call.get().expect("all return in time"), [0, 1, 2]);
    let error = Pool::builder().stop_signal(4711).build().expect_err("there is no such signal");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("4711"), "{error}");
}

fn worker_gets_the_stop_signal(start_method: StartMethod) {
    run(signal_stopped_tasks, start_method, &[]).succeeded();
}
