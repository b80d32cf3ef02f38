//! Settings of a call: priorities and fair shares, seeds, an early end, progress.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use proc_core::ipc::{self, IpcSender};
use proc_core::{ErrorKind, Pool, Progress, StartMethod, current};
use serde::{Deserialize, Serialize};

use crate::support::marker_files::{self, MarkerFiles};
use crate::support::{Arguments, run, wait_until};

programs![
    serve_small_calls_first,
    serve_by_priority,
    make_way_where_there_is_one,
    draw_from_seeds,
    end_with_the_first_failure,
    show_progress,
    number_results,
    refuse_settings,
    ask_where_it_runs
];

tests! {
    small_call_does_not_wait_behind_a_large_one: forkserver spawn fork;
    priority_decides_which_call_goes_first: forkserver spawn fork;
    urgent_task_is_next_though_other_workers_have_nothing_to_give: forkserver;
    seed_makes_results_repeatable: forkserver spawn fork;
    call_ends_with_the_first_failure: forkserver spawn fork;
    progress_counts_failures_and_retries: forkserver spawn fork;
    results_have_the_index_of_their_input: forkserver spawn fork;
    senseless_settings_are_refused: forkserver spawn fork;
    tasks_know_their_worker_and_their_index: forkserver spawn fork;
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

/// One worker has many tasks in hand that it has not taken, another one has none. An urgent task
/// gets the first worker that is free, whichever that is.
fn make_way_where_there_is_one(arguments: &Arguments) {
    const TASKS: u32 = 400;
    let pool = arguments.pool(2);
    let marks = MarkerFiles::new();
    for round in 0..8 {
        let names = ["middle", "go", "last", "end", "urgent"];
        let paths = names.map(|name| marks.path(&format!("{name}{round}")));
        // Quick tasks come in chunks of several tasks. A worker stops at a task in the middle of a
        // chunk, the other one at the last task.
        let is_late = |(number, [middle, go, last, end, urgent]): (u32, [PathBuf; 5])| {
            let is_late = go.exists() && !urgent.exists();
            if number == TASKS / 2 {
                marker_files::create(&middle);
                marker_files::wait_for(&go);
            } else if number == TASKS - 1 {
                marker_files::create(&last);
                marker_files::wait_for(&end);
            }
            is_late
        };
        let inputs = (0..TASKS).map(|number| (number, paths.clone()));
        let call = pool.map_async(is_late, inputs).expect("it is accepted");
        let [middle, go, last, end, urgent] = &paths;
        marker_files::wait_for(middle);
        marker_files::wait_for(last);
        let mark = |path: PathBuf| marker_files::create(&path);
        let task = pool.options().priority(1).apply_async(mark, urgent.clone());
        let task = task.expect("it is accepted");
        marker_files::create(go);
        assert!(task.get().expect("it returns"));
        marker_files::create(end);
        let late = call.get().expect("it returns").into_iter().filter(|is_late| *is_late).count();
        assert!(late <= 1, "{late} tasks began before the urgent one, in round {round}");
    }
}

fn urgent_task_is_next_though_other_workers_have_nothing_to_give(start_method: StartMethod) {
    run(make_way_where_there_is_one, start_method, &[]).succeeded();
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
