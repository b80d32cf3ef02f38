//! Copies that the user's `fork` makes are processes of their own: they share the objects, but do
//! not have the locks and permits that their original has.

use std::time::{Duration, Instant};

use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use proc_core::sync::{Barrier, Event, Lock, Mutex, Semaphore};
use proc_core::{Child, ErrorKind, Process, StartMethod};

use crate::support::fork::{exit_now, expect_success, fork, in_copy};
use crate::support::{Arguments, SOON, describe, run, work_forever};
use crate::sync::everything::Everything;
use crate::sync::storm::{kill_now, wait_until_asleep};

programs![use_in_copies, drop_guards_in_copies, kill_copies, fork_in_tasks, wait_with_copies,];

tests! {
    copies_use_and_drop_handles: forkserver spawn fork;
    copies_release_nothing_of_their_original: forkserver spawn fork;
    death_of_a_copy_is_noticed: forkserver spawn fork;
    copies_of_workers_use_and_drop_handles: forkserver spawn fork;
    copies_wait_for_their_original: forkserver;
}

/// Lets another process use the objects.
fn use_elsewhere(arguments: &Arguments, all: &Everything) {
    let process = Process::new(|all: Everything| all.use_once(), all.clone());
    let child = process.start_method(arguments.start_method).start();
    child.and_then(Child::join).unwrap_or_else(|error| panic!("{}", describe(&error)));
}

fn use_in_copies(arguments: &Arguments) {
    let all = Everything::new();
    for _ in 0..20 {
        let Some(copy) = fork() else {
            all.use_once();
            drop(all);
            // What a copy makes is its own.
            let own = Everything::new();
            own.use_once();
            own.expect_used(1);
            // A copy of the copy.
            expect_success(in_copy(|| {
                own.use_once();
                own.expect_used(2);
            }));
            own.expect_used(2);
            exit_now(0)
        };
        expect_success(copy);
    }
    all.expect_used(20);
    use_elsewhere(arguments, &all);
    all.expect_used(21);
    // Objects that are made after the forks lie elsewhere.
    let other = Everything::new();
    other.expect_used(0);
    other.use_once();
    all.expect_used(21);
}

fn copies_use_and_drop_handles(start_method: StartMethod) {
    run(use_in_copies, start_method, &[]).succeeded();
}

/// Asserts that this thread can take none of the objects. The processes that have them are alive.
fn expect_taken(all: &Everything) {
    let short = Duration::from_millis(20);
    assert!(all.lock.try_lock().expect("there are locks").is_none());
    assert!(all.lock.lock_timeout(short).expect("it does not have it").is_none());
    assert!(all.rlock.try_lock().expect("there are locks").is_none());
    assert!(all.rlock.lock_timeout(short).expect("there are locks").is_none());
    assert!(all.mutex.try_lock().expect("nobody died").is_none());
    assert!(all.mutex.lock_timeout(short).expect("nobody died").is_none());
    assert!(all.semaphore.try_acquire().expect("few are lent").is_none());
    assert!(all.semaphore.acquire_timeout(short).expect("few are lent").is_none());
}

fn drop_guards_in_copies(arguments: &Arguments) {
    let all = Everything::new();
    let elsewhere = |all: Everything| expect_taken(&all);
    let expect_taken_elsewhere = || {
        let process = Process::new(elsewhere, all.clone()).start_method(arguments.start_method);
        process.start().and_then(Child::join).expect("all are taken");
    };
    let guards = (
        all.lock.lock().expect("nobody has it"),
        (all.rlock.lock().expect("nobody has it"), all.rlock.lock().expect("it has it")),
        all.mutex.lock().expect("nobody has it"),
        [(); 2].map(|()| all.semaphore.acquire().expect("nobody has one")),
    );
    let Some(copy) = fork() else {
        expect_taken(&all);
        drop(guards);
        expect_taken(&all);
        exit_now(0)
    };
    expect_success(copy);
    expect_taken_elsewhere();
    // The permits of a copy cannot be forgotten either.
    let (lock, rlocks, mutex, permits) = guards;
    let Some(copy) = fork() else {
        permits.into_iter().for_each(|permit| permit.forget());
        exit_now(0)
    };
    expect_success(copy);
    expect_taken_elsewhere();
    // A copy that waits for its original gets the lock from it, and nothing was abandoned.
    let copy = in_copy(|| {
        let guard = all.lock.lock().expect("this thread does not have it");
        assert!(!guard.was_abandoned());
    });
    drop((lock, rlocks, mutex, permits));
    expect_success(copy);
    all.expect_used(0);
    use_elsewhere(arguments, &all);
    all.expect_used(1);
}

fn copies_release_nothing_of_their_original(start_method: StartMethod) {
    run(drop_guards_in_copies, start_method, &[]).succeeded();
}

/// Starts a copy that takes everything, and kills it. No fork server reaps the copy, so nobody
/// announces its death to the other processes. The copy is not reaped before this returns.
fn die_with(all: &Everything) -> Pid {
    let taken = Event::new().expect("memory");
    let copy = in_copy(|| {
        let _guards = (all.lock.lock(), all.rlock.lock(), all.mutex.lock());
        let _permits = [(); 2].map(|()| all.semaphore.acquire());
        taken.set();
        work_forever();
    });
    taken.wait();
    kill_now(copy.as_raw() as u32);
    copy
}

/// Gets what the dead had, and repairs it.
fn take_over(all: &Everything) {
    let begun = Instant::now();
    assert!(all.lock.lock_timeout(SOON).expect("it lives").expect("soon").was_abandoned());
    assert!(all.rlock.lock_timeout(SOON).expect("it lives").expect("soon").was_abandoned());
    let error = all.mutex.lock_timeout(SOON).map(drop).expect_err("it was abandoned");
    assert_eq!(error.kind(), ErrorKind::Abandoned, "{}", describe(&error));
    drop(all.mutex.recover().expect("nobody has it"));
    let permits = [(); 2].map(|()| all.semaphore.acquire_timeout(SOON).expect("few are lent"));
    assert!(permits.iter().all(Option::is_some), "they came back");
    assert!(begun.elapsed() < SOON);
}

/// Copies are killed while they have everything, before others come. One is killed with a lock for
/// which another waits already.
fn kill_copies(arguments: &Arguments) {
    let all = Everything::new();
    for round in 0..4 {
        let Some(waiting) = (round % 2 == 0).then(|| {
            let process = Process::new(|all: Everything| take_over(&all), all.clone());
            let copy = die_with(&all);
            let child = process.start_method(arguments.start_method).start();
            (copy, child.expect("it can be started"))
        }) else {
            let copy = die_with(&all);
            take_over(&all);
            waitpid(copy, None).expect("the copy is a child");
            continue;
        };
        let (copy, child) = waiting;
        child.join().unwrap_or_else(|error| panic!("{}", describe(&error)));
        waitpid(copy, None).expect("the copy is a child");
    }
    all.expect_used(0);
    // Those that wait already notice it too.
    let lock = Lock::new().expect("memory");
    let taken = Event::new().expect("memory");
    let copy = in_copy(|| {
        let _guard = lock.lock();
        taken.set();
        work_forever();
    });
    taken.wait();
    let this = std::process::id();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_until_asleep(this);
            kill_now(copy.as_raw() as u32);
        });
        let guard = lock.lock_timeout(SOON).expect("this thread does not have it");
        assert!(guard.expect("soon").was_abandoned());
    });
    waitpid(copy, None).expect("the copy is a child");
}

fn death_of_a_copy_is_noticed(start_method: StartMethod) {
    run(kill_copies, start_method, &[]).succeeded();
}

/// Tasks fork while they have guards.
fn fork_in_tasks(arguments: &Arguments) {
    type Data = (Everything, Lock, Semaphore, Mutex<u64>);
    let task = |(all, lock, semaphore, mutex): &Data, x: u32| {
        let guard = lock.lock().expect("nobody dies with it");
        let permit = semaphore.acquire().expect("few are lent");
        let mut number = mutex.lock().expect("nobody dies with it");
        *number += 1;
        let Some(copy) = fork() else {
            all.use_once();
            drop((guard, permit, number));
            assert!(lock.try_lock().expect("there are locks").is_none());
            assert!(semaphore.try_acquire().expect("few are lent").is_none());
            assert!(mutex.try_lock().expect("nobody died").is_none());
            exit_now(0)
        };
        expect_success(copy);
        *number += 1;
        x
    };
    let all = Everything::new();
    let (lock, mutex) = (Lock::new().expect("memory"), Mutex::new(0).expect("memory"));
    let semaphore = Semaphore::new(1).expect("memory");
    let pool = arguments.pool(2);
    let with = pool.with((all.clone(), lock.clone(), semaphore.clone(), mutex.clone()));
    let results = with.map(task, 0..30).unwrap_or_else(|error| panic!("{}", describe(&error)));
    assert!(results.into_iter().eq(0..30));
    all.expect_used(30);
    assert_eq!(*mutex.lock().expect("nobody died"), 60);
    assert!(!lock.lock().expect("nobody has it").was_abandoned());
    assert_eq!(semaphore.available_permits().expect("there are locks"), 1);
}

fn copies_of_workers_use_and_drop_handles(start_method: StartMethod) {
    run(fork_in_tasks, start_method, &[]).succeeded();
}

/// A copy and its original wait for each other, in each way.
fn wait_with_copies(_: &Arguments) {
    let (go, done) = (Event::new().expect("memory"), Event::new().expect("memory"));
    let signals = Semaphore::new(0).expect("memory");
    let barrier = Barrier::new(2).expect("memory");
    let copy = in_copy(|| {
        go.wait();
        signals.add_permits(1).expect("few are there");
        assert!((0..500).all(|_| barrier.wait().expect("nobody dies") < 2));
        done.set();
        work_forever(); // so that nobody sees it end
    });
    go.set();
    signals.acquire().expect("few are lent").forget();
    assert!((0..500).all(|_| barrier.wait().expect("nobody dies") < 2));
    done.wait();
    kill_now(copy.as_raw() as u32);
    // The copy was a party too.
    let error = barrier.wait_timeout(SOON).expect_err("a party has died");
    assert_eq!(error.kind(), ErrorKind::Abandoned, "{}", describe(&error));
    assert_eq!(error.pid(), Some(copy.as_raw() as u32));
    waitpid(copy, None).expect("the copy is a child");
}

fn copies_wait_for_their_original(start_method: StartMethod) {
    run(wait_with_copies, start_method, &[]).succeeded();
}
