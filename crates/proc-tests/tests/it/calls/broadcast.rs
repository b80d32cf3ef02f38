//! `broadcast`: a task for each worker, whatever the workers do meanwhile.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use proc_core::{ErrorKind, Pool, StartMethod, current, ipc};

use crate::support::marker_files::{self, MarkerFiles};
use crate::support::{Arguments, describe, run, wait_until};

programs![
    visit_each,
    gather_state,
    visit_busy,
    visit_among_deaths,
    fail_in_one,
    retry_in_place,
    visit_idle,
    shrink_meanwhile,
    give_up_meanwhile,
    refuse,
    stop_one,
    visit_from_many_threads
];

tests! {
    each_worker_runs_the_function_once: forkserver spawn fork;
    what_workers_gathered_comes_back: forkserver spawn fork;
    broadcast_waits_for_busy_workers_and_holds_up_nobody: forkserver spawn fork;
    broadcast_reaches_each_worker_although_workers_die: forkserver spawn fork;
    broadcast_that_fails_in_one_worker_runs_in_the_others: forkserver spawn fork;
    retried_task_of_a_broadcast_stays_in_its_slot: forkserver spawn fork;
    workers_that_have_left_are_started_only_if_there_are_no_others: forkserver spawn fork;
    task_of_a_worker_that_goes_is_an_error: forkserver spawn fork;
    task_of_a_slot_that_is_given_up_is_an_error: forkserver spawn fork;
    broadcast_that_cannot_run_is_refused: forkserver spawn;
    stopped_worker_fails_its_task_of_a_broadcast_alone: forkserver spawn fork;
    broadcasts_of_many_threads_keep_apart: forkserver spawn fork;
}

/// The number and the pid of this worker.
fn who(_: ()) -> (usize, u32) {
    (current().worker().expect("a worker has a number"), std::process::id())
}

/// Asserts that a broadcast has reached the workers 0, 1, … once, in this order.
fn visit(pool: &Pool) -> Vec<u32> {
    let seen = pool.broadcast(who, ()).expect("nothing fails");
    assert!(seen.iter().map(|(number, _)| *number).eq(0..pool.processes()), "{seen:?}");
    seen.into_iter().map(|(_, pid)| pid).collect()
}

fn visit_each(arguments: &Arguments) {
    let pool = arguments.pool(3);
    for _ in 0..100 {
        assert_eq!(visit(&pool), pool.worker_pids());
    }
    let (sender, receiver) = ipc::channel::<usize>().expect("a channel");
    let send = |(sender, wide): (ipc::IpcSender<usize>, Vec<u8>)| {
        let _ = sender.send(wide.len());
        wide
    };
    let wide = vec![7; 1 << 20];
    assert_eq!(pool.broadcast(send, (sender, wide.clone())).expect("it may cross"), vec![wide; 3]);
    for _ in 0..3 {
        assert_eq!(receiver.recv().expect("each worker sends"), 1 << 20);
    }
    let with = pool.options().seed(1).with(vec![10_u64]);
    let tens = with.broadcast(|tens, x: u64| (tens[0] * x, current().task()), 2);
    assert_eq!(tens.expect("nothing fails"), [(20, Some(0)), (20, Some(1)), (20, Some(2))]);
    // A pool of a larger and of a smaller size.
    pool.resize(5).expect("it grows");
    assert_eq!(visit(&pool).len(), 5);
    pool.resize(1).expect("it shrinks");
    assert_eq!(visit(&pool).len(), 1);
}

fn each_worker_runs_the_function_once(start_method: StartMethod) {
    run(visit_each, start_method, &[]).succeeded();
}

fn gather_state(arguments: &Arguments) {
    let pool = arguments.pool_builder(3).state(|()| 0_u32, ()).build().expect("it is built");
    for round in 1..=20 {
        let count = |seen: &mut u32, _: u32| *seen += 1;
        pool.with_state().map(count, 0..1000).expect("nothing fails");
        let counts = pool.with_state().broadcast(|seen, ()| *seen, ()).expect("nothing fails");
        assert_eq!((counts.len(), counts.iter().sum::<u32>()), (3, 1000 * round));
    }
    let reset = |seen: &mut u32, to: &u32, plus: u32| std::mem::replace(seen, to + plus);
    pool.with(5).with_state().broadcast(reset, 1).expect("nothing fails");
    let counts = pool.with_state().broadcast(|seen, ()| *seen, ()).expect("nothing fails");
    assert_eq!(counts, [6; 3]);
}

fn what_workers_gathered_comes_back(start_method: StartMethod) {
    run(gather_state, start_method, &[]).succeeded();
}

/// Says that it is there, and waits.
fn hold((mine, until): (PathBuf, PathBuf)) {
    marker_files::create(&mine);
    marker_files::wait_for(&until);
}

fn visit_busy(arguments: &Arguments) {
    let files = MarkerFiles::new();
    let pool = arguments.pool(2);
    let held = pool.apply_async(hold, (files.path("held"), files.path("go"))).expect("accepted");
    marker_files::wait_for(&files.path("held"));
    std::thread::scope(|scope| {
        let broadcasts: Vec<_> = (0..20).map(|_| scope.spawn(|| visit(&pool))).collect();
        // Meanwhile the other worker runs everything else.
        for _ in 0..20 {
            assert_eq!(pool.map(|x: u32| x + 1, 0..100).expect("nothing fails")[99], 100);
        }
        assert!(!broadcasts.iter().any(|thread| thread.is_finished()), "one worker is held");
        marker_files::create(&files.path("go"));
        for broadcast in broadcasts {
            assert_eq!(broadcast.join().expect("it does not panic"), pool.worker_pids());
        }
    });
    held.get().expect("nothing fails");
}

fn broadcast_waits_for_busy_workers_and_holds_up_nobody(start_method: StartMethod) {
    run(visit_busy, start_method, &[]).succeeded();
}

fn visit_among_deaths(arguments: &Arguments) {
    let pool = arguments.pool_builder(3).max_tasks_per_child(7).build().expect("it is built");
    std::thread::scope(|scope| {
        let deaths = scope.spawn(|| {
            for x in 0..60_u32 {
                let die = |x: u32| if x.is_multiple_of(3) { std::process::abort() } else { x };
                let _ = pool.apply(die, x);
            }
        });
        while !deaths.is_finished() {
            assert_eq!(visit(&pool).len(), 3);
        }
    });
    assert_eq!(visit(&pool).len(), 3);
}

fn broadcast_reaches_each_worker_although_workers_die(start_method: StartMethod) {
    run(visit_among_deaths, start_method, &[]).succeeded();
}

fn fail_in_one(arguments: &Arguments) {
    let files = MarkerFiles::new();
    let pool = arguments.pool(3);
    let directory = files.path("");
    let die_in_1 = |(directory, panics): (PathBuf, bool)| {
        let (number, _) = who(());
        match number {
            1 if panics => panic!("worker one"),
            1 => std::process::abort(),
            _ => marker_files::create(&directory.join(format!("{number}-{panics}"))),
        }
    };
    for panics in [true, false] {
        let error = pool.broadcast(die_in_1, (directory.clone(), panics)).expect_err("one fails");
        assert_eq!((error.worker(), error.task()), (Some(1), Some(1)), "{error}");
        assert!(error.pid().is_some(), "{error}");
        assert_eq!(error.kind(), if panics { ErrorKind::Panic } else { ErrorKind::Death });
        for number in [0, 2] {
            assert!(files.path(&format!("{number}-{panics}")).exists(), "it runs in the others");
        }
    }
    let error = pool.options().fail_fast().broadcast(die_in_1, (directory, true));
    assert!(error.expect_err("one fails").is_panic());
    assert_eq!(visit(&pool).len(), 3);
}

fn broadcast_that_fails_in_one_worker_runs_in_the_others(start_method: StartMethod) {
    run(fail_in_one, start_method, &[]).succeeded();
}

fn retry_in_place(arguments: &Arguments) {
    let pool = arguments.pool(3);
    let twice = |panics: bool| {
        let (number, attempt) = (who(()).0, current().attempt());
        match (number, attempt) {
            (1, 0..2) if panics => panic!("worker one"),
            (1, 0..2) => std::process::abort(),
            _ => (number, attempt),
        }
    };
    for panics in [true, false] {
        let seen = pool.options().retries(2).broadcast(twice, panics).expect("the third try works");
        assert_eq!(seen, [(0, 0), (1, 2), (2, 0)]);
    }
}

fn retried_task_of_a_broadcast_stays_in_its_slot(start_method: StartMethod) {
    run(retry_in_place, start_method, &[]).succeeded();
}

fn visit_idle(arguments: &Arguments) {
    let files = MarkerFiles::new();
    let builder = arguments.pool_builder(3).idle_timeout(Duration::from_millis(20));
    let pool = builder.build().expect("it is built");
    for round in 0..5 {
        wait_until(|| pool.worker_pids().is_empty());
        assert_eq!(visit(&pool).len(), 3, "all are started");
        wait_until(|| pool.worker_pids().is_empty());
        let (held, go) = (format!("held-{round}"), format!("go-{round}"));
        let paths = (files.path(&held), files.path(&go));
        let task = pool.apply_async(hold, paths).expect("accepted");
        marker_files::wait_for(&files.path(&held));
        wait_until(|| pool.worker_pids().len() == 1);
        std::thread::scope(|scope| {
            let broadcast = scope.spawn(|| pool.broadcast(who, ()).expect("nothing fails"));
            marker_files::create(&files.path(&go));
            let seen = broadcast.join().expect("it does not panic");
            assert!(!seen.is_empty() && seen.len() <= 3, "{seen:?}");
        });
        task.get().expect("nothing fails");
    }
    // Broadcasts that meet workers as they leave.
    for _ in 0..200 {
        std::thread::sleep(Duration::from_millis(fastrand::u64(15..25)));
        assert!(!pool.broadcast(who, ()).expect("nothing fails").is_empty());
    }
}

fn workers_that_have_left_are_started_only_if_there_are_no_others(start_method: StartMethod) {
    run(visit_idle, start_method, &[]).succeeded();
}

/// Says that worker 0 or 1 is there. Worker 1 then waits.
fn hold_worker_1((directory, until): (PathBuf, PathBuf)) {
    let (number, _) = who(());
    marker_files::create(&directory.join(format!("worker-{number}")));
    if number == 1 {
        marker_files::wait_for(&until);
    }
}

/// Begins two broadcasts. Worker 1 runs its task of the first one. Meanwhile its task of the second
/// one waits. Then calls `then`. Returns the errors of the two broadcasts.
fn hold_two_broadcasts(pool: &Pool, then: impl FnOnce(&MarkerFiles)) -> [Option<String>; 2] {
    let files = MarkerFiles::new();
    let begin = |files: &MarkerFiles, directory: &str| {
        let directory = files.path(directory);
        std::fs::create_dir(&directory).expect("it is new");
        (directory, files.path("go"))
    };
    let error = |result: Result<Vec<()>, _>| result.err().map(|error| describe(&error));
    std::thread::scope(|scope| {
        let paths = begin(&files, "first");
        let first = scope.spawn(move || error(pool.broadcast(hold_worker_1, paths)));
        marker_files::wait_for(&files.path("first/worker-1"));
        let paths = begin(&files, "second");
        let second = scope.spawn(move || error(pool.broadcast(hold_worker_1, paths)));
        marker_files::wait_for(&files.path("second/worker-0"));
        then(&files);
        [first, second].map(|broadcast| broadcast.join().expect("it does not panic"))
    })
}

fn shrink_meanwhile(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let errors = hold_two_broadcasts(&pool, |files| {
        pool.resize(1).expect("it shrinks");
        marker_files::create(&files.path("go"));
    });
    println!("{errors:?}");
    assert_eq!(visit(&pool).len(), 1);
}

fn task_of_a_worker_that_goes_is_an_error(start_method: StartMethod) {
    let finished = run(shrink_meanwhile, start_method, &[]);
    assert_eq!(
        finished.succeeded(),
        "[None, Some(\"invalid task=1 worker=1 | task 1: the pool was made smaller before this \
         worker ran its task of the broadcast: call broadcast again (worker 1)\")]\n"
    );
}

fn give_up_meanwhile(arguments: &Arguments) {
    let fails = std::env::temp_dir().join("fails");
    let initialize = |fails: PathBuf| assert!(!fails.exists(), "the disk is gone");
    let builder = arguments.pool_builder(2).initializer(initialize, fails.clone());
    let pool = builder.build().expect("it is built");
    visit(&pool);
    let worker_1 = pool.worker_pids()[1];
    let [first, second] = hold_two_broadcasts(&pool, |_| {
        marker_files::create(&fails);
        let worker_1 = nix::unistd::Pid::from_raw(worker_1 as i32);
        nix::sys::signal::kill(worker_1, Signal::SIGKILL).expect("it is alive");
    });
    let first = first.expect("its worker died");
    assert!(first.starts_with("death signal=9 task=1 worker=1 "), "{first}");
    let second = second.expect("no worker came");
    assert!(second.starts_with("initializer task=1 worker=1 "), "{second}");
    assert!(second.contains("the disk is gone"), "{second}");
    let seen = pool.broadcast(who, ()).expect("one worker is left");
    assert_eq!((seen.len(), seen[0].0), (1, 0));
    std::fs::remove_file(&fails).expect("it is there");
}

fn task_of_a_slot_that_is_given_up_is_an_error(start_method: StartMethod) {
    let finished = run(give_up_meanwhile, start_method, &[]);
    assert!(finished.status.success(), "{}", finished.stderr);
}

fn refuse(arguments: &Arguments) {
    let pool = arguments.pool_builder(2).max_pending(1).build().expect("it is built");
    let error = pool.broadcast(who, ()).expect_err("there is room for one task");
    println!("{}", describe(&error));
    let pool = arguments.pool(2);
    let error = pool.options().seed(1).with_state().broadcast(|_, ()| (), ());
    println!("{}", describe(&error.expect_err("a state depends on earlier tasks")));
    let error = pool.options().priority(1000).broadcast(who, ()).expect_err("it is too high");
    println!("{}", describe(&error));
    assert_eq!(visit(&pool).len(), 2);
    pool.close();
    println!("{}", describe(&pool.broadcast(who, ()).expect_err("it is closed")));
}

fn broadcast_that_cannot_run_is_refused(start_method: StartMethod) {
    crate::support::assert_snapshot(
        "refused_broadcasts",
        2,
        run(refuse, start_method, &[]).succeeded(),
    );
}

fn stop_one(arguments: &Arguments) {
    let pool = arguments.pool(2);
    visit(&pool);
    let worker_1 = nix::unistd::Pid::from_raw(pool.worker_pids()[1] as i32);
    nix::sys::signal::kill(worker_1, Signal::SIGSTOP).expect("it is alive");
    let limited = pool.options().timeout(Duration::from_millis(100));
    let error = limited.broadcast(who, ()).expect_err("one worker is stopped");
    assert_eq!((error.kind(), error.worker()), (ErrorKind::Timeout, Some(1)), "{error}");
    assert_eq!(visit(&pool).len(), 2);
    // A worker that works is not taken for a stopped one.
    let files = MarkerFiles::new();
    let held = pool.apply_async(hold, (files.path("held"), files.path("go"))).expect("accepted");
    marker_files::wait_for(&files.path("held"));
    std::thread::scope(|scope| {
        let broadcast = scope.spawn(|| limited.broadcast(who, ()));
        std::thread::sleep(Duration::from_secs(2)); // longer than the timeout and MIN_STOPPED_TIME
        marker_files::create(&files.path("go"));
        assert_eq!(broadcast.join().expect("it does not panic").expect("none is stopped").len(), 2);
    });
    held.get().expect("nothing fails");
    // Nor is a worker that is not ready yet.
    let wait = |mark: PathBuf| marker_files::wait_for(&mark);
    let builder = arguments.pool_builder(2).initializer(wait, files.path("ready"));
    let Ok(pool) = builder.build() else {
        assert_eq!(
            arguments.start_method,
            StartMethod::Fork,
            "only `Fork` can build no second pool: the first one has threads"
        );
        return;
    };
    std::thread::scope(|scope| {
        let broadcast =
            scope.spawn(|| pool.options().timeout(Duration::from_millis(100)).broadcast(who, ()));
        std::thread::sleep(Duration::from_secs(2)); // as above
        marker_files::create(&files.path("ready"));
        assert_eq!(broadcast.join().expect("it does not panic").expect("all get ready").len(), 2);
    });
}

fn stopped_worker_fails_its_task_of_a_broadcast_alone(start_method: StartMethod) {
    run(stop_one, start_method, &[]).succeeded();
}

fn visit_from_many_threads(arguments: &Arguments) {
    let pool = arguments.pool(3);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..100 {
                    let seen = pool.broadcast(|x: u64| (who(()).0, x), round).expect("none fails");
                    assert_eq!(seen, [(0, round), (1, round), (2, round)]);
                    let squares = pool.map(|x: u64| x * x, 0..50).expect("nothing fails");
                    assert_eq!(squares[7], 49, "of thread {thread}");
                }
            });
        }
    });
}

fn broadcasts_of_many_threads_keep_apart(start_method: StartMethod) {
    run(visit_from_many_threads, start_method, &[]).succeeded();
}
