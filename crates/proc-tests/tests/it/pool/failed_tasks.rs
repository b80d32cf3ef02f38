//! Tasks that panic, exit, are killed, or are late: no other task fails.

use std::process;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proc_core::StartMethod;
use serde_bytes::ByteBuf;

use crate::support::{
    Arguments, Finished, assert_snapshot, describe, print_results, run, signal_self, wait_until,
};

programs![
    worker_killed,
    task_exits,
    task_panics,
    idle_worker_killed,
    worker_killed_with_large_values,
    tasks_time_out
];

tests! {
    killed_worker_costs_one_task: forkserver spawn fork;
    task_that_ends_its_process_is_an_error_with_its_exit_status: forkserver spawn fork;
    panic_costs_one_task_and_no_worker: forkserver spawn fork;
    killed_idle_workers_cost_nothing: forkserver spawn fork;
    large_values_of_a_killed_worker_block_nobody: forkserver spawn fork;
    timeout_ends_only_late_tasks: forkserver spawn fork;
}

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
    print_results(pool.options().chunksize(chunksize).try_map(task, 0..8));
    let sum: u64 = pool.map(|x: u64| 2 * x, 0..1000).expect("the pool goes on").iter().sum();
    println!("afterwards {sum}");
}

const HINT: &str = "; if nobody sent it, the kernel ran out of memory (see `dmesg` for the \
                    out-of-memory killer)";

/// Replaces the numbers of workers, which are not deterministic, and checks that they are in range.
fn without_workers(text: &str, workers: usize) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) =
        rest.find("worker").filter(|at| rest[at + 7..].starts_with(|c: char| c.is_ascii_digit()))
    {
        let (before, number) = rest.split_at(at + 7);
        let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
        let worker: usize = number[..end].parse().expect("digits");
        assert!(worker < workers, "worker {worker} of {workers}");
        out += before;
        out += "W";
        rest = &number[end..];
    }
    out + rest
}

/// The part of the output that begins with the results of the tasks.
fn fates(finished: &Finished) -> &str {
    let start = finished.stdout.find("0: ").expect("fates are printed");
    &finished.stdout[start..]
}

fn killed_worker_costs_one_task(start_method: StartMethod) {
    // The task is alone in its chunk, the last one of a chunk, and in one chunk with all tasks.
    for chunksize in ["1", "2", "4", "8", "1000"] {
        let finished = run(worker_killed, start_method, &[chunksize]);
        finished.succeeded();
        let pid = finished.after("doomed ");
        let expected = format!(
            "0: 0\n1: 10\n2: 20\n\
             3: death signal=9 task=3 worker=W pid={pid} | task 3: the process was killed by \
             signal 9 (SIGKILL){HINT} (worker W, pid {pid})\n\
             4: 40\n5: 50\n6: 60\n7: 70\n\
             afterwards 999000\n"
        );
        assert_eq!(without_workers(fates(&finished), 2), expected, "chunksize {chunksize}");
    }
}

/// Tasks end their process in every way except by a signal from outside.
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
    print_results(pool.options().chunksize(arguments.number()).try_map(task, 0..8));
    println!("afterwards {:?}", pool.map(|x: u32| x + 1, [1, 2]).expect("the pool goes on"));
}

#[expect(unconditional_recursion, reason = "it is to overflow the stack")]
fn overflow(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 128]);
    frame[1] + overflow(depth + 1) + frame[0]
}

fn task_that_ends_its_process_is_an_error_with_its_exit_status(start_method: StartMethod) {
    for chunksize in ["1", "3", "8"] {
        let finished = run(task_exits, start_method, &[chunksize]);
        assert!(finished.status.success(), "{}", finished.stderr);
        // Rust's runtime installs its handler of stack overflows before `main`. An executed fork
        // server never gets there.
        let is_executed = start_method == StartMethod::Spawn;
        let is_told = finished.stderr.contains("has overflowed its stack");
        assert_eq!(is_told, !is_executed, "{}", finished.stderr);
        let fates = without_workers(fates(&finished), 2);
        let lines: Vec<&str> = fates.lines().collect();
        let dead = |task: usize, status: &str, text: &str| {
            let line = lines[task];
            let (told, rest) = line.split_once(" pid=").expect(line);
            assert_eq!(told, format!("{task}: death {status} task={task} worker=W"));
            let (pid, text_told) = rest.split_once(" | ").expect(line);
            let text = format!("task {task}: the process {text} (worker W, pid {pid})");
            assert_eq!(text_told.replace(", core dumped", ""), text);
        };
        dead(1, "code=7", "exited with code 7 before it had a result");
        dead(3, "signal=6", "was killed by signal 6 (SIGABRT)");
        if is_executed {
            dead(5, "signal=11", "was killed by signal 11 (SIGSEGV)");
        } else {
            dead(5, "signal=6", "was killed by signal 6 (SIGABRT)");
        }
        dead(6, "code=0", "exited with code 0 before it had a result");
        for task in [0, 2, 4, 7] {
            assert_eq!(lines[task], format!("{task}: {task}"));
        }
        assert_eq!(lines[8..], ["afterwards [2, 3]"]);
    }
}

/// Tasks panic with every kind of payload. The workers must be the same processes afterwards.
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
    print_results(results);
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

fn panic_costs_one_task_and_no_worker(start_method: StartMethod) {
    for chunksize in ["1", "4", "9"] {
        let finished = run(task_panics, start_method, &[chunksize]);
        // The caller gets the panics of a pool as errors. Nothing is printed.
        assert_snapshot("tasks_that_panic", 2, finished.succeeded());
    }
}

/// Kills an idle worker a hundred times, and asks for a map each time.
fn idle_worker_killed(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let mut killed = Vec::new();
    for round in 0..100 {
        let worker = pool.apply(pid, round).expect("nothing fails");
        // A worker that still looks for work could claim a task before the signal takes effect.
        wait_until(|| is_asleep(worker));
        kill(Pid::from_raw(worker as i32), Signal::SIGKILL).expect("it is alive");
        killed.push(worker);
        let results = pool.map(|x: u32| x + 1, 0..20).expect("every map is complete");
        assert!(results.into_iter().eq(1..21), "round {round}");
    }
    println!("killed {}", killed.len());
}

/// Whether a process sleeps in a system call that a signal interrupts.
fn is_asleep(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is alive");
    stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S"))
}

fn killed_idle_workers_cost_nothing(start_method: StartMethod) {
    assert_eq!(run(idle_worker_killed, start_method, &[]).succeeded(), "killed 100\n");
}

const MIB: usize = 1 << 20;

/// Ten arguments of 8 MiB come back as results; task 3 kills its worker.
fn worker_killed_with_large_values(arguments: &Arguments) {
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
    print_results(told);
    println!("afterwards {:?}", pool.map(|x: u32| x + 1, [1, 2]).expect("the pool goes on"));
}

fn large_values_of_a_killed_worker_block_nobody(start_method: StartMethod) {
    // This is slow, and the start method makes no difference to one chunk of all tasks.
    let chunksizes =
        if start_method == StartMethod::Forkserver { ["1", "10"].as_slice() } else { &["1"] };
    for chunksize in chunksizes {
        let finished = run(worker_killed_with_large_values, start_method, &[chunksize]);
        assert_snapshot("large_values_of_a_killed_worker", 2, finished.succeeded());
    }
}

/// Tasks that sleep, spin or block signals have a timeout of 250 ms. Quick tasks must not reach it,
/// even on a busy machine.
fn tasks_time_out(arguments: &Arguments) {
    const LIMIT: Duration = Duration::from_millis(250);
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
    // Each late task must end within 200 ms after its timeout, at worst one after the other. One
    // run of twenty is enough, because a busy machine may pause.
    let in_time = LIMIT..3 * (LIMIT + Duration::from_millis(200));
    let results = (0..20).find_map(|_| {
        let start = Instant::now();
        let options = pool.options().timeout(LIMIT).chunksize(arguments.number());
        let results = options.try_map(task, 0..7);
        in_time.contains(&start.elapsed()).then_some(results)
    });
    let results = results.expect("in none of twenty calls were late tasks ended in time");
    let late: Vec<u32> = results.iter().filter_map(|result| result.as_ref().err()?.pid()).collect();
    print_results(results);
    pids.extend(pool.map(pid, 0..50).expect("the pool goes on"));
    for pid in &late {
        let gone = !std::fs::exists(format!("/proc/{pid}")).expect("/proc is mounted");
        assert!(gone, "worker {pid} was given up, not ended");
    }
    // Tasks that are shorter than the timeout are not ended, however many are in their chunk.
    let options = pool.options().timeout(Duration::from_secs(5)).chunksize(1000);
    assert_eq!(options.map(|x: u32| x, 0..20_000).expect("in time").len(), 20_000);
    println!("{} were late", late.len());
}

fn timeout_ends_only_late_tasks(start_method: StartMethod) {
    for chunksize in ["1", "7"] {
        let finished = run(tasks_time_out, start_method, &[chunksize]);
        assert_snapshot("tasks_that_are_late", 2, finished.succeeded());
    }
}
