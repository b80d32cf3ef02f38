//! Tasks that panic, exit, are killed; values that cannot cross; initializers that fail.

use std::process;

use nix::sys::signal::Signal;

use crate::{Arguments, Scenario, describe, print_fates, signal_self};

pub(crate) const SCENARIOS: &[(&str, Scenario)] =
    &[("worker-killed", worker_killed), ("task-exits", task_exits), ("task-panics", task_panics)];

/// Task 3 of 8 kills its own process; then the pool is used again.
fn worker_killed(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let chunksize = arguments.number();
    let task = |task: u32| {
        if task == 3 {
            println!("doomed {}", process::id());
            signal_self(Signal::SIGKILL);
        }
        task * 10
    };
    print_fates(pool.options().chunksize(chunksize).try_map(task, 0..8));
    let sum: u64 = pool.map(|x: u64| 2 * x, 0..1000).expect("the pool goes on").iter().sum();
    println!("afterwards {sum}");
}

/// Tasks end their process in every way but a signal from outside.
fn task_exits(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let task = |task: u32| {
        match task {
            1 => process::exit(7),
            3 => process::abort(),
            5 => println!("{}", overflow(0)),
            6 => process::exit(0),
            _ => {}
        }
        task
    };
    print_fates(pool.options().chunksize(arguments.number()).try_map(task, 0..8));
    println!("afterwards {:?}", pool.map(|x: u32| x + 1, [1, 2]).expect("the pool goes on"));
}

#[expect(unconditional_recursion, reason = "it is to overflow the stack")]
fn overflow(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 128]);
    frame[1] + overflow(depth + 1) + frame[0]
}

/// Tasks panic with every kind of payload; each then tells its pid, and workers must be the same.
fn task_panics(arguments: &Arguments) {
    struct NoString;
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in a payload's destructor");
        }
    }
    fn explicit_panic() {
        panic!()
    }
    let pool = arguments.pool(2);
    let mut pids = pool.map(pid, 0..50).expect("nothing fails");
    let task = |task: u32| {
        match task {
            1 => explicit_panic(),
            3 => panic!("task {task} does not like it"),
            4 => std::panic::panic_any(NoString),
            5 => std::panic::panic_any(Bomb),
            6 => {
                let caught = std::panic::catch_unwind(|| panic!("caught by the task itself"));
                assert!(caught.is_err());
            }
            7 => drop(Vec::<u8>::with_capacity(usize::MAX)),
            _ => {}
        }
        task
    };
    print_fates(pool.options().chunksize(arguments.number()).try_map(task, 0..9));
    let error = pool.map(task, 0..9).expect_err("task 1 panics");
    println!("map: {}", describe(&error));
    pids.extend(pool.map(pid, 0..50).expect("nothing fails"));
    pids.sort_unstable();
    pids.dedup();
    assert!(pids.len() <= 2, "a worker was replaced: {pids:?}");
    println!("the workers live on");
}

fn pid(_: u32) -> u32 {
    process::id()
}
