//! How long processes live: longer than threads, never longer than their program.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use proc_core::{Child, Pool, Process, StartMethod};

use crate::descriptors::count_descriptors;
use crate::marks::{self, Marks};
use crate::{Arguments, Scenario, describe, print_fates, work_for_ever};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("stay", stay),
    ("thread-ends", thread_ends),
    ("deaf-task", deaf_task),
    ("terminate-times", terminate_times),
    ("dropped-in-the-middle", dropped_in_the_middle),
    ("terminated-by-a-thread", terminated_by_a_thread),
    ("closed-pool", closed_pool),
    ("static-pool", static_pool),
    ("exit-in-the-middle", exit_in_the_middle),
    ("panic-in-the-middle", panic_in_the_middle),
    ("busy-threads", busy_threads),
    ("many-lives", many_lives),
    ("fork-server-killed", fork_server_killed),
    ("fork-server-killed-under-a-pool", fork_server_killed_under_a_pool),
    ("fork-fork-server-killed", fork_fork_server_killed),
];

/// Prints `busy` once for each task, or `asleep` for each process of a task; then goes on for ever.
fn stay(arguments: &Arguments) {
    match arguments.word() {
        "idle" => {
            let pool = arguments.pool(2);
            let done = pool.map(|x: u32| x, 0..100).expect("nothing fails");
            assert_eq!(done.len(), 100);
            println!("idle");
            work_for_ever()
        }
        "busy" => {
            let pool = arguments.pool(2);
            pool.map(busy, 0..8).expect("it is ended from outside");
        }
        "nested" => {
            let pool = arguments.pool(2);
            // A context does not cross between processes, so it is part of the function.
            match arguments.context {
                StartMethod::Spawn => pool.map(nested::<true>, 0..2),
                _ => pool.map(nested::<false>, 0..2),
            }
            .expect("it is ended from outside");
        }
        other => panic!("no way to stay: {other}"),
    }
}

fn busy(_: u32) {
    println!("busy");
    work_for_ever()
}

fn nested<const SPAWN: bool>(_: u32) {
    let context = if SPAWN { StartMethod::Spawn } else { StartMethod::Forkserver };
    let asleep = |()| {
        println!("asleep");
        work_for_ever()
    };
    let children: Vec<_> = (0..2)
        .map(|_| Process::new(asleep, ()).start_method(context).start().expect("it can be started"))
        .collect();
    for child in children {
        child.join().expect("it is ended from outside");
    }
}

/// A pool and a process are started in a thread that ends before they are used.
fn thread_ends(arguments: &Arguments) {
    let marks = Marks::new();
    let context = arguments.context;
    let path = marks.path("go");
    let make = move || {
        let pool = Pool::builder().processes(2).start_method(context).build();
        let pool = pool.expect("it can be built");
        let pids = pool.map(|_: u32| std::process::id(), 0..50).expect("nothing fails");
        let wait = |mark: PathBuf| {
            marks::wait_for(&mark);
            7
        };
        let child =
            Process::new(wait, path).start_method(context).start().expect("it can be started");
        (pool, pids, child)
    };
    let (pool, mut pids, child) = std::thread::spawn(make).join().expect("it does not panic");
    pids.extend(pool.map(|_: u32| std::process::id(), 0..50).expect("nothing fails"));
    pids.sort_unstable();
    pids.dedup();
    assert!(pids.len() <= 2, "a worker was replaced: {pids:?}");
    marks::leave(&marks.path("go"));
    println!("{}", child.join().expect("it lives on"));
}

/// A task blocks SIGTERM; the pool is terminated and joined.
fn deaf_task(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let marks = Marks::new();
    let task = |mark: PathBuf| -> () {
        SigSet::all().thread_block().expect("signals can be blocked");
        marks::leave(&mark);
        loop {
            std::hint::spin_loop();
        }
    };
    let stuck = pool.apply_async(task, marks.path("deaf")).expect("the pool is open");
    marks::wait_for(&marks.path("deaf"));
    let start = Instant::now();
    pool.terminate();
    pool.join().expect("it has ended");
    let took = start.elapsed();
    // Half a second is the documented grace.
    assert!(took >= Duration::from_millis(450), "{took:?}");
    assert!(took < Duration::from_millis(1500), "{took:?}");
    println!("{}", describe(&stuck.get().expect_err("it was terminated")));
}

/// Ending a pool takes no grace where nobody refuses to end.
fn terminate_times(arguments: &Arguments) {
    let context = match arguments.context {
        // Only the first pool can be forked: then there are threads, for a moment longer than it.
        StartMethod::Fork => StartMethod::Forkserver,
        other => other,
    };
    let quickly = |what: &str, pool: Pool| {
        let start = Instant::now();
        drop(pool);
        let took = start.elapsed();
        assert!(took < Duration::from_millis(400), "{what}: {took:?}");
    };
    let marks = Marks::new();
    let pool = |processes| Pool::builder().processes(processes).start_method(context).build();
    quickly("just built", arguments.pool(4));
    let idle = pool(4).expect("it can be built");
    idle.map(|x: u32| x, 0..100).expect("nothing fails");
    quickly("idle", idle);
    let asleep = pool(1).expect("it can be built");
    let task = |mark: PathBuf| {
        marks::leave(&mark);
        work_for_ever();
    };
    let result = asleep.apply_async(task, marks.path("asleep")).expect("the pool is open");
    marks::wait_for(&marks.path("asleep"));
    quickly("asleep", asleep);
    assert!(result.get().expect_err("it was dropped").is_closed());
    let spinning = pool(1).expect("it can be built");
    let task = |mark: PathBuf| -> () {
        marks::leave(&mark);
        loop {
            std::hint::spin_loop();
        }
    };
    let result = spinning.apply_async(task, marks.path("spins")).expect("the pool is open");
    marks::wait_for(&marks.path("spins"));
    quickly("spinning", spinning);
    assert!(result.get().expect_err("it was dropped").is_closed());
    println!("quick");
}

fn dropped_in_the_middle(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let marks = Marks::new();
    let task = |mark: PathBuf| {
        marks::leave(&mark);
        work_for_ever();
    };
    let tasks: Vec<_> = (0..5)
        .map(|task_number| marks.path(&task_number.to_string()))
        .map(|mark| pool.apply_async(task, mark).expect("the pool is open"))
        .collect();
    marks::wait_for(&marks.path("0"));
    marks::wait_for(&marks.path("1"));
    drop(pool);
    print_fates(tasks.into_iter().map(proc_core::Task::get));
    println!("begun {}", (0..5).filter(|n| marks.path(&n.to_string()).exists()).count());
}

/// Every kind of call waits while another thread terminates the pool.
fn terminated_by_a_thread(arguments: &Arguments) {
    let task = |(task, mark): (u32, PathBuf)| {
        if task > 1 {
            marks::leave(&mark);
            work_for_ever();
        }
        task
    };
    let marks = Marks::new();
    let mark = marks.path("stuck");
    // One worker, so that the first two tasks are done when the third begins.
    let pool = arguments.pool(1);
    let way = arguments.word();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            marks::wait_for(&mark);
            pool.terminate();
        });
        let inputs = (0..6).map(|task| (task, mark.clone()));
        let options = pool.options().chunksize(1);
        match way {
            "map" => println!("{}", describe(&options.map(task, inputs).expect_err("it ends"))),
            "try_map" => print_fates(options.try_map(task, inputs)),
            "imap" => print_fates(options.imap(task, inputs)),
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

/// What a pool answers that was closed, joined, terminated.
fn closed_pool(arguments: &Arguments) {
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
    print_fates(pool.try_map(|x: u32| x, 0..2));
    print_fates(pool.imap(|x: u32| x, 0..).take(5));
    pool.join().expect("it may be joined again");
    pool.close();
    pool.terminate();
    pool.terminate();
    pool.join().expect("it may be joined again");
    println!("map: {}", describe(&pool.map(|x: u32| x, 0..3).expect_err("it is over")));
}

/// A pool in a static is never dropped; the program returns from main.
fn static_pool(arguments: &Arguments) {
    static POOL: OnceLock<Pool> = OnceLock::new();
    let pool = POOL.get_or_init(|| arguments.pool(2));
    get_busy(pool, arguments.word() == "busy");
    println!("main returns");
}

/// The program exits in a function while tasks run.
fn exit_in_the_middle(arguments: &Arguments) {
    let pool = arguments.pool(2);
    get_busy(&pool, arguments.word() == "busy");
    let daemon = Process::new(|()| work_for_ever(), ()).daemon(true).start();
    println!("main exits");
    std::mem::forget(daemon.expect("it can be started"));
    std::process::exit(3);
}

/// The program panics while tasks run, so the pool is dropped.
fn panic_in_the_middle(arguments: &Arguments) {
    let pool = arguments.pool(2);
    get_busy(&pool, arguments.word() == "busy");
    println!("main panics");
    panic!("told to");
}

/// Leaves both workers idle, or in tasks that never end.
fn get_busy(pool: &Pool, busy: bool) {
    pool.map(|x: u32| x, 0..10).expect("nothing fails");
    if busy {
        let marks = Marks::new();
        for name in ["a", "b"] {
            let task = |mark: PathBuf| {
                marks::leave(&mark);
                work_for_ever();
            };
            std::mem::forget(pool.apply_async(task, marks.path(name)).expect("the pool is open"));
        }
        marks::wait_for(&marks.path("a"));
        marks::wait_for(&marks.path("b"));
    }
}

/// Eight threads allocate, and take the locks that everybody takes, while processes start.
fn busy_threads(arguments: &Arguments) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 1..=8_usize {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for size in [thread, 1 << 10, 1 << 18] {
                        drop(std::hint::black_box(vec![0_u8; size]));
                    }
                    let _stdout = std::io::stdout().lock();
                    std::hint::black_box(std::env::var_os("PATH"));
                    std::hint::black_box(std::thread::Builder::new().spawn(|| ()))
                        .expect("there is room for a thread")
                        .join()
                        .expect("it does nothing");
                }
            });
        }
        for number in 0..arguments.number() {
            let work = |number: usize| {
                let text = format!("{:?}{number}", std::env::var_os("HOME"));
                println!("{text}");
                text.len()
            };
            let child = Process::new(work, number).start_method(arguments.context).start();
            child.and_then(Child::join).expect("it returns");
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// What must not grow with the pools and processes that come and go.
#[derive(Debug, PartialEq)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    /// Of this program and its fork servers: living, and ended but not collected.
    processes: usize,
    fork_server_descriptors: Vec<usize>,
    temporary_files: usize,
}

impl Holdings {
    fn now() -> Holdings {
        let fork_servers = children();
        let count = |pid: &u32| {
            let links = std::fs::read_dir(format!("/proc/{pid}/fd"));
            links.map(Iterator::count).unwrap_or_default()
        };
        let entries = |path: &str| std::fs::read_dir(path).map_or(0, Iterator::count);
        Holdings {
            descriptors: count_descriptors(),
            threads: entries("/proc/self/task"),
            processes: fork_servers.len()
                + fork_servers.iter().map(|pid| children_of(*pid).len()).sum::<usize>(),
            fork_server_descriptors: fork_servers.iter().map(count).collect(),
            temporary_files: std::fs::read_dir(std::env::temp_dir()).map_or(0, Iterator::count),
        }
    }

    /// What there is once ended threads and processes are gone for good.
    fn settled(expected: &Holdings) -> Holdings {
        let start = Instant::now();
        loop {
            let now = Holdings::now();
            if now == *expected || start.elapsed() > Duration::from_secs(2) {
                return now;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Resident memory of this process and its children, in KiB, without what is shared.
fn memory() -> Vec<u64> {
    let mut pids = children();
    pids.insert(0, std::process::id());
    let anonymous = |pid: &u32| -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    pids.iter().filter_map(anonymous).collect()
}

/// The children of this process, ended ones included.
pub(crate) fn children() -> Vec<u32> {
    children_of(std::process::id())
}

/// The children of a process, ended ones included.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let lists: Vec<String> = lists.collect();
    lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|p| p.parse().ok()).collect()
}

/// Pools and processes come and go: the first word says how many pools, ten times as many
/// processes.
fn many_lives(arguments: &Arguments) {
    let context = arguments.context;
    let live = |pools: usize| {
        for round in 0..pools {
            let pool = Pool::builder().processes(2).start_method(context).build();
            let pool = pool.expect("it can be built");
            let results = pool.map(|x: usize| x + 1, 0..20).expect("nothing fails");
            assert!(results.into_iter().eq(1..21));
            match round % 3 {
                0 => drop(pool),
                1 => {
                    pool.close();
                    pool.join().expect("the workers end");
                }
                _ => {
                    let error = pool.apply(|()| std::process::exit(1), ()).map(|(): ()| ());
                    assert!(error.expect_err("it exits").is_death());
                }
            }
        }
        for number in 0..10 * pools {
            let child = Process::new(|x: usize| x, number).start_method(context).start();
            let child = child.expect("it can be started");
            if number % 10 == 9 {
                drop(child);
            } else {
                assert_eq!(child.join().expect("it returns"), number);
            }
        }
    };
    live(arguments.number().div_ceil(5));
    let settled = |before: Option<Holdings>| {
        // Without something to compare with: what is there once nothing changes any more.
        before.unwrap_or_else(|| {
            let mut last = Holdings::now();
            loop {
                std::thread::sleep(Duration::from_millis(100));
                let now = Holdings::now();
                if now == last {
                    return now;
                }
                last = now;
            }
        })
    };
    let (before, memory_before) = (settled(None), memory());
    live(arguments.number());
    let after = Holdings::settled(&before);
    assert_eq!(after, before, "after {} more pools", arguments.number());
    let memory_after = memory();
    for (before, after) in memory_before.iter().zip(&memory_after) {
        assert!(*after < before + 1024, "KiB: {memory_before:?} before, {memory_after:?} after");
    }
    println!("flat");
}

/// The fork server of this program that is older than its sibling.
fn fork_servers() -> Vec<Pid> {
    let is_fork_server = |pid: &u32| {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        comm.is_ok_and(|comm| comm == "forkserver\n") && is_running(*pid)
    };
    children().into_iter().filter(is_fork_server).map(|pid| Pid::from_raw(pid as i32)).collect()
}

fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.starts_with(" Z") && !rest.is_empty())
}

/// Fork servers are killed, and processes are started at once, or when the fork server is gone.
fn fork_server_killed(arguments: &Arguments) {
    let start = || {
        let child = Process::new(|x: u32| x + 1, 41).start_method(arguments.context).start();
        child.and_then(Child::join).expect("another fork server takes over")
    };
    assert_eq!(start(), 42);
    for round in 0..20 {
        let doomed = fork_servers();
        assert!(!doomed.is_empty(), "round {round}");
        for fork_server in &doomed {
            kill(*fork_server, Signal::SIGKILL).expect("it is our child");
        }
        if round % 2 == 0 {
            marks::wait_until(|| doomed.iter().all(|pid| !is_running(pid.as_raw() as u32)));
        }
        assert_eq!(start(), 42);
        let pool = Pool::builder().processes(2).start_method(arguments.context).build();
        let results = pool.and_then(|pool| pool.map(|x: u32| x + 1, [1, 2]));
        assert_eq!(results.expect("another fork server takes over"), [2, 3]);
    }
    println!("fork servers {}", fork_servers().len());
}

/// A pool's fork server is killed, and with it its workers: idle first, then in tasks.
fn fork_server_killed_under_a_pool(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let child =
        Process::new(|()| work_for_ever(), ()).start_method(StartMethod::Forkserver).start();
    let child = child.expect("it can be started");
    let before = pool.map(|_: u32| std::process::id(), 0..50).expect("nothing fails");
    let kill_all = || {
        let doomed = fork_servers();
        for fork_server in &doomed {
            kill(*fork_server, Signal::SIGKILL).expect("it is our child");
        }
        doomed
    };
    let doomed = kill_all();
    marks::wait_until(|| doomed.iter().all(|pid| !is_running(pid.as_raw() as u32)));
    marks::wait_until(|| before.iter().all(|pid| !is_running(*pid)));
    println!("child: {}", describe(&child.join().expect_err("it went with its fork server")));
    let after = pool.map(|_: u32| std::process::id(), 0..50).expect("the pool goes on");
    assert!(before.iter().all(|pid| !after.contains(pid)), "{before:?} {after:?}");

    let marks = Marks::new();
    let inputs = (0..6).map(|task| (task, marks.path(&task.to_string())));
    let task = |(task, mark): (u32, PathBuf)| {
        marks::leave(&mark);
        if task < 2 {
            work_for_ever();
        }
        task
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            marks::wait_for(&marks.path("0"));
            marks::wait_for(&marks.path("1"));
            kill_all();
        });
        print_fates(pool.options().chunksize(1).try_map(task, inputs));
    });
    println!("{:?}", pool.map(|x: u32| x + 1, [1, 2]).expect("the pool goes on"));
}

/// The fork server of a forked pool cannot be made again: there are threads now.
fn fork_fork_server_killed(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let before = pool.map(|_: u32| std::process::id(), 0..50).expect("nothing fails");
    for fork_server in fork_servers() {
        kill(fork_server, Signal::SIGKILL).expect("it is our child");
    }
    marks::wait_until(|| before.iter().all(|pid| !is_running(*pid)));
    println!("{}", describe(&pool.map(|x: u32| x, 0..5).expect_err("nobody can work")));
    pool.close();
    println!("{}", describe(&pool.join().expect_err("it is over")));
    drop(pool);
    let child = Process::new(|x: u32| x + 1, 41).start();
    println!("{}", child.and_then(Child::join).expect("another fork server takes over"));
}
