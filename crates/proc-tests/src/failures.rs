//! Tasks that panic, exit, are killed; values that cannot cross; initializers that fail.

use std::path::PathBuf;
use std::process;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proc_core::Pool;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_bytes::ByteBuf;

use crate::marks::{self, Marks};
use crate::{Arguments, Scenario, describe, print_fates, signal_self};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("worker-killed", worker_killed),
    ("task-exits", task_exits),
    ("task-panics", task_panics),
    ("idle-worker-killed", idle_worker_killed),
    ("odd-values", odd_values),
    ("initializer-fails", initializer_fails),
    ("initializer-fails-once", initializer_fails_once),
    ("large-in-flight", large_in_flight),
    ("timeouts", timeouts),
];

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
    const LINE: u32 = line!() + 2;
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
    let results = pool.options().chunksize(arguments.number()).try_map(task, 0..9);
    pids.extend(results.iter().filter_map(|result| result.as_ref().err()?.pid()));
    let place = results[1].as_ref().err().and_then(|error| error.panic_location());
    let line = format!("{}:{LINE}:", file!());
    assert!(place.is_some_and(|place| place.to_string().starts_with(&line)), "{place:?}");
    print_fates(results);
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

/// Kills an idle worker a hundred times, and asks for a map each time.
fn idle_worker_killed(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let mut killed = Vec::new();
    for round in 0..100 {
        let worker = pool.apply(pid, round).expect("nothing fails");
        // A worker that still looks for work could claim some before the signal takes effect.
        marks::wait_until(|| is_asleep(worker));
        kill(Pid::from_raw(worker as i32), Signal::SIGKILL).expect("it is alive");
        killed.push(worker);
        let results = pool.map(|x: u32| x + 1, 0..20).expect("every map is complete");
        assert!(results.into_iter().eq(1..21), "round {round}");
    }
    println!("killed {}", killed.len());
}

/// Whether a process waits in a system call that ends by itself or by a signal.
fn is_asleep(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is alive");
    stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S"))
}

/// A value that crosses, or fails where and how its number says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Odd(pub(crate) u32);

pub(crate) const UNWRITABLE: u32 = 1;
pub(crate) const UNREADABLE: u32 = 3;
pub(crate) const PANICS_WHEN_WRITTEN: u32 = 4;
pub(crate) const PANICS_WHEN_READ: u32 = 6;

impl Serialize for Odd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            UNWRITABLE => Err(ser::Error::custom("odd value 1 stays at home")),
            PANICS_WHEN_WRITTEN => panic!("odd value 4 makes its writer panic"),
            number => number.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Odd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Odd, D::Error> {
        match u32::deserialize(deserializer)? {
            UNREADABLE => Err(de::Error::custom("odd value 3 is not recognized")),
            PANICS_WHEN_READ => panic!("odd value 6 makes its reader panic"),
            number => Ok(Odd(number)),
        }
    }
}

/// Values that cannot cross, as arguments and as results, between values that can.
fn odd_values(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let chunksize = arguments.number();
    let mut pids = pool.map(pid, 0..50).expect("nothing fails");
    println!("arguments");
    print_fates(pool.options().chunksize(chunksize).try_map(|odd: Odd| odd.0, (0..8).map(Odd)));
    println!("results");
    print_fates(pool.options().chunksize(chunksize).try_map(Odd, 0..8));
    println!("imap of arguments");
    print_fates(pool.options().chunksize(chunksize).imap(|odd: Odd| odd.0, (0..8).map(Odd)));
    println!("imap of results");
    print_fates(pool.options().chunksize(chunksize).imap(Odd, 0..8));
    println!("initializer");
    let with = |odd| {
        let pool = Pool::builder().processes(1).initializer(|_: Odd| (), Odd(odd));
        // The first pool's threads are there, so Fork could not be.
        let context = match arguments.context {
            proc_core::StartMethod::Fork => proc_core::StartMethod::Forkserver,
            other => other,
        };
        pool.start_method(context).build().and_then(|pool| pool.apply(pid, 0))
    };
    for odd in [UNWRITABLE, PANICS_WHEN_WRITTEN, UNREADABLE, PANICS_WHEN_READ] {
        println!("{}", describe(&with(odd).expect_err("it cannot cross")));
    }
    with(0).expect("it can cross");
    pids.extend(pool.map(pid, 0..50).expect("nothing fails"));
    pids.sort_unstable();
    pids.dedup();
    assert!(pids.len() <= 2, "a worker was replaced: {pids:?}");
    println!("the workers live on");
}

/// An initializer fails in every worker, in the way that is named.
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
        .start_method(arguments.context)
        .initializer(initializer, way)
        .build()
        .expect("initializers are not waited for");
    let error = pool.map(pid, 0..8).expect_err("no worker is ready");
    println!("map: {}", describe(&error));
    let error = pool.apply(pid, 0).expect_err("the pool is over");
    println!("apply: {}", describe(&error));
    print_fates(pool.try_map(pid, 0..2));
    pool.close();
    println!("join: {}", describe(&pool.join().expect_err("the pool is over")));
    let took = start.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// An initializer ends its process the first time.
fn initializer_fails_once(arguments: &Arguments) {
    let marks = Marks::new();
    let initializer = |mark: PathBuf| {
        if marks::leave(&mark) {
            process::exit(4);
        }
    };
    let pool = Pool::builder()
        .processes(2)
        .start_method(arguments.context)
        .initializer(initializer, marks.path("first"))
        .build()
        .expect("initializers are not waited for");
    println!("{:?}", pool.map(|x: u32| x, 0..8).expect("the next attempt is good"));
}

const MIB: usize = 1 << 20;

/// Ten arguments of 8 MiB come back as results; task 3 kills its worker.
fn large_in_flight(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let task = |(task, bytes): (u8, ByteBuf)| {
        if task == 3 {
            signal_self(Signal::SIGKILL);
        }
        assert!(bytes[..] == vec![task; 8 * MIB]);
        ByteBuf::from(vec![task + 100; 8 * MIB])
    };
    let inputs = (0..10).map(|task| (task, ByteBuf::from(vec![task; 8 * MIB])));
    let results = pool.options().chunksize(arguments.number()).try_map(task, inputs);
    let told = results.into_iter().zip(100..).map(|(result, byte)| {
        assert!(result?[..] == vec![byte; 8 * MIB]);
        Ok(())
    });
    print_fates(told);
    println!("afterwards {:?}", pool.map(|x: u32| x + 1, [1, 2]).expect("the pool goes on"));
}

/// Tasks that sleep, spin or block signals are given 100 ms.
fn timeouts(arguments: &Arguments) {
    const LIMIT: Duration = Duration::from_millis(100);
    let pool = arguments.pool(2);
    let mut pids = pool.map(pid, 0..50).expect("nothing fails");
    let task = |task: u32| match task {
        1 => loop {
            nix::unistd::pause();
        },
        3 => loop {
            std::hint::spin_loop();
        },
        5 => {
            nix::sys::signal::SigSet::all().thread_block().expect("signals can be blocked");
            loop {
                nix::unistd::pause();
            }
        }
        _ => task,
    };
    // Each within its 100 ms and 200 more, one after the other at worst: at least once, since a
    // busy machine may stop for a moment.
    let in_time = LIMIT..3 * (LIMIT + Duration::from_millis(200));
    let results = (0..5).find_map(|_| {
        let start = Instant::now();
        let options = pool.options().timeout(LIMIT).chunksize(arguments.number());
        let results = options.try_map(task, 0..7);
        in_time.contains(&start.elapsed()).then_some(results)
    });
    let results = results.expect("in none of five calls were late tasks ended in time");
    let late: Vec<u32> = results.iter().filter_map(|result| result.as_ref().err()?.pid()).collect();
    print_fates(results);
    pids.extend(pool.map(pid, 0..50).expect("the pool goes on"));
    for pid in &late {
        let gone = !std::fs::exists(format!("/proc/{pid}")).expect("/proc is mounted");
        assert!(gone, "worker {pid} was given up, not ended");
    }
    // What takes less has nothing to fear, however much of it there is in a chunk.
    let options = pool.options().timeout(Duration::from_secs(5)).chunksize(1000);
    assert_eq!(options.map(|x: u32| x, 0..20_000).expect("in time").len(), 20_000);
    println!("{} were late", late.len());
}
