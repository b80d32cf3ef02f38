//! Pools and processes that come and go leave nothing behind.

use std::time::{Duration, Instant};

use proc_core::{Pool, Process, StartMethod};

use crate::support::descriptors::count_descriptors;
use crate::support::procfs::{children, children_of};
use crate::support::{Arguments, SOON, run, start};

programs![make_and_end_many];

tests! {
    nothing_grows_with_pools_and_processes: forkserver spawn;
    #[ignore = "takes minutes"]
    nothing_grows_with_a_thousand_pools;
}

/// Resources that must not grow with the number of pools and processes.
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

    /// The resources when ended threads and processes are gone, or after a time in which they have
    /// surely ended.
    fn settled(expected: &Holdings) -> Holdings {
        let start = Instant::now();
        loop {
            let now = Holdings::now();
            if now == *expected || start.elapsed() > SOON {
                return now;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Resident memory of this process and its children, in KiB, in pages that no file backs.
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

/// Pools and processes come and go. The first word says how many pools; there are ten times as many
/// processes.
fn make_and_end_many(arguments: &Arguments) {
    let start_method = arguments.start_method;
    let live = |pools: usize| {
        for round in 0..pools {
            let pool = Pool::builder().processes(2).start_method(start_method).build();
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
            let child = Process::new(|x: usize| x, number).start_method(start_method).start();
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
        // At first there is nothing to compare with, so it waits until nothing changes any more.
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

fn nothing_grows_with_pools_and_processes(start_method: StartMethod) {
    assert_eq!(run(make_and_end_many, start_method, &["100"]).succeeded(), "flat\n");
}

/// A thousand pools, ten thousand processes; minutes on a small machine.
///
/// `cargo test --release -p proc-tests --test it thousand -- --ignored`
fn nothing_grows_with_a_thousand_pools() {
    for start_method in [StartMethod::Forkserver, StartMethod::Spawn] {
        let program =
            start(make_and_end_many, start_method, &["1000"]).limited_to(Duration::from_secs(600));
        assert_eq!(program.finish().succeeded(), "flat\n");
    }
}
