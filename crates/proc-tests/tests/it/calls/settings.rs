//! Settings of a call: grace periods, priorities and fair shares, seeds, an early end, progress.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use proc_core::ipc::{self, IpcSender};
use proc_core::{ErrorKind, Pool, Progress, StartMethod, current};
use serde::{Deserialize, Serialize};

use crate::support::marker_files::{self, MarkerFiles};
use crate::support::{Arguments, run, wait_until, work_forever};

programs![
    stop_late_tasks,
    stop_cancelled_tasks,
    stop_cancelled_chunks,
    end_pool_with_grace,
    end_pool_with_a_chunk,
    signal_stopped_tasks,
    serve_small_calls_first,
    serve_by_priority,
    draw_from_seeds,
    end_with_the_first_failure,
    show_progress,
    number_results,
    refuse_settings,
    ask_where_it_runs
];

tests! {
    late_task_is_asked_to_stop_first: forkserver spawn fork;
    cancelled_task_is_asked_to_stop_first: forkserver spawn fork;
    all_tasks_of_a_cancelled_chunk_are_asked_to_stop: forkserver spawn fork;
    task_is_asked_to_stop_when_the_pool_ends: forkserver spawn fork;
    tasks_of_a_chunk_that_return_in_time_have_results: forkserver spawn fork;
    worker_gets_the_stop_signal: forkserver spawn fork;
    small_call_does_not_wait_behind_a_large_one: forkserver spawn fork;
    priority_decides_which_call_goes_first: forkserver spawn fork;
    seed_makes_results_repeatable: forkserver spawn fork;
    call_ends_with_the_first_failure: forkserver spawn fork;
    progress_counts_failures_and_retries: forkserver spawn fork;
    results_have_the_index_of_their_input: forkserver spawn fork;
    senseless_settings_are_refused: forkserver spawn fork;
    tasks_know_their_worker_and_their_index: forkserver spawn fork;
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
    // A task that panics when it is asked is not tried again.
    let calls = pool.options().grace(LONG).retries(3);
    let panics = |mark: PathBuf| {
        assert!(marker_files::create(&mark), "it runs once");
        panic!("it was told to stop: {}", obedient(1))
    };
    let task = calls.apply_async::<_, _, ()>(panics, marks.path("c")).expect("it is accepted");
    marker_files::wait_for(&marks.path("c"));
    assert!(task.cancel());
    let error = task.get().expect_err("it panicked");
    assert_eq!(error.panic_message(), Some("it was told to stop: 1"));
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

/// What a task of a large or of a small call says when it begins.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Begins {
    Large(u32),
    Small,
}

/// A small call beside a large one, whose tasks wait until they are released.
fn serve_small_calls_first(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let marks = MarkerFiles::new();
    let (sender, receiver) = ipc::channel::<Begins>().expect("a channel");
    let begins = || receiver.recv().expect("tasks begin");
    type Data = (IpcSender<Begins>, PathBuf);
    for round in 0..10 {
        let directory = marks.path(&round.to_string());
        std::fs::create_dir(&directory).expect("it is new");
        let with = pool.with((sender.clone(), directory.clone()));
        let large = |(sender, marks): &Data, task: u32| {
            sender.send(Begins::Large(task)).expect("main receives");
            let is_released = |mark: &str| marks.join(mark).exists();
            wait_until(|| is_released(&task.to_string()) || is_released("all"));
        };
        let small = |(sender, _): &Data, _: u32| sender.send(Begins::Small).expect("main receives");
        let large = with.map_async(large, 0..20).expect("it is accepted");
        let (Begins::Large(running), Begins::Large(_)) = (begins(), begins()) else {
            panic!("the large call has begun alone");
        };
        // The small call waits for one of the two tasks that run now, and no other begins before
        // it.
        let small = with.apply_async(small, 0).expect("it is accepted");
        marker_files::create(&directory.join(running.to_string()));
        assert_eq!(begins(), Begins::Small);
        small.get().expect("it returns");
        marker_files::create(&directory.join("all"));
        large.get().expect("all return");
        for _ in 2..20 {
            begins();
        }
    }
}

fn small_call_does_not_wait_behind_a_large_one(start_method: StartMethod) {
    run(serve_small_calls_first, start_method, &[]).succeeded();
}

/// Calls of several priorities, while one worker is held.
fn serve_by_priority(arguments: &Arguments) {
    let pool = arguments.pool(1);
    let marks = MarkerFiles::new();
    let hold = |(held, go): (PathBuf, PathBuf)| {
        marker_files::create(&held);
        marker_files::wait_for(&go);
    };
    let held = pool.apply_async(hold, (marks.path("held"), marks.path("go")));
    let held = held.expect("it is accepted");
    marker_files::wait_for(&marks.path("held"));
    let (sender, receiver) = ipc::channel::<i32>().expect("a channel");
    let tasks: Vec<_> = [0, -100, 5, 100, -1, 5]
        .map(|priority| {
            let send = |sender: &IpcSender<i32>, priority: i32| {
                sender.send(priority).expect("main receives");
            };
            let calls = pool.options().priority(priority).with(sender.clone());
            calls.apply_async(send, priority).expect("it is accepted")
        })
        .into();
    marker_files::create(&marks.path("go"));
    held.get().expect("it returns");
    tasks.into_iter().for_each(|task| task.get().expect("it returns"));
    let order: Vec<i32> = (0..6).map(|_| receiver.recv().expect("it was sent")).collect();
    assert_eq!(order, [100, 5, 5, 0, -1, -100]);
}

fn priority_decides_which_call_goes_first(start_method: StartMethod) {
    run(serve_by_priority, start_method, &[]).succeeded();
}

fn draw(_: u32) -> u64 {
    assert_eq!(current().seed(), current().seed(), "a task has one seed");
    current().seed()
}

/// Seeds do not depend on workers, chunks or retries.
fn draw_from_seeds(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let one = Pool::builder().processes(1).max_tasks_per_child(7).build().expect("it is built");
    let expected = pool.options().seed(42).map(draw, 0..100).expect("nothing fails");
    assert_eq!(expected.iter().collect::<HashSet<_>>().len(), 100, "each has its own");
    for pool in [&pool, &one] {
        for chunksize in [1, 3, 100] {
            let calls = pool.options().seed(42).chunksize(chunksize);
            assert_eq!(calls.map(draw, 0..100).expect("nothing fails"), expected);
        }
        let lazily: Result<Vec<u64>, _> = pool.options().seed(42).imap(draw, 0..100).collect();
        assert_eq!(lazily.expect("nothing fails"), expected);
        let fails_first = |x: u32| {
            assert!(
                current().attempt() > 0 || !x.is_multiple_of(10),
                "the first try of some fails"
            );
            draw(x)
        };
        let again = pool.options().seed(42).retries(1).map(fails_first, 0..100);
        assert_eq!(again.expect("the second try returns"), expected);
    }
    assert_ne!(pool.options().seed(43).map(draw, 0..100).expect("nothing fails"), expected);
    let without: Vec<u64> =
        (0..3).flat_map(|_| pool.map(draw, 0..100).expect("nothing fails")).collect();
    assert_eq!(without.iter().collect::<HashSet<_>>().len(), 300, "each task has another one");
    let error = pool.options().seed(1).with_state().map(|(): &mut (), x: u32| x, [1]);
    let error = error.expect_err("a state depends on earlier tasks");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("current().seed()"), "{error}");
}

fn seed_makes_results_repeatable(start_method: StartMethod) {
    run(draw_from_seeds, start_method, &[]).succeeded();
}

/// One task fails early. Tasks that have not begun do not run.
fn end_with_the_first_failure(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let fail = |x: u32| {
        assert!(x != 5, "five fails");
        std::thread::sleep(Duration::from_millis(1));
        x
    };
    const ALL: u32 = 1_000_000; // would take two workers more than eight minutes
    let calls = pool.options().fail_fast();
    let error = calls.map(fail, 0..ALL).expect_err("five fails");
    assert_eq!((error.task(), error.panic_message()), (Some(5), Some("five fails")));
    let fates = calls.try_map(fail, 0..1000);
    assert_eq!(fates.len(), 1000);
    assert!(fates[5].as_ref().is_err_and(|error| error.is_panic()));
    let last = fates[999].as_ref().expect_err("it never ran");
    assert!(last.is_cancelled() && last.task() == Some(999), "{last}");
    let lazily: Vec<_> = calls.imap(fail, 0..ALL).collect();
    assert!(lazily.last().is_some_and(|last| last.as_ref().is_err_and(|e| e.task() == Some(5))));
    assert_eq!(lazily.iter().filter(|fate| fate.is_err()).count(), 1);
    assert!(lazily.len() <= 6, "nothing comes after it");
    let any_order: Vec<_> = calls.imap_unordered(fail, 0..ALL).collect();
    assert!(any_order.last().is_some_and(|last| last.as_ref().is_err_and(|e| e.is_panic())));
    assert!(any_order.len() < 1000);
    let task = calls.map_async(fail, 0..10_000).expect("it is accepted");
    assert_eq!(task.get().expect_err("five fails").task(), Some(5));
    assert_eq!(calls.map(fail, 6..10).expect("none of these fails"), [6, 7, 8, 9]);
    assert_eq!(pool.map(|x: u32| x, 0..100).expect("the pool is free").len(), 100);
}

fn call_ends_with_the_first_failure(start_method: StartMethod) {
    run(end_with_the_first_failure, start_method, &[]).succeeded();
}

/// What the function that shows the progress is told.
fn show_progress(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let mut seen: Vec<Progress> = Vec::new();
    let odd_once = |x: u32| {
        assert!(x != 13, "thirteen always fails");
        assert!(x.is_multiple_of(2) || current().attempt() > 0, "odd ones fail once");
        x
    };
    let fates = {
        let show = |progress| seen.push(progress);
        pool.options().retries(1).chunksize(1).progress(show).try_map(odd_once, 0..20)
    };
    assert_eq!(fates.iter().filter(|fate| fate.is_err()).count(), 1);
    let last = seen.last().expect("it was shown");
    assert_eq!((last.done, last.all, last.failed, last.retried), (20, 20, 1, 10));
    assert!(last.rate() > 0.0 && last.remaining() == Some(Duration::ZERO), "{last:?}");
    assert!(seen.is_sorted_by_key(|progress| progress.done));
    assert_eq!(seen.first().map(|progress| (progress.done, progress.all)), Some((0, 20)));
    assert_eq!(seen.iter().position(Progress::is_over), Some(seen.len() - 1));
    assert!(seen.iter().all(|progress| progress.all <= 20));
    let mut seen: Vec<Progress> = Vec::new();
    let odd = (0..4000_u32).filter(|x| x % 2 == 1); // whose number is not known
    let calls = pool.options().progress(|progress| seen.push(progress));
    assert_eq!(calls.imap_unordered(|x: u32| x, odd).count(), 2000);
    drop(calls);
    assert!(seen.iter().any(|progress| progress.remaining().is_none()));
    assert_eq!(seen.last().map(|progress| (progress.done, progress.failed)), Some((2000, 0)));
    assert_eq!(seen.iter().position(Progress::is_over), Some(seen.len() - 1));
}

fn progress_counts_failures_and_retries(start_method: StartMethod) {
    run(show_progress, start_method, &[]).succeeded();
}

/// Indexed results, in any order and in that of the inputs.
fn number_results(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let words = ["a", "bb", "", "dddd"];
    let len = |word: String| {
        assert!(!word.is_empty(), "nothing to count");
        word.len()
    };
    let mut seen = Vec::new();
    for result in pool.imap_unordered(len, words.map(String::from)).indexed() {
        match result {
            Ok((index, len)) => {
                assert_eq!(words[index].len(), len);
                seen.push(index);
            }
            Err(error) => seen.push(error.task().expect("it is that of a task")),
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3]);
    let in_order = pool.imap(len, words.map(String::from)).indexed();
    assert_eq!(in_order.size_hint().1, Some(4));
    let indices: Vec<_> = in_order.filter_map(|result| Some(result.ok()?.0)).collect();
    assert_eq!(indices, [0, 1, 3]);
}

fn results_have_the_index_of_their_input(start_method: StartMethod) {
    run(number_results, start_method, &[]).succeeded();
}

/// Settings that no call can have.
fn refuse_settings(arguments: &Arguments) {
    let pool = arguments.pool(1);
    for priority in [101, -101, i32::MAX, i32::MIN] {
        let error = pool.options().priority(priority).apply(|x: u8| x, 1).expect_err("too far");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("from -100 to 100"), "{error}");
    }
    assert_eq!(pool.options().priority(100).apply(|x: u8| x, 1).expect("it is the highest"), 1);
}

fn senseless_settings_are_refused(start_method: StartMethod) {
    run(refuse_settings, start_method, &[]).succeeded();
}

/// What a task, an initializer, a state and a thread of a task know.
fn ask_where_it_runs(arguments: &Arguments) {
    type Seen = (Option<usize>, Option<String>, Option<usize>);
    fn ask() -> Seen {
        let here = current();
        (here.worker(), here.pool().map(str::to_owned), here.task())
    }
    static AT_START: std::sync::OnceLock<Seen> = std::sync::OnceLock::new();
    let note = |()| AT_START.set(ask()).expect("it is called once");
    let builder = arguments.pool_builder(2).name("asked").initializer(note, ());
    let pool = builder.state(|()| ask(), ()).build().expect("it is built");
    assert_eq!(ask(), (None, None, None));
    let work = |made: &mut Seen, x: usize| {
        let (worker, name, task) = ask();
        let in_thread = std::thread::spawn(ask).join().expect("it returns");
        assert_eq!(in_thread, (worker, name.clone(), task));
        let at_start = AT_START.get().expect("the initializer has run").clone();
        assert_eq!(at_start, (worker, name.clone(), None));
        assert_eq!(*made, at_start);
        assert_eq!(name.as_deref(), Some("asked"));
        assert_eq!(task, Some(x));
        assert_eq!(current().deadline(), None);
        (worker.expect("it is a worker"), std::process::id())
    };
    let seen: HashSet<(usize, u32)> =
        pool.with_state().map(work, 0..200).expect("nothing fails").into_iter().collect();
    assert!(seen.iter().all(|(worker, pid)| pool.worker_pids()[*worker] == *pid));
    // A thread that a task leaves behind is told that the task is over.
    let (sender, receiver) = ipc::channel::<()>().expect("a channel");
    let leave = |sender: IpcSender<()>| {
        let here = current();
        assert!(!here.stop_requested());
        std::thread::spawn(move || {
            wait_until(|| here.stop_requested());
            sender.send(()).expect("main receives");
        });
    };
    pool.apply(leave, sender).expect("it returns");
    receiver.recv().expect("the thread has noticed");
}

fn tasks_know_their_worker_and_their_index(start_method: StartMethod) {
    run(ask_where_it_runs, start_method, &[]).succeeded();
}
