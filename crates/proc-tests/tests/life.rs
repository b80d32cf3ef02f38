//! How long processes live: longer than threads, never longer than their program.

mod support;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

use support::{Finished, Running, assert_told, scenario, start};

in_contexts! {
    nothing_outlives_a_killed_program_when_idle: forkserver spawn fork;
    nothing_outlives_a_killed_program_when_busy: forkserver spawn fork;
    nothing_outlives_a_killed_program_when_nested: forkserver spawn fork;
    interrupt_ends_everything_without_a_word: forkserver spawn fork;
    pool_outlives_the_thread_that_built_it: forkserver spawn;
    deaf_task_is_killed_after_the_grace: forkserver spawn fork;
    ending_takes_no_grace_where_nobody_refuses: forkserver spawn fork;
    handles_of_a_dropped_pool_are_told_so: forkserver spawn fork;
    calls_end_when_a_thread_terminates_the_pool: forkserver spawn fork;
    closed_pool_says_so: forkserver spawn fork;
    pool_in_a_static_is_no_hindrance: forkserver spawn fork;
    exit_ends_everything: forkserver spawn fork;
    panic_ends_everything: forkserver spawn fork;
    processes_start_while_threads_allocate: forkserver spawn;
    nothing_grows_with_pools_and_processes: forkserver spawn;
    killed_fork_server_is_replaced: forkserver spawn;
    pool_outlives_its_fork_server: forkserver spawn;
    forked_pool_ends_with_its_fork_server: fork;
}

fn idle(context: &str) -> Running {
    let mut program = start("stay", context, &["idle"]);
    program.lines(1, "idle");
    expect_population(&mut program, context, &[]);
    program
}

fn busy(context: &str) -> Running {
    let mut program = start("stay", context, &["busy"]);
    program.lines(2, "busy");
    expect_population(&mut program, context, &[]);
    program
}

fn nested(context: &str) -> Running {
    let mut program = start("stay", context, &["nested"]);
    program.lines(4, "asleep");
    let mut more = vec!["Process-1", "Process-1", "Process-2", "Process-2"];
    if context == "spawn" {
        more.extend(["forkserver", "forkserver"]);
    }
    expect_population(&mut program, context, &more);
    program
}

/// Who is there to be outlived: the test would be worth nothing without them.
fn expect_population(program: &mut Running, context: &str, more: &[&str]) {
    let mut expected = vec!["scenario", "forkserver", "worker-0", "worker-1"];
    expected.extend(more);
    if context != "forkserver" {
        expected.push("forkserver");
    }
    expected.sort_unstable();
    // A fork server that nobody needs takes its name in its own time.
    program.wait_for_members(&format!("there should be {expected:?}"), |members| {
        let mut names: Vec<&str> = members.iter().map(|member| member.comm.as_str()).collect();
        names.sort_unstable();
        names == expected
    });
}

fn nothing_outlives_a_killed_program_when_idle(context: &str) {
    killed(idle(context));
}

fn nothing_outlives_a_killed_program_when_busy(context: &str) {
    killed(busy(context));
}

fn nothing_outlives_a_killed_program_when_nested(context: &str) {
    killed(nested(context));
}

/// The fixture looks for what is left.
fn killed(program: Running) {
    program.signal(Signal::SIGKILL);
    program.finish().was_killed_by(Signal::SIGKILL);
}

fn interrupt_ends_everything_without_a_word(context: &str) {
    for program in [idle(context), busy(context), nested(context)] {
        program.signal_group(Signal::SIGINT);
        program.finish().was_killed_by(Signal::SIGINT);
    }
}

fn pool_outlives_the_thread_that_built_it(context: &str) {
    assert_eq!(scenario("thread-ends", context, &[]).succeeded(), "7\n");
}

fn deaf_task_is_killed_after_the_grace(context: &str) {
    assert_eq!(scenario("deaf-task", context, &[]).succeeded(), CLOSED);
}

const CLOSED: &str = "closed | the pool is closed\n";

fn ending_takes_no_grace_where_nobody_refuses(context: &str) {
    assert_eq!(scenario("terminate-times", context, &[]).succeeded(), "quick\n");
}

fn handles_of_a_dropped_pool_are_told_so(context: &str) {
    assert_told("dropped_pool", 2, scenario("dropped-in-the-middle", context, &[]).succeeded());
}

fn calls_end_when_a_thread_terminates_the_pool(context: &str) {
    for call in ["map", "try_map", "imap", "apply"] {
        let finished = scenario("terminated-by-a-thread", context, &[call]);
        assert_told(&format!("terminated_{call}"), 2, finished.succeeded());
    }
}

fn closed_pool_says_so(context: &str) {
    assert_told("closed_pool", 2, scenario("closed-pool", context, &[]).succeeded());
}

/// Runs to the last line, and then to the end within a second.
fn at_once(name: &str, context: &str, busy: &str, last: &str) -> Finished {
    let mut program = start(name, context, &[busy]);
    program.lines(1, last);
    let said = Instant::now();
    let finished = program.finish();
    assert!(said.elapsed() < Duration::from_secs(1), "{:?} after {last}", said.elapsed());
    finished
}

fn pool_in_a_static_is_no_hindrance(context: &str) {
    for busy in ["idle", "busy"] {
        at_once("static-pool", context, busy, "main returns").succeeded();
    }
}

fn exit_ends_everything(context: &str) {
    for busy in ["idle", "busy"] {
        let finished = at_once("exit-in-the-middle", context, busy, "main exits");
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!(finished.stderr, "");
    }
}

fn panic_ends_everything(context: &str) {
    for busy in ["idle", "busy"] {
        let finished = at_once("panic-in-the-middle", context, busy, "main panics");
        assert_eq!(finished.status.code(), Some(101));
        assert_eq!(finished.stderr.matches("panicked at").count(), 1, "{}", finished.stderr);
    }
}

fn processes_start_while_threads_allocate(context: &str) {
    const PROCESSES: usize = 1000;
    let finished = scenario("busy-threads", context, &[&PROCESSES.to_string()]);
    let expected = (0..PROCESSES).map(|number| format!("None{number}"));
    assert!(finished.succeeded().lines().eq(expected));
}

fn nothing_grows_with_pools_and_processes(context: &str) {
    assert_eq!(scenario("many-lives", context, &["100"]).succeeded(), "flat\n");
}

/// A thousand pools, ten thousand processes; minutes on a small machine.
///
/// `cargo test --release -p proc-tests --test life -- --ignored thousand`
#[test]
#[ignore = "takes minutes"]
fn nothing_grows_with_a_thousand_pools() {
    for context in ["forkserver", "spawn"] {
        let program = start("many-lives", context, &["1000"]).limited_to(Duration::from_secs(600));
        assert_eq!(program.finish().succeeded(), "flat\n");
    }
}

fn killed_fork_server_is_replaced(context: &str) {
    assert_eq!(scenario("fork-server-killed", context, &[]).succeeded(), "fork servers 1\n");
}

fn pool_outlives_its_fork_server(context: &str) {
    let finished = scenario("fork-server-killed-under-a-pool", context, &[]);
    assert_told("killed_fork_server", 2, finished.succeeded());
}

fn forked_pool_ends_with_its_fork_server(context: &str) {
    let finished = scenario("fork-fork-server-killed", context, &[]);
    assert_told("killed_fork_server_of_a_fork_pool", 2, finished.succeeded());
}
