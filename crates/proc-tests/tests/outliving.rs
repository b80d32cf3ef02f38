//! What a program has started ends with it, also where it executes another, or they have other
//! users.

mod support;
use std::io::Write as _;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::{Member, Running, scenario, start};

in_contexts! {
    nothing_outlives_exec_when_idle: forkserver spawn fork;
    nothing_outlives_exec_when_busy: forkserver spawn fork;
    nothing_outlives_exec_when_children_were_dropped: forkserver spawn fork;
    nothing_outlives_exec_of_the_same_program: forkserver spawn fork;
    workers_of_another_user_end_with_the_program: forkserver spawn fork;
    workers_of_another_user_end_with_the_fork_server: forkserver spawn fork;
    no_zombie_is_left_to_a_subreaper: forkserver spawn fork;
}

/// The program has what it is to leave behind, and has executed the other.
fn executed(context: &str, state: &str, program: &str) -> (Running, Vec<Member>) {
    let running = start("executes", context, &[state, program]);
    let mut running = running.limited_to(Duration::from_secs(20));
    let ready = match state {
        "busy" => vec!["busy", "busy", "ready"],
        _ => vec!["ready"],
    };
    let mut said: Vec<String> = ready.iter().map(|_| running.line()).collect();
    said.sort_unstable();
    assert_eq!(said, ready);
    running.wait_for_members("two workers and two processes", |members| {
        let count = |name: &str| members.iter().filter(|m| m.comm.starts_with(name)).count();
        (count("worker-"), count("Process-")) == (2, 2) && count("forkserver") > 0
    });
    let before = running.members();
    std::fs::File::create_new(running.directory().join("go")).expect("it waits for that");
    (running, before)
}

fn nothing_outlives_exec(context: &str, state: &str) {
    let (mut running, _) = executed(context, state, "sleep");
    running.wait_for_members("there should be nobody but the program", |members| {
        members.iter().map(|member| member.comm.as_str()).eq(["sleep"])
    });
    running.signal(Signal::SIGKILL);
    running.finish().was_killed_by(Signal::SIGKILL);
}

fn nothing_outlives_exec_when_idle(context: &str) {
    nothing_outlives_exec(context, "idle");
}

fn nothing_outlives_exec_when_busy(context: &str) {
    nothing_outlives_exec(context, "busy");
}

fn nothing_outlives_exec_when_children_were_dropped(context: &str) {
    nothing_outlives_exec(context, "dropped");
}

/// The new program has the old one's pid, and a pool of its own.
fn nothing_outlives_exec_of_the_same_program(context: &str) {
    for state in ["idle", "busy"] {
        let (mut running, before) = executed(context, state, "itself");
        running.lines(1, "idle");
        let leader = running.pid();
        let is_old =
            |member: &Member| member.pid != leader && before.iter().any(|b| b.pid == member.pid);
        running.wait_for_members("the old program's processes should be gone", |members| {
            !members.iter().any(is_old)
        });
        // A new worker takes its name in its first moments.
        running.wait_for_members("the new program has two workers", |members| {
            members.iter().filter(|m| m.comm.starts_with("worker-")).count() == 2
        });
        running.signal(Signal::SIGKILL);
        running.finish().was_killed_by(Signal::SIGKILL);
    }
}

/// Programs whose workers became another user's in each place, busy; none without root.
fn other_users(context: &str) -> Vec<Running> {
    if !nix::unistd::geteuid().is_root() {
        let _ = writeln!(std::io::stderr(), "skipped: only root can change a worker's user");
        return Vec::new();
    }
    let places = ["initializer", "state", "preload"].into_iter();
    let running = places.map(|place| start("other-user", context, &[place]));
    running
        .map(|mut running| {
            running.lines(2, "busy");
            running
        })
        .collect()
}

fn workers_of_another_user_end_with_the_program(context: &str) {
    for running in other_users(context) {
        running.signal(Signal::SIGKILL);
        // The fixture looks for what is left.
        running.finish().was_killed_by(Signal::SIGKILL);
    }
}

fn workers_of_another_user_end_with_the_fork_server(context: &str) {
    for running in other_users(context) {
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

fn no_zombie_is_left_to_a_subreaper(context: &str) {
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
        // The context is that of the programs which it runs.
        let finished = scenario("subreaper", "forkserver", &[way, context]);
        assert_eq!(finished.succeeded(), "clean\n", "{way}");
    }
}
