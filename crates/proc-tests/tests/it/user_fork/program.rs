//! Copies of the program that the user's `fork` makes: they cannot use, and cannot damage, what the
//! program has.

use std::sync::mpsc;
use std::time::Duration;

use nix::unistd::Pid;
use proc_core::{Child, Error, ErrorKind, Pool, Process, Sentinel, Shared, StartMethod, Task};

use crate::support::fork::{exit_now, expect_success, fork, in_copy};
use crate::support::marker_files::{self, MarkerFiles};
use crate::support::{Arguments, Program, describe, start, work_forever};

programs![
    call_in_copies,
    use_tasks_in_copies,
    drop_values_in_copies,
    use_children_in_copies,
    copy_while_busy,
    end_copies,
    build_pools_in_copies,
    become_daemon
];

tests! {
    calls_of_a_copy_are_refused: forkserver spawn fork;
    tasks_of_a_copy_are_refused: forkserver spawn fork;
    values_dropped_by_a_copy_are_kept_by_the_program: forkserver spawn fork;
    children_of_a_copy_are_left_alone: forkserver spawn fork;
    copies_of_a_busy_program_do_not_hang: forkserver spawn fork;
    ends_of_copies_are_harmless: forkserver spawn fork;
    copies_make_pools_of_their_own: forkserver spawn fork;
    daemons_make_pools: forkserver spawn fork;
}

fn increment(x: u32) -> u32 {
    x + 1
}

fn count(state: &mut u32, x: u32) -> u32 {
    *state + x
}

/// Takes long enough that there is something to damage.
fn nap(x: u32) -> u32 {
    std::thread::sleep(Duration::from_millis(5));
    x + 1
}

/// Asserts that a call in a copy is refused. The error names the process that owns the pool.
#[track_caller]
fn expect_refused<T>(result: Result<T, Error>, owner: u32) {
    let error = result.map(drop).expect_err("the pool is another process's");
    assert!(error.kind() == ErrorKind::Invalid, "{}", describe(&error));
    assert!(error.to_string().contains(&owner.to_string()), "{}", describe(&error));
}

fn stateful_pool(arguments: &Arguments) -> Pool<u32> {
    let builder = Pool::builder().processes(2).start_method(arguments.start_method);
    builder.state(|first: u32| first, 7).build().expect("it can be built")
}

/// Asserts that the parent's pool has the same workers as before, and that its calls are right.
fn expect_unharmed<S: 'static>(pool: &Pool<S>, before: &[u32]) {
    for _ in 0..20 {
        let results = pool.options().chunksize(1).map(increment, 0..50);
        assert!(results.expect("nothing fails").into_iter().eq(1..51));
    }
    assert_eq!(pool.worker_pids(), before, "a worker has left");
}

/// Makes each call of a pool in a copy of its own, and then all of them in one copy.
fn call_in_copies(arguments: &Arguments) {
    type Call = fn(&Pool<u32>, u32);
    const CALLS: &[Call] = &[
        |pool, owner| expect_refused(pool.apply(increment, 1), owner),
        |pool, owner| expect_refused(pool.apply_async(increment, 1), owner),
        |pool, owner| expect_refused(pool.map(increment, 0..10), owner),
        |pool, owner| expect_refused(pool.map_async(increment, 0..10), owner),
        |pool, owner| {
            let results = pool.try_map(increment, 0..10);
            assert_eq!(results.len(), 10);
            results.into_iter().for_each(|result| expect_refused(result, owner));
        },
        |pool, owner| {
            let first = pool.imap(increment, 0..10).next();
            expect_refused(first.expect("an error"), owner);
        },
        |pool, owner| {
            let first = pool.imap_unordered(increment, 0..10).next();
            expect_refused(first.expect("an error"), owner);
        },
        |pool, owner| {
            let options = pool.options().timeout(Duration::from_secs(1)).retries(2);
            expect_refused(options.map(increment, 0..10), owner);
        },
        |pool, owner| expect_refused(pool.with_state().apply(count, 1), owner),
        |pool, owner| expect_refused(pool.with_state().map(count, 0..10), owner),
        |pool, owner| expect_refused(pool.with_state().map_async(count, 0..10), owner),
        |pool, owner| {
            let first = pool.with_state().imap(count, 0..10).next();
            expect_refused(first.expect("an error"), owner);
        },
        |pool, owner| expect_refused(pool.resize(1), owner),
        |pool, owner| expect_refused(pool.resize(3), owner),
        |pool, owner| expect_refused(pool.join(), owner),
        |pool, _| pool.close(),
        |pool, _| pool.terminate(),
        |pool, _| {
            // Their results do not matter, but they must return.
            let _ = (pool.processes(), pool.worker_pids(), format!("{pool:?}"));
        },
    ];
    let pool = stateful_pool(arguments);
    pool.map(increment, 0..50).expect("nothing fails");
    let (owner, before) = (std::process::id(), pool.worker_pids());
    for call in CALLS {
        expect_success(in_copy(|| {
            call(&pool, owner);
            // The next call is refused too.
            expect_refused(pool.apply(increment, 1), owner);
        }));
        expect_unharmed(&pool, &before);
    }
    expect_success(in_copy(|| CALLS.iter().for_each(|call| call(&pool, owner))));
    expect_unharmed(&pool, &before);
    pool.close();
    pool.join().expect("the workers end");
    println!("unharmed");
}

fn expect_unharmed_program(program: Program, start_method: StartMethod) {
    let program = start(program, start_method, &[]).limited_to(Duration::from_secs(40));
    assert_eq!(program.finish().succeeded(), "unharmed\n");
}

fn calls_of_a_copy_are_refused(start_method: StartMethod) {
    expect_unharmed_program(call_in_copies, start_method);
}

/// In a forked copy of the program: uses its `Task` in one way, which must be refused.
fn use_task(way: usize, mut task: Task<u32>, owner: u32) {
    match way {
        0 => expect_refused(task.get(), owner),
        1 => {
            let start = std::time::Instant::now();
            expect_refused(task.get_timeout(Duration::from_secs(600)), owner);
            assert!(start.elapsed() < Duration::from_secs(300), "the error comes at once");
        }
        2 => expect_refused(pollster::block_on(task), owner),
        3 => {
            assert!(!task.cancel(), "it is not the copy's to cancel");
            let _ = task.is_ready();
        }
        4 => {
            let (send, told) = mpsc::channel();
            task.on_done(move |result| {
                let _ = send.send(result);
            });
            // If the callback is called at all, it must be called with the error.
            if let Ok(result) = told.try_recv() {
                expect_refused(result, owner);
            }
        }
        _ => drop(task),
    }
}

/// Copies of tasks that are queued and running, of `map_async` and of iterators.
fn use_tasks_in_copies(arguments: &Arguments) {
    let pool = arguments.pool(2);
    pool.map(increment, 0..50).expect("nothing fails");
    let (owner, before) = (std::process::id(), pool.worker_pids());
    for way in 0..6 {
        let mut tasks: Vec<Task<u32>> =
            (0..20).map(|x| pool.apply_async(nap, x).expect("the pool is open")).collect();
        let many = pool.map_async(nap, 0..20).expect("the pool is open");
        let mut ordered = pool.imap(nap, 0..40);
        let mut unordered = pool.imap_unordered(nap, 0..40);
        assert_eq!(ordered.next().expect("40 results").expect("nothing fails"), 1);
        let mut seen = vec![unordered.next().expect("40 results").expect("nothing fails")];
        // The copy owns copies of all these values.
        let Some(copy) = fork() else {
            // The last task is still queued, or runs.
            use_task(way, tasks.remove(19), owner);
            use_task(way, tasks.remove(0), owner);
            match way {
                0 => expect_refused(many.get(), owner),
                1 => expect_refused(pollster::block_on(many), owner),
                2 => assert!(!many.cancel(), "it is not the copy's to cancel"),
                _ => drop(many),
            }
            if way != 5 {
                let hints = [ordered.size_hint(), unordered.size_hint()];
                assert!(hints.iter().all(|(least, most)| *least <= 1 && *most >= Some(1)));
                expect_refused(ordered.next().expect("an error"), owner);
                expect_refused(unordered.next().expect("an error"), owner);
            }
            drop((ordered, unordered, tasks));
            drop(pool);
            exit_now(0);
        };
        expect_success(copy);
        for (task, x) in tasks.into_iter().zip(0..) {
            assert_eq!(task.get().expect("nothing fails"), x + 1);
        }
        assert!(many.get().expect("nothing fails").into_iter().eq(1..21));
        let rest: Result<Vec<u32>, Error> = ordered.collect();
        assert!(rest.expect("nothing fails").into_iter().eq(2..41));
        seen.extend(unordered.map(|result| result.expect("nothing fails")));
        seen.sort_unstable();
        assert!(seen.into_iter().eq(1..41));
        expect_unharmed(&pool, &before);
    }
    drop(pool); // with Fork, a pool is built while there is one thread
    copy_of_what_has_come(arguments);
    println!("unharmed");
}

/// Task 0 never returns, the others do. Then the pool is terminated, and the iterator still has
/// their results. A copy must not get these.
fn copy_of_what_has_come(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let marks = MarkerFiles::new();
    let owner = std::process::id();
    let task = |(x, mark): (u32, std::path::PathBuf)| {
        if x == 0 {
            work_forever();
        }
        if x == 9 {
            marker_files::create(&mark);
        }
        x
    };
    let inputs = (0..10).map(|x| (x, marks.path("last")));
    let mut results = pool.options().chunksize(1).imap(task, inputs);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            marker_files::wait_for(&marks.path("last"));
            pool.terminate();
        });
        assert_eq!(results.next().expect("results are left").expect("it has come"), 1);
    });
    expect_success(in_copy(|| {
        let (least, most) = results.size_hint();
        assert!(least <= 1 && most >= Some(1), "{least} {most:?}");
        expect_refused(results.next().expect("an error"), owner);
        assert!(results.next().is_none(), "it is told once");
        assert_eq!(results.size_hint(), (0, Some(0)));
    }));
    let rest: Vec<Result<u32, Error>> = results.collect();
    assert!(rest.iter().filter_map(|result| result.as_ref().ok()).is_sorted());
    assert!(rest.last().is_some_and(|last| last.is_err()));
}

fn tasks_of_a_copy_are_refused(start_method: StartMethod) {
    expect_unharmed_program(use_tasks_in_copies, start_method);
}

/// Each copy drops one of its values; the last copy drops the iterators and the pool.
fn drop_values_in_copies(arguments: &Arguments) {
    let pool = arguments.pool(2);
    pool.map(increment, 0..50).expect("nothing fails");
    let shared = Shared::from_slice(&[1_u32, 2, 3]).expect("there is memory");
    let sum = |shared: Shared<u32>| shared.iter().sum::<u32>();
    let before = pool.worker_pids();
    for what in 0..5 {
        let task = pool.apply_async(nap, 1).expect("the pool is open");
        let mut ordered = pool.imap(nap, 0..40);
        let mut unordered = pool.imap_unordered(nap, 0..40);
        let first = (ordered.next(), unordered.next());
        assert!(first.0.is_some_and(|r| r.is_ok()) && first.1.is_some_and(|r| r.is_ok()));
        let Some(copy) = fork() else {
            match what {
                0 => drop(ordered),
                1 => drop(unordered),
                2 => drop(task),
                3 => {
                    assert_eq!(*shared, [1, 2, 3]);
                    drop(shared);
                }
                _ => {
                    drop((ordered, unordered));
                    drop(pool);
                }
            }
            exit_now(0);
        };
        expect_success(copy);
        assert_eq!(ordered.filter(Result::is_ok).count(), 39);
        assert_eq!(unordered.filter(Result::is_ok).count(), 39);
        assert_eq!(task.get().expect("nothing fails"), 2);
        assert_eq!(pool.map(sum, vec![shared.clone(); 10]).expect("it is there"), [6; 10]);
        expect_unharmed(&pool, &before);
    }
    println!("unharmed");
}

fn values_dropped_by_a_copy_are_kept_by_the_program(start_method: StartMethod) {
    expect_unharmed_program(drop_values_in_copies, start_method);
}

/// Copies of a `Child` and a `Sentinel` learn nothing, and do nothing to the process.
fn use_children_in_copies(arguments: &Arguments) {
    let marks = MarkerFiles::new();
    let wait = |go: std::path::PathBuf| {
        marker_files::wait_for(&go);
        7
    };
    let start = |name: &str| -> (Child<u32>, Sentinel) {
        // A `Child` makes no threads, so `Fork` stays possible.
        let process = Process::new(wait, marks.path(name)).start_method(arguments.start_method);
        let child = process.start().expect("it can be started");
        let sentinel = child.sentinel();
        (child, sentinel)
    };
    for way in 0..8 {
        let name = way.to_string();
        let (mut child, sentinel) = start(&name);
        let Some(copy) = fork() else {
            match way {
                0 => drop(child.join().expect_err("it is another process's child")),
                1 => {
                    let result = child.join_timeout(Duration::from_millis(10));
                    assert!(result.is_err(), "it is another process's child");
                }
                2 => drop(child.stop(Duration::ZERO).expect_err("it is another process's child")),
                3 => drop(child.terminate()),
                4 => drop(child.kill()),
                5 => {
                    let _ = (child.is_alive(), child.exit_status(), child.pid());
                }
                6 => {
                    let _ = proc_core::wait(&[sentinel], Some(Duration::from_millis(10)));
                }
                _ => drop((child, sentinel)),
            }
            exit_now(0);
        };
        expect_success(copy);
        assert!(child.is_alive(), "way {way}");
        marker_files::create(&marks.path(&name));
        assert_eq!(proc_core::wait(&[sentinel], None), [0]);
        assert_eq!(child.join().expect("it returns"), 7, "way {way}");
    }
    println!("unharmed");
}

fn children_of_a_copy_are_left_alone(start_method: StartMethod) {
    expect_unharmed_program(use_children_in_copies, start_method);
}

/// Another thread keeps the pool busy, and holds its locks at times, while copies are made.
fn copy_while_busy(arguments: &Arguments) {
    let pool = arguments.pool(2);
    pool.map(increment, 0..50).expect("nothing fails");
    let (owner, before) = (std::process::id(), pool.worker_pids());
    let (stop, stopped) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let stopped = stopped;
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                let results = pool.options().chunksize(1).map(increment, 0..50);
                assert!(results.expect("nothing fails").into_iter().eq(1..51));
            }
        });
        for _ in 0..100 {
            let task = pool.apply_async(nap, 1).expect("the pool is open");
            let results = pool.imap(increment, 0..10);
            let Some(copy) = fork() else {
                expect_refused(pool.apply(increment, 1), owner);
                drop(results);
                expect_refused(task.get(), owner);
                expect_refused(pool.join(), owner);
                pool.terminate();
                exit_now(0);
            };
            expect_success(copy);
            assert_eq!(results.filter(Result::is_ok).count(), 10);
            assert_eq!(task.get().expect("nothing fails"), 2);
        }
        drop(stop);
    });
    expect_unharmed(&pool, &before);
    println!("unharmed");
}

fn copies_of_a_busy_program_do_not_hang(start_method: StartMethod) {
    expect_unharmed_program(copy_while_busy, start_method);
}

/// A copy ends in order, by `exit` or by the end of `main`, while the parent is in the middle of a
/// call.
fn end_copies(arguments: &Arguments) {
    let marks = MarkerFiles::new();
    let wait = |go: std::path::PathBuf| marker_files::wait_for(&go);
    let child = Process::new(wait, marks.path("go")).start_method(arguments.start_method).start();
    let child = child.expect("it can be started");
    let pool = arguments.pool(2);
    pool.map(increment, 0..50).expect("nothing fails");
    let before = pool.worker_pids();
    for way in 0..4 {
        let mut results = pool.imap(nap, 0..40);
        assert_eq!(results.next().expect("40 results").expect("nothing fails"), 1);
        let Some(copy) = fork() else {
            match way % 2 {
                0 => std::process::exit(0),
                _ => {
                    // The copy must not remove the parent's marker files.
                    std::mem::forget(marks);
                    return;
                }
            }
        };
        expect_success(copy);
        assert_eq!(results.filter(Result::is_ok).count(), 39);
        expect_unharmed(&pool, &before);
    }
    marker_files::create(&marks.path("go"));
    child.join().expect("it returns");
    println!("unharmed");
}

fn ends_of_copies_are_harmless(start_method: StartMethod) {
    expect_unharmed_program(end_copies, start_method);
}

fn use_anew(start_method: StartMethod) {
    let child = Process::new(increment, 41).start_method(start_method).start();
    assert_eq!(child.and_then(Child::join).expect("it returns"), 42);
    let pool =
        Pool::builder().processes(2).start_method(start_method).build().expect("it can be built");
    assert!(pool.map(increment, 0..20).expect("nothing fails").into_iter().eq(1..21));
    drop(pool);
    let child = Process::new(increment, 1).start_method(StartMethod::Forkserver).start();
    assert_eq!(child.and_then(Child::join).expect("it returns"), 2);
}

/// A copy builds a pool of its own, before and after the parent has one.
fn build_pools_in_copies(arguments: &Arguments) {
    let start_method = arguments.start_method;
    expect_success(in_copy(|| use_anew(start_method)));
    let pool = arguments.pool(2);
    pool.map(increment, 0..50).expect("nothing fails");
    let before = pool.worker_pids();
    for _ in 0..3 {
        expect_success(in_copy(|| {
            use_anew(start_method);
            // A copy of the copy.
            expect_success(in_copy(|| use_anew(start_method)));
        }));
        expect_unharmed(&pool, &before);
    }
    println!("unharmed");
}

fn copies_make_pools_of_their_own(start_method: StartMethod) {
    expect_unharmed_program(build_pools_in_copies, start_method);
}

/// The program becomes a daemon after init; it leaves the test's process group.
fn become_daemon(arguments: &Arguments) {
    nix::unistd::daemon(true, true).expect("it can be made a daemon");
    // The test cannot kill a daemon that hangs.
    nix::unistd::alarm::set(40);
    let leader = nix::unistd::getsid(None).expect("it has a session");
    assert_eq!(leader, Pid::this());
    use_anew(arguments.start_method);
    println!("used");
}

/// `daemon()` ends the program that the test started; the daemon is in a group of its own.
fn daemons_make_pools(start_method: StartMethod) {
    let mut program = start(become_daemon, start_method, &[]);
    program.lines(1, "used");
    assert_eq!(program.finish().stderr, "");
}
