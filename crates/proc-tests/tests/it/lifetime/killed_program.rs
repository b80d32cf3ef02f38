//! Nothing outlives a program that a signal to its whole group ends. Only what its tasks have
//! executed outlives a program that is killed.

use std::process::Command;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use proc_core::{Process, StartMethod};

use crate::support::{Arguments, Running, program_name, start, work_forever};

programs![stay_alive];

tests! {
    nothing_outlives_a_killed_program_when_idle: forkserver spawn fork;
    nothing_outlives_a_killed_program_when_busy: forkserver spawn fork;
    nothing_outlives_a_killed_program_when_nested: forkserver spawn fork;
    what_tasks_have_executed_outlives_a_killed_program: forkserver spawn fork;
    signals_to_the_group_end_all_processes_silently: forkserver spawn fork;
}

/// Prints `idle`, or `busy` once for each task that begins, or `asleep` once for each process of a
/// task. Then goes on forever.
pub(crate) fn stay_alive(arguments: &Arguments) {
    // Some of the signals that end it write core files.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).expect("it may be lowered");
    match arguments.word() {
        "idle" => {
            let pool = arguments.pool(2);
            let done = pool.map(|x: u32| x, 0..100).expect("nothing fails");
            assert_eq!(done.len(), 100);
            println!("idle");
            work_forever()
        }
        "busy" => {
            let pool = arguments.pool(2);
            pool.map(busy, 0..8).expect("it is ended from outside");
        }
        "nested" => {
            let pool = arguments.pool(2);
            // A start method does not cross between processes, so it is part of the function.
            match arguments.start_method {
                StartMethod::Spawn => pool.map(nested::<true>, 0..2),
                _ => pool.map(nested::<false>, 0..2),
            }
            .expect("it is ended from outside");
        }
        "executing" => {
            let pool = arguments.pool_builder(2).preload(|()| (), ()).build();
            let pool = pool.expect("it can be built");
            let start_method = match arguments.start_method {
                StartMethod::Fork => StartMethod::Forkserver, // the pool has threads
                other => other,
            };
            let daemon = Process::new(|()| work_forever(), ()).daemon(true).name("daemon");
            let _daemon = daemon.start_method(start_method).start().expect("it can be started");
            pool.map(execute, 0..8).expect("it is ended from outside");
        }
        other => panic!("no way to stay: {other}"),
    }
}

fn busy(_: u32) {
    println!("busy");
    work_forever()
}

/// Waits for a program that goes on for long.
fn execute(_: u32) {
    let mut executed = Command::new("sleep").arg("1000").spawn().expect("there is a sleep");
    println!("busy");
    executed.wait().expect("it is ended from outside");
    work_forever();
}

fn nested<const SPAWN: bool>(_: u32) {
    let start_method = if SPAWN { StartMethod::Spawn } else { StartMethod::Forkserver };
    let asleep = |()| {
        println!("asleep");
        work_forever()
    };
    let children: Vec<_> = (0..2)
        .map(|_| {
            Process::new(asleep, ()).start_method(start_method).start().expect("it can be started")
        })
        .collect();
    for child in children {
        child.join().expect("it is ended from outside");
    }
}

/// Waits until all processes are there that could outlive the program.
fn expect_population(program: &mut Running, start_method: StartMethod, more: &[&str]) {
    let program_name = program_name();
    let mut expected = vec![&*program_name, "forkserver", "worker-0", "worker-1"];
    expected.extend(more);
    if start_method != StartMethod::Forkserver {
        expected.push("forkserver");
    }
    expected.sort_unstable();
    // A fork server that nobody needs yet may take its name later.
    program.wait_for_members(&format!("there should be {expected:?}"), |members| {
        let mut names: Vec<&str> = members.iter().map(|member| member.comm.as_str()).collect();
        names.sort_unstable();
        names == expected
    });
}

fn start_idle(start_method: StartMethod) -> Running {
    let mut program = start(stay_alive, start_method, &["idle"]);
    program.lines(1, "idle");
    expect_population(&mut program, start_method, &[]);
    program
}

/// Kills a program. `finish` checks that nothing is left of it.
fn killed(program: Running) {
    program.signal(Signal::SIGKILL);
    program.finish().was_killed_by(Signal::SIGKILL);
}

fn nothing_outlives_a_killed_program_when_idle(start_method: StartMethod) {
    killed(start_idle(start_method));
}

fn start_busy(start_method: StartMethod) -> Running {
    let mut program = start(stay_alive, start_method, &["busy"]);
    program.lines(2, "busy");
    expect_population(&mut program, start_method, &[]);
    program
}

fn nothing_outlives_a_killed_program_when_busy(start_method: StartMethod) {
    killed(start_busy(start_method));
}

fn start_nested(start_method: StartMethod) -> Running {
    let mut program = start(stay_alive, start_method, &["nested"]);
    program.lines(4, "asleep");
    let mut more = vec!["Process-1", "Process-1", "Process-2", "Process-2"];
    if start_method == StartMethod::Spawn {
        more.extend(["forkserver", "forkserver"]);
    }
    expect_population(&mut program, start_method, &more);
    program
}

fn nothing_outlives_a_killed_program_when_nested(start_method: StartMethod) {
    killed(start_nested(start_method));
}

/// Tasks in a pool with a fork server of its own wait for programs that they have executed.
fn start_executing(start_method: StartMethod) -> Running {
    let mut program = start(stay_alive, start_method, &["executing"]);
    program.lines(2, "busy");
    expect_population(&mut program, start_method, &["forkserver", "daemon", "sleep", "sleep"]);
    program
}

fn what_tasks_have_executed_outlives_a_killed_program(start_method: StartMethod) {
    let mut program = start_executing(start_method);
    program.signal(Signal::SIGKILL);
    program.wait_for_members("what the tasks have executed should be left, alone", |members| {
        members.len() == 2 && members.iter().all(|member| member.comm == "sleep")
    });
    program.signal_group(Signal::SIGTERM);
    program.finish().was_killed_by(Signal::SIGKILL);
}

fn signals_to_the_group_end_all_processes_silently(start_method: StartMethod) {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        for start in [start_idle, start_busy, start_nested, start_executing] {
            let program = start(start_method);
            program.signal_group(signal);
            program.finish().was_killed_by(signal);
        }
    }
}
