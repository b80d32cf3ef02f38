//! Processes end with their program, even if it executes another program or if they have other
//! users.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{self, Uid};
use proc_core::{Child, Pool, Process, StartMethod};

use crate::lifetime::killed_program::stay_alive;
use crate::support::procfs::{children, children_of};
use crate::support::{
    Arguments, Member, Running, machine, marker_files, own_arguments, own_file, run, start,
    wait_until, work_forever,
};

programs![execute_another_program, workers_change_user, end_in_some_way, run_as_subreaper];

tests! {
    nothing_outlives_exec_when_idle: forkserver spawn fork;
    nothing_outlives_exec_when_busy: forkserver spawn fork;
    nothing_outlives_exec_when_children_were_dropped: forkserver spawn fork;
    nothing_outlives_exec_of_the_same_program: forkserver spawn fork;
    workers_of_another_user_end_with_the_program: forkserver spawn fork;
    workers_of_another_user_end_with_the_fork_server: forkserver spawn fork;
    no_zombie_is_left_to_a_subreaper: forkserver spawn fork;
}

fn increment(x: u32) -> u32 {
    x + 1
}

fn busy(_: u32) {
    println!("busy");
    work_forever();
}

/// The program becomes another one, while it has workers and processes.
fn execute_another_program(arguments: &Arguments) {
    let [state, program] = &arguments.rest[..] else { panic!("a state and a program") };
    let start = |daemon| {
        let asleep = |()| work_forever();
        Process::new(asleep, ()).start_method(arguments.start_method).daemon(daemon).start()
    };
    let children = [false, true].map(|daemon| start(daemon).expect("it can be started"));
    let pool = arguments.pool(2);
    pool.map(increment, 0..100).expect("nothing fails");
    let mut tasks = Vec::new();
    if state == "busy" {
        tasks.extend((0..4).map(|x| pool.apply_async(busy, x).expect("the pool is open")));
    }
    // Nobody needs the fork server of a `Fork` process whose `Child` was dropped.
    let mut children = Vec::from(children);
    if state == "dropped" {
        children.clear();
    }
    println!("ready");
    // The test makes this file when it has seen that all processes are alive.
    let go = std::env::temp_dir().join("go");
    marker_files::wait_for(&go);
    std::fs::remove_file(go).expect("it is there");
    let error = match program.as_str() {
        "sleep" => Command::new("sleep").arg("1000").exec(),
        _ => {
            let words = own_arguments(stay_alive, arguments.start_method);
            Command::new(own_file()).args(words).arg("idle").exec()
        }
    };
    panic!("{error}, with {children:?} and {tasks:?}");
}

/// Starts the program, waits until all its processes are alive, and lets it execute the other
/// program.
fn executed(start_method: StartMethod, state: &str, program: &str) -> (Running, Vec<Member>) {
    let running = start(execute_another_program, start_method, &[state, program]);
    let mut running = running.limited_to(Duration::from_secs(20));
    let ready = match state {
        "busy" => vec!["busy", "busy", "ready"],
        _ => vec!["ready"],
    };
    let mut said: Vec<String> = ready.iter().map(|_| running.line()).collect();
    said.sort_unstable();
    assert_eq!(said, ready);
    running.wait_for_members("there should be two workers and two processes", |members| {
        let count = |name: &str| members.iter().filter(|m| m.comm.starts_with(name)).count();
        (count("worker-"), count("Process-")) == (2, 2) && count("forkserver") > 0
    });
    let before = running.members();
    std::fs::File::create_new(running.directory().join("go")).expect("it waits for that");
    (running, before)
}

fn nothing_outlives_exec(start_method: StartMethod, state: &str) {
    let (mut running, _) = executed(start_method, state, "sleep");
    running.wait_for_members("there should be nobody but the program", |members| {
        members.iter().map(|member| member.comm.as_str()).eq(["sleep"])
    });
    running.signal(Signal::SIGKILL);
    running.finish().was_killed_by(Signal::SIGKILL);
}

fn nothing_outlives_exec_when_idle(start_method: StartMethod) {
    nothing_outlives_exec(start_method, "idle");
}

fn nothing_outlives_exec_when_busy(start_method: StartMethod) {
    nothing_outlives_exec(start_method, "busy");
}

fn nothing_outlives_exec_when_children_were_dropped(start_method: StartMethod) {
    nothing_outlives_exec(start_method, "dropped");
}

/// The new program has the old one's pid, and a pool of its own.
fn nothing_outlives_exec_of_the_same_program(start_method: StartMethod) {
    for state in ["idle", "busy"] {
        let (mut running, before) = executed(start_method, state, "itself");
        running.lines(1, "idle");
        let leader = running.pid();
        let is_old =
            |member: &Member| member.pid != leader && before.iter().any(|b| b.pid == member.pid);
        running.wait_for_members("the old program's processes should be gone", |members| {
            !members.iter().any(is_old)
        });
        // A new worker takes its name some moments after its start.
        running.wait_for_members("the new program should have two workers", |members| {
            members.iter().filter(|m| m.comm.starts_with("worker-")).count() == 2
        });
        running.signal(Signal::SIGKILL);
        running.finish().was_killed_by(Signal::SIGKILL);
    }
}

fn become_nobody(_: ()) {
    unistd::setuid(Uid::from_raw(65534)).expect("root may");
}

/// Workers change their user in their set-up, or the pool's own fork server does so in `preload`.
/// The program and the other fork servers do not.
fn workers_change_user(arguments: &Arguments) {
    let builder = Pool::builder().processes(2).start_method(arguments.start_method);
    let is_nobody = |_: u32| {
        assert_eq!(unistd::getuid().as_raw(), 65534);
        busy(0);
    };
    let results = match arguments.word() {
        "initializer" => builder
            .initializer(become_nobody, ())
            .build()
            .map(|pool| pool.options().chunksize(1).try_map(is_nobody, 0..2)),
        "preload" => builder
            .preload(become_nobody, ())
            .build()
            .map(|pool| pool.options().chunksize(1).try_map(is_nobody, 0..2)),
        "state" => builder
            .state(become_nobody, ())
            .build()
            .map(|pool| pool.options().chunksize(1).try_map(is_nobody, 0..2)),
        other => panic!("no such place: {other}"),
    };
    let results = results.expect("the pool can be built");
    assert!(results.iter().all(Result::is_err), "they were killed: {results:?}");
    println!("done");
    work_forever();
}

/// Starts a program for each place in which workers can change their user, and waits until the
/// workers are busy. Without root there are none.
fn other_users(start_method: StartMethod) -> Vec<Running> {
    if machine::or_skip(machine::root()).is_none() {
        return Vec::new();
    }
    let places = ["initializer", "state", "preload"].into_iter();
    let running = places.map(|place| start(workers_change_user, start_method, &[place]));
    running
        .map(|mut running| {
            running.lines(2, "busy");
            running
        })
        .collect()
}

fn workers_of_another_user_end_with_the_program(start_method: StartMethod) {
    for running in other_users(start_method) {
        running.signal(Signal::SIGKILL);
        // `finish` looks for processes that are left.
        running.finish().was_killed_by(Signal::SIGKILL);
    }
}

fn workers_of_another_user_end_with_the_fork_server(start_method: StartMethod) {
    for running in other_users(start_method) {
        let mut running = running.limited_to(Duration::from_secs(20));
        let before = running.members();
        let is_old = |pid| before.iter().any(|member: &Member| member.pid == pid);
        for fork_server in before.iter().filter(|member| member.comm == "forkserver") {
            running.signal_member(fork_server, Signal::SIGKILL);
        }
        running.wait_for_members("the workers should be gone", |members| {
            !members.iter().any(|m| m.comm.starts_with("worker-") && is_old(m.pid))
        });
        running.lines(1, "done");
        running.signal(Signal::SIGKILL);
        running.finish().was_killed_by(Signal::SIGKILL);
    }
}

static POOL: OnceLock<Pool> = OnceLock::new();

/// One of the ways in which a program ends in order.
fn end_in_some_way(arguments: &Arguments) {
    let sleep = |()| work_forever();
    let start_method = arguments.start_method;
    match arguments.word() {
        "static" => {
            let pool = POOL.get_or_init(|| arguments.pool(2));
            pool.map(increment, 0..10).expect("nothing fails");
        }
        "busy" => {
            let pool = POOL.get_or_init(|| arguments.pool(2));
            std::mem::forget(pool.map_async(|_: u32| work_forever(), 0..4));
        }
        "daemon" => {
            let daemon = Process::new(sleep, ()).start_method(start_method).daemon(true).start();
            drop(daemon.expect("it can be started"));
        }
        "child" => {
            let child = Process::new(increment, 1).start_method(start_method).start();
            assert_eq!(child.and_then(Child::join).expect("it returns"), 2);
        }
        "waited-for" => {
            let child = Process::new(increment, 1).start_method(start_method).start();
            drop(child.expect("it can be started"));
        }
        "nothing" => {}
        how => {
            let pool = arguments.pool(2);
            pool.map(increment, 0..10).expect("nothing fails");
            match how {
                "return" => drop(pool),
                "exit" => std::process::exit(0),
                "panic" => panic!("told to"),
                "joined" => {
                    pool.close();
                    pool.join().expect("the workers end");
                }
                other => panic!("no such way: {other}"),
            }
        }
    }
}

/// A subreaper that collects only its own children, like a program that is pid 1 of a container.
fn run_as_subreaper(arguments: &Arguments) {
    let way = arguments.word();
    nix::sys::prctl::set_child_subreaper(true).expect("Linux can");
    let before = children();
    for run in 0..5 {
        let mut program = Command::new(own_file());
        program.args(own_arguments(end_in_some_way, arguments.start_method)).arg(way);
        program.stdout(Stdio::null()).stderr(Stdio::null());
        let status = program.status().expect("it is there");
        assert_eq!(status.code(), Some(if way == "panic" { 101 } else { 0 }), "run {run}");
        let ours = || children().into_iter().filter(|pid| !before.contains(pid));
        let stat = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/stat"));
        // Some processes outlive the program for a moment. When they have ended, each of them must
        // have been collected. One that stays a zombie is the fault that is looked for.
        wait_until(|| ours().all(|pid| stat(&pid).is_ok_and(|stat| stat.contains(") Z "))));
        let left: Vec<String> = ours().filter_map(|pid| stat(&pid).ok()).collect();
        assert!(left.is_empty(), "run {run} of {way} left zombies: {left:?}");
    }
    assert!(before.iter().all(|pid| children_of(*pid).is_empty()));
    println!("clean");
}

fn no_zombie_is_left_to_a_subreaper(start_method: StartMethod) {
    let ways = [
        "nothing",
        "return",
        "exit",
        "panic",
        "joined",
        "static",
        "busy",
        "daemon",
        "child",
        "waited-for",
    ];
    for way in ways {
        let finished = run(run_as_subreaper, start_method, &[way]);
        assert_eq!(finished.succeeded(), "clean\n", "{way}");
    }
}
