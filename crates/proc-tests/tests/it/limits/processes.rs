//! Limits on the number of processes and threads of a user.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use proc_core::{Child, Pool, Process, StartMethod, Task};

use crate::support::marker_files::{self, MarkerFiles};
use crate::support::procfs::{children, children_of};
use crate::support::users::{become_unused_user, can_be_another_user};
use crate::support::{
    Arguments, assert_snapshot, describe, print_results, raw, run, signal_self, wait_until,
    work_forever,
};

programs![no_threads, no_processes];

tests! {
    workers_without_a_thread_are_ended: forkserver spawn fork;
    lack_of_processes_is_an_error: forkserver spawn fork;
}

fn increment(x: u32) -> u32 {
    x + 1
}

/// The program can start workers but no threads for them. These workers are ended, and others do
/// their tasks.
fn no_threads(arguments: &Arguments) {
    become_unused_user();
    let pool = arguments.pool(1);
    let first = pool.apply(|()| std::process::id(), ()).expect("it returns");
    let marks = MarkerFiles::new();
    let go = marks.path("go");
    let only_there = |(first, go): (u32, PathBuf)| {
        if std::process::id() != first {
            work_forever();
        }
        marker_files::wait_for(&go);
    };
    let waits = pool.options().chunksize(1).map_async(only_there, vec![(first, go.clone()); 6]);
    let (_, most) = getrlimit(Resource::RLIMIT_NPROC).expect("it can be asked");
    setrlimit(Resource::RLIMIT_NPROC, 1, most).expect("less is allowed");
    println!("{}", describe(&pool.resize(4).expect_err("there is no thread for it")));
    let limited = pool.options().timeout(Duration::from_secs(60));
    let refused =
        limited.apply_async(|mark: PathBuf| marker_files::create(&mark), marks.path("no"));
    println!("{}", describe(&refused.expect_err("there is no thread for the time limit")));
    setrlimit(Resource::RLIMIT_NPROC, most, most).expect("the hard limit stayed");
    assert_eq!(pool.worker_pids(), [first]);
    marker_files::create(&go);
    waits.and_then(Task::get).expect("the first worker does all");
    pool.resize(3).expect("there are threads again");
    println!("{:?}", pool.map(increment, 0..3).expect("nothing fails"));
    pool.close();
    pool.join().expect("it ends");
    assert!(!marks.path("no").exists(), "a call that is an error has run");
}

fn workers_without_a_thread_are_ended(start_method: StartMethod) {
    if can_be_another_user() {
        assert_snapshot("no_threads", 1, run(no_threads, start_method, &[]).succeeded());
    }
}

/// The user may have no more processes: first while a pool starts, then when a worker must be
/// replaced.
fn no_processes(arguments: &Arguments) {
    become_unused_user();
    let start_method = arguments.start_method;
    let (_, most) = getrlimit(Resource::RLIMIT_NPROC).expect("it can be asked");
    // What counts is the limit of the process that forks. That is the fork server, which has a copy
    // of this process's limit with `Fork`.
    let limit = |processes: u64| {
        setrlimit(Resource::RLIMIT_NPROC, processes, most).expect("less is allowed");
        for fork_server in children() {
            raw::limit_processes(fork_server, processes, most);
        }
    };
    let grandchildren = || children().into_iter().flat_map(children_of).count();
    let child = Process::new(increment, 1).start_method(start_method).start();
    child.and_then(Child::join).expect("it returns");
    wait_until(|| grandchildren() == 0);
    // Room for this process, the fork server, and two of four workers.
    limit(4);
    let pool = Pool::builder().processes(4).start_method(start_method).build();
    println!("{}", describe(&pool.expect_err("there is no third worker")));
    wait_until(|| grandchildren() == 0);
    limit(most);
    let pool =
        Pool::builder().processes(2).start_method(start_method).build().expect("it can be built");
    limit(0);
    let die = |task: u32| {
        if task == 0 {
            signal_self(Signal::SIGKILL);
        }
        task
    };
    print_results(pool.options().chunksize(1).try_map(die, 0..4));
    println!("{:?}", pool.map(increment, 0..3).expect("one worker goes on"));
    assert_eq!(grandchildren(), 1);
    limit(most);
    wait_until(|| grandchildren() == 2);
    println!("two again");
}

fn lack_of_processes_is_an_error(start_method: StartMethod) {
    if can_be_another_user() {
        assert_snapshot("no_processes", 4, run(no_processes, start_method, &[]).succeeded());
    }
}
