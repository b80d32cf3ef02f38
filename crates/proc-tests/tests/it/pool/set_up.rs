//! What runs before tasks: the initializer of each worker, and what a pool preloads.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process;
use std::sync::OnceLock;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proc_core::{Pool, StartMethod};

use crate::support::marker_files::{self, MarkerFiles};
use crate::support::{
    Arguments, SOON, assert_snapshot, describe, print_results, procfs, run, signal_self, wait_until,
};

programs![initializer_fails, initializer_fails_once, preload_a_table, preload_fails, preload_again];

tests! {
    failing_initializer_ends_the_pool: forkserver spawn fork;
    initializer_may_fail_once: forkserver spawn fork;
    preloaded_data_are_in_every_worker: forkserver spawn fork;
    failing_preload_is_an_error: forkserver spawn fork;
    next_fork_server_runs_preload_again: forkserver spawn fork;
}

fn pid(_: u32) -> u32 {
    process::id()
}

/// An initializer fails in every worker.
fn initializer_fails(arguments: &Arguments) {
    let start = Instant::now();
    let way = arguments.word().to_owned();
    let initializer = |way: String| {
        println!("attempt");
        match way.as_str() {
            "panics" => panic!("no licence"),
            "exits" => process::exit(4),
            "is killed" => signal_self(Signal::SIGKILL),
            other => panic!("no way to fail: {other}"),
        }
    };
    let pool = Pool::builder()
        .processes(2)
        .start_method(arguments.start_method)
        .initializer(initializer, way)
        .build()
        .expect("the build does not wait for initializers");
    let error = pool.map(pid, 0..8).expect_err("no worker is ready");
    println!("map: {}", describe(&error));
    let error = pool.apply(pid, 0).expect_err("the pool is over");
    println!("apply: {}", describe(&error));
    print_results(pool.try_map(pid, 0..2));
    pool.close();
    println!("join: {}", describe(&pool.join().expect_err("the pool is over")));
    let took = start.elapsed();
    assert!(took < SOON, "{took:?}");
}

fn failing_initializer_ends_the_pool(start_method: StartMethod) {
    for way in ["panics", "exits", "is killed"] {
        let finished = run(initializer_fails, start_method, &[way]);
        let name = format!("initializer_that_{}", way.replace(' ', "_"));
        assert_snapshot(&name, 2, finished.succeeded());
    }
}

/// An initializer ends its process the first time.
fn initializer_fails_once(arguments: &Arguments) {
    let marks = MarkerFiles::new();
    let initializer = |mark: PathBuf| {
        if marker_files::create(&mark) {
            process::exit(4);
        }
    };
    let pool = Pool::builder()
        .processes(2)
        .start_method(arguments.start_method)
        .initializer(initializer, marks.path("first"))
        .build()
        .expect("the build does not wait for initializers");
    println!("{:?}", pool.map(|x: u32| x, 0..8).expect("the next attempt is good"));
}

fn initializer_may_fail_once(start_method: StartMethod) {
    let finished = run(initializer_fails_once, start_method, &[]);
    assert_eq!(finished.succeeded(), "[0, 1, 2, 3, 4, 5, 6, 7]\n");
}

static TABLE: OnceLock<(u32, Vec<u64>)> = OnceLock::new();

fn fill(len: u64) {
    let table = (0..len).map(|x| x * x).collect();
    TABLE.set((std::process::id(), table)).expect("once in this process");
}

/// The process that filled the table, this worker's fork server, and a value of the table.
fn look(at: usize) -> (u32, u32, u64) {
    let (pid, table) = TABLE.get().expect("it was filled before this worker was made");
    (*pid, std::os::unix::process::parent_id(), table[at])
}

/// The preload runs once, in the fork server of all workers, also of those that start later.
fn preload_a_table(arguments: &Arguments) {
    let pool = arguments.pool_builder(2).preload(fill, 1000).max_tasks_per_child(2).build();
    let pool = pool.expect("it can be built");
    let seen = pool.options().chunksize(1).map(look, vec![999; 20]).expect("nothing fails");
    println!("values {:?}", BTreeSet::from_iter(seen.iter().map(|(.., value)| value)));
    println!("fork servers {}", BTreeSet::from_iter(seen.iter().map(|(pid, ..)| pid)).len());
    println!("parents {}", seen.iter().all(|(pid, parent, _)| pid == parent));
    println!("here {}", TABLE.get().is_some());
    let fork_server = seen[0].0;
    drop(pool);
    wait_until(|| !procfs::exists(fork_server));
    println!("gone");
}

fn preloaded_data_are_in_every_worker(start_method: StartMethod) {
    let expected = "values {998001}\nfork servers 1\nparents true\nhere false\ngone\n";
    assert_eq!(run(preload_a_table, start_method, &[]).succeeded(), expected);
}

fn preload_fails(arguments: &Arguments) {
    let fail = |how: u32| match how {
        0 => panic!("no table today"),
        1 => std::process::exit(3),
        2 => std::process::abort(),
        _ => drop(std::thread::spawn(|| {
            loop {
                std::thread::park();
            }
        })),
    };
    for how in 0..4 {
        let error = arguments.pool_builder(2).preload(fail, how).build().expect_err("it fails");
        println!("{}", describe(&error));
    }
    let pool =
        arguments.pool_builder(2).preload(|()| print!("once "), ()).build().expect("it is built");
    println!("{:?}", pool.map(|x: u32| x + 1, 0..4).expect("nothing fails"));
}

fn failing_preload_is_an_error(start_method: StartMethod) {
    assert_snapshot("preload_fails", 1, run(preload_fails, start_method, &[]).succeeded());
}

/// After the fork server has died, the next worker has a new one, which has run the preload again.
fn preload_again(arguments: &Arguments) {
    let marks = MarkerFiles::new();
    let run = |mark: PathBuf| {
        let number = (0..).find(|n| marker_files::create(&mark.with_extension(n.to_string())));
        fill(number.expect("there are numbers"));
    };
    let pool = arguments.pool_builder(1).preload(run, marks.path("run")).build();
    let pool = pool.expect("it can be built");
    let length = |()| (TABLE.get().map(|(pid, table)| (*pid, table.len())), std::process::id());
    let (first, _) = pool.apply(length, ()).expect("it runs");
    let (fork_server, len) = first.expect("it was filled");
    println!("first {len}");
    kill(Pid::from_raw(fork_server as i32), Signal::SIGKILL).expect("it lives");
    // The worker ends with its fork server. A task that it is given meanwhile fails.
    let mut again = pool.apply(length, ());
    wait_until(|| {
        let is_new =
            again.as_ref().is_ok_and(|(found, _)| found.is_some_and(|(pid, _)| pid != fork_server));
        if !is_new {
            again = pool.apply(length, ());
        }
        is_new
    });
    let (second, _) = again.expect("it ran");
    println!("second {:?}", second.map(|(_, len)| len));
}

fn next_fork_server_runs_preload_again(start_method: StartMethod) {
    assert_eq!(run(preload_again, start_method, &[]).succeeded(), "first 0\nsecond Some(1)\n");
}
