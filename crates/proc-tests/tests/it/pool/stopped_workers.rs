//! Workers that are stopped (SIGSTOP) while they have no task do not delay others. A fork server
//! that is stopped delays the end of a worker that the pool kills.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proc_core::ipc::{self, IpcReceiver, IpcSender};
use proc_core::{Error, Pool, StartMethod};

use crate::support::{Arguments, Program, SOON, describe, procfs, start, wait_until};

programs![
    stop_one_of_two,
    stop_three_of_four,
    stop_the_only_worker,
    stop_for_a_moment,
    stop_between_tasks,
    stop_the_fork_server,
];

tests! {
    stopped_worker_holds_up_nobody: forkserver spawn fork;
    several_stopped_workers_hold_up_nobody: forkserver spawn fork;
    task_of_a_stopped_worker_times_out: forkserver spawn fork;
    worker_that_gets_no_processor_for_a_moment_fails_no_task: forkserver spawn fork;
    worker_stopped_between_tasks_holds_up_nobody: forkserver spawn fork;
    task_with_a_channel_end_outlives_a_worker_that_is_being_killed: forkserver spawn fork;
}

const TIMEOUT: Duration = Duration::from_millis(200);

fn increment(x: u32) -> u32 {
    x + 1
}

/// Stops a process, and returns when it is stopped.
fn halt(pid: u32) {
    kill(Pid::from_raw(pid as i32), Signal::SIGSTOP).expect("the worker lives");
    wait_until(|| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
        stat.contains(") T ")
    });
}

/// Continues a process, which may have been replaced by now.
fn go_on(pid: u32) {
    let _ = kill(Pid::from_raw(pid as i32), Signal::SIGCONT);
}

/// Runs `work`, which must return soon.
fn soon<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    let took = start.elapsed();
    assert!(took < SOON, "{what} took {took:?}");
    result
}

/// A pool that has done tasks, and whose workers are idle.
fn idle_pool(arguments: &Arguments, processes: usize) -> Pool {
    let pool = arguments.pool(processes);
    pool.map(increment, 0..100).expect("nothing fails");
    pool
}

/// One of two workers is stopped: the other does all tasks.
fn stop_one_of_two(arguments: &Arguments) {
    let pool = idle_pool(arguments, 2);
    for round in 0..12 {
        let halted = match round % 3 {
            // The worker that had the last task: the pool may prefer it for the next one.
            0 => pool.apply(|()| std::process::id(), ()).expect("nothing fails"),
            place => pool.worker_pids()[place - 1],
        };
        halt(halted);
        for x in 0..4 {
            let result = soon("apply", || pool.apply(increment, x));
            assert_eq!(result.expect("the other worker is there"), x + 1);
        }
        let results = soon("map", || pool.options().chunksize(1).map(increment, 0..10));
        assert!(results.expect("the other worker is there").into_iter().eq(1..11));
        go_on(halted);
        pool.map(increment, 0..20).expect("nothing fails");
    }
    println!("soon");
}

fn run_soon(program: Program, start_method: StartMethod, words: &[&str]) -> String {
    let program = start(program, start_method, words).limited_to(Duration::from_secs(30));
    program.finish().succeeded().to_owned()
}

fn stopped_worker_holds_up_nobody(start_method: StartMethod) {
    assert_eq!(run_soon(stop_one_of_two, start_method, &[]), "soon\n");
}

/// Three of four workers are stopped.
fn stop_three_of_four(arguments: &Arguments) {
    let pool = idle_pool(arguments, 4);
    for round in 0..4 {
        let workers = pool.worker_pids();
        let halted: Vec<u32> =
            (0..4).filter(|number| *number != round).map(|number| workers[number]).collect();
        halted.iter().for_each(|pid| halt(*pid));
        for x in 0..4 {
            let result = soon("apply", || pool.apply(increment, x));
            assert_eq!(result.expect("one worker is there"), x + 1);
        }
        let results =
            soon("imap", || pool.imap(increment, 0..10).collect::<Result<Vec<u32>, Error>>());
        assert!(results.expect("one worker is there").into_iter().eq(1..11));
        halted.iter().for_each(|pid| go_on(*pid));
        pool.map(increment, 0..20).expect("nothing fails");
    }
    println!("soon");
}

fn several_stopped_workers_hold_up_nobody(start_method: StartMethod) {
    assert_eq!(run_soon(stop_three_of_four, start_method, &[]), "soon\n");
}

/// The only worker is stopped: the call times out, and the pool works again afterwards.
fn stop_the_only_worker(arguments: &Arguments) {
    let pool = idle_pool(arguments, 1);
    let options = pool.options().timeout(TIMEOUT);
    let task = || options.apply_async(increment, 1).expect("the pool is open");
    for _ in 0..2 {
        // A worker may have done tasks before its pool knows its pid.
        wait_until(|| pool.worker_pids().len() == 1);
        let before = pool.worker_pids();
        halt(before[0]);
        let error = soon("the timeout", || match arguments.word() {
            "get" => task().get().map(drop),
            "await" => pollster::block_on(task()).map(drop),
            "on-done" => {
                let (send, result) = mpsc::channel();
                task()
                    .on_done(move |result| send.send(result.map(drop)).expect("it is waited for"));
                result.recv().expect("the callback is called")
            }
            "get-timeout" => {
                let result = task().get_timeout(SOON);
                result.map(|result| assert!(result.is_none(), "the worker is stopped"))
            }
            "map" => options.map(increment, 0..1).map(drop),
            "map-async" => {
                options.map_async(increment, 0..1).and_then(proc_core::Task::get).map(drop)
            }
            "try-map" => options.try_map(increment, 0..1).remove(0).map(drop),
            "imap" => options.imap(increment, 0..1).next().expect("one result").map(drop),
            "imap-unordered" => {
                options.imap_unordered(increment, 0..1).next().expect("one result").map(drop)
            }
            other => panic!("no such call: {other}"),
        });
        let error = error.expect_err("the only worker is stopped");
        assert!(error.is_timeout(), "{}", describe(&error));
        let results = soon("what comes after it", || pool.map(increment, 0..5));
        assert_eq!(results.expect("the worker was replaced"), [1, 2, 3, 4, 5]);
        assert_ne!(pool.worker_pids(), before, "it was killed and replaced");
        wait_until(|| !procfs::exists(before[0]));
    }
    println!("told");
}

fn task_of_a_stopped_worker_times_out(start_method: StartMethod) {
    let calls = [
        "get",
        "get-timeout",
        "await",
        "on-done",
        "map",
        "map-async",
        "try-map",
        "imap",
        "imap-unordered",
    ];
    // All at once, since each of them waits most of the time.
    let limit = Duration::from_secs(30);
    let start = |call| start(stop_the_only_worker, start_method, &[call]).limited_to(limit);
    for (call, program) in calls.map(|call| (call, start(call))) {
        assert_eq!(program.finish().succeeded(), "told\n", "{call}");
    }
}

/// The only worker gets no processor for longer than the task may run, as on a busy machine, and
/// then goes on.
fn stop_for_a_moment(arguments: &Arguments) {
    let pool = idle_pool(arguments, 1);
    wait_until(|| pool.worker_pids().len() == 1);
    let worker = pool.worker_pids()[0];
    halt(worker);
    let options = pool.options().timeout(Duration::from_millis(20));
    let task = options.apply_async(increment, 1).expect("the pool is open");
    std::thread::sleep(Duration::from_millis(300)); // the time without a processor
    go_on(worker);
    println!("{}", task.get().expect("the task itself took no time"));
}

fn worker_that_gets_no_processor_for_a_moment_fails_no_task(start_method: StartMethod) {
    assert_eq!(run_soon(stop_for_a_moment, start_method, &[]), "2\n");
}

/// A worker is stopped somewhere between many short tasks.
fn stop_between_tasks(arguments: &Arguments) {
    const TASKS: u32 = 3000;
    let pool = idle_pool(arguments, 2);
    for round in 0..6 {
        let mut results = pool.options().chunksize(1).imap_unordered(increment, 0..TASKS);
        let mut seen: Vec<u32> = Vec::new();
        let mut take = |count: usize| {
            let taken = results.by_ref().take(count);
            seen.extend(taken.map(|result| result.expect("nothing fails")));
        };
        take(50 + 10 * round);
        let halted = pool.worker_pids()[round % 2];
        halt(halted);
        // The stopped worker may be at one task. Others can do all other tasks.
        soon("what others can do", || take(TASKS as usize - 51 - 10 * round));
        go_on(halted);
        take(TASKS as usize);
        seen.sort_unstable();
        assert!(seen.into_iter().eq(1..=TASKS), "each result comes once");
    }
    println!("soon");
}

fn worker_stopped_between_tasks_holds_up_nobody(start_method: StartMethod) {
    assert_eq!(run_soon(stop_between_tasks, start_method, &[]), "soon\n");
}

/// The pool kills its worker to stop a task, but the signal comes late, because the fork server is
/// stopped. Meanwhile the task returns. The worker must not begin the next task, which cannot run
/// twice.
fn stop_the_fork_server(arguments: &Arguments) {
    let pool = idle_pool(arguments, 1);
    let worker = pool.worker_pids()[0];
    let stat = std::fs::read_to_string(format!("/proc/{worker}/stat")).expect("it lives");
    let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
    let fork_server = parent.and_then(|pid| pid.parse().ok()).expect("stat has a parent");
    let channel = || ipc::channel::<()>().expect("there are descriptors");
    let ((begin, begun), (release, released)) = (channel(), channel());
    let wait = |(begin, released): (IpcSender<()>, IpcReceiver<()>)| {
        begin.send(()).expect("the caller waits for it");
        let _ = released.recv();
    };
    let stopped = pool.apply_async(wait, (begin, released)).expect("the pool is open");
    begun.recv().expect("the task begins");
    let report = |begin: IpcSender<()>| {
        begin.send(()).expect("the caller waits for it");
        std::thread::sleep(TIMEOUT); // the signal comes here if the worker has begun this task
        7
    };
    let (begin, begun) = channel();
    let waiting = pool.apply_async(report, begin).expect("the pool is open");
    halt(fork_server);
    stopped.cancel();
    release.send(()).expect("the task waits for it");
    let has_begun = begun.try_recv_timeout(2 * TIMEOUT).is_ok();
    go_on(fork_server);
    println!("{has_begun} {:?}", waiting.get());
}

fn task_with_a_channel_end_outlives_a_worker_that_is_being_killed(start_method: StartMethod) {
    assert_eq!(run_soon(stop_the_fork_server, start_method, &[]), "false Ok(7)\n");
}
