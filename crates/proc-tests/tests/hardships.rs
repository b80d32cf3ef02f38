//! What surrounds a program and its workers may be bad; it is told, and nothing hangs.

mod support;
use std::io::Write as _;
use std::process::{Command, Stdio};

use support::{Running, assert_told, scenario};

in_contexts! {
    ignored_exits_are_heard: forkserver spawn fork;
    fork_servers_that_others_reap_leave_nothing: forkserver spawn fork;
    long_environments_arrive: forkserver spawn fork;
    long_names_start: forkserver spawn fork;
    thread_that_holds_stdout_holds_up_nobody: forkserver spawn fork;
    thread_that_waits_in_c_holds_up_nobody: forkserver spawn fork;
    directory_need_not_be_text: forkserver spawn fork;
    results_do_not_wait_for_slow_inputs: forkserver spawn fork;
    worker_is_replaced_when_there_are_descriptors_again: forkserver spawn;
    pool_of_a_stopped_fork_server_ends: forkserver spawn fork;
    rights_given_up_are_given_up_for_all: forkserver spawn fork;
    processes_that_cannot_be_had_are_told: forkserver spawn fork;
    workers_without_a_thread_are_ended: forkserver spawn fork;
    descriptors_under_way_cost_no_worker: forkserver spawn fork;
    worker_that_overwrites_memory_is_told: forkserver spawn fork;
}

const USED: &str = "process 42\npool [1, 2, 3]\n";

/// `env` with `option` starts the scenario.
fn through_env(option: &str, name: &str, context: &str) -> Running {
    let mut command = Command::new("env");
    command.env_clear().env("PATH", std::env::var_os("PATH").expect("there is a PATH"));
    command.args([option, env!("CARGO_BIN_EXE_scenario"), name, context]);
    command.stdout(Stdio::piped());
    Running::start(command)
}

/// What is told of a process and a pool that could not be started.
fn refused(why: &str) -> String {
    format!(
        "process start | {why} (process \"Process-1\")\npool start worker=0 | {why} (worker 0)\n"
    )
}

fn ignored_exits_are_heard(context: &str) {
    let program = through_env("--ignore-signal=CHLD", "ignored-exits", context);
    assert_eq!(program.finish().succeeded(), USED);
}

fn long_environments_arrive(context: &str) {
    let finished = scenario("long-environment", context, &[]);
    assert_eq!(finished.succeeded(), "process 1000000\npool 1000000\n");
}

fn long_names_start(context: &str) {
    assert_eq!(scenario("long-names", context, &[]).succeeded(), "process 42\npool 1\n");
}

/// What it was forked from is the same program, whatever became of its file; what is executed is
/// not.
#[test]
fn touched_program_goes_on() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let touched = |context: &str| {
        let copy = directory.path().join(context);
        // Another process: one that has the file open for writing must not be forked meanwhile.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_scenario")).arg(&copy).status();
        assert!(copied.expect("there is a cp").success());
        let mut command = Command::new(copy);
        command.env_clear().args(["touched-program", context]).stdout(Stdio::piped());
        Running::start(command).finish().succeeded().to_owned()
    };
    assert_eq!(touched("forkserver"), "process 42\npool 1\n");
    assert_eq!(touched("fork"), "process 42\npool 1\n");
    let why = "cannot start a fork server: the program was executed again, but its file has \
               changed since this process was started: start the program again";
    assert_eq!(touched("spawn"), refused(why));
}

fn thread_that_holds_stdout_holds_up_nobody(context: &str) {
    let finished = scenario("held-stream", context, &["stdout"]);
    assert_eq!(finished.succeeded(), "task 7\nnext [1, 2, 3]\nprocess 7\n");
}

fn thread_that_waits_in_c_holds_up_nobody(context: &str) {
    let finished = scenario("held-stream", context, &["stdin"]);
    assert_eq!(finished.succeeded(), "task 7\nnext [1, 2, 3]\nprocess 7\n");
}

fn directory_need_not_be_text(context: &str) {
    assert_eq!(scenario("unspeakable-directory", context, &[]).succeeded(), "visited\n");
}

fn results_do_not_wait_for_slow_inputs(context: &str) {
    let results = "Some(1)\nSome(2)\nSome(3)\n";
    assert_eq!(scenario("slow-input", context, &[]).succeeded(), results.repeat(2));
}

fn worker_is_replaced_when_there_are_descriptors_again(context: &str) {
    for spare in 0..=8 {
        let finished = scenario("no-descriptors", context, &[&spare.to_string()]);
        assert_eq!(finished.succeeded(), "both\n", "{spare} descriptors");
    }
}

fn pool_of_a_stopped_fork_server_ends(context: &str) {
    let finished = scenario("stopped-fork-server", context, &[]);
    assert_eq!(finished.succeeded(), "closed | the pool is closed\n");
}

fn rights_given_up_are_given_up_for_all(context: &str) {
    if !nix::unistd::geteuid().is_root() {
        let _ = writeln!(std::io::stderr(), "skipped: only root has rights to give up");
        return;
    }
    assert_eq!(
        scenario("given-up-rights", context, &[]).succeeded(),
        "before [0, 0, 0, 0]\n\
         process [65534, 65534, 65534, 65534]\n\
         worker [65534, 65534, 65534, 65534]\n"
    );
}

/// Whether root runs this, who can become a user that has no other processes.
fn can_be_somebody() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        let _ = writeln!(std::io::stderr(), "skipped: only root can become another user");
    }
    is_root
}

fn fork_servers_that_others_reap_leave_nothing(context: &str) {
    for by in ["ignored", "waited"] {
        let finished = scenario("reaped-by-others", context, &[by]);
        assert_eq!(finished.succeeded(), "flat\n", "{by}");
    }
}

fn processes_that_cannot_be_had_are_told(context: &str) {
    if can_be_somebody() {
        assert_told("no_processes", 4, scenario("no-processes", context, &[]).succeeded());
    }
}

fn workers_without_a_thread_are_ended(context: &str) {
    if can_be_somebody() {
        assert_told("no_threads", 1, scenario("no-threads", context, &[]).succeeded());
    }
}

fn descriptors_under_way_cost_no_worker(context: &str) {
    if can_be_somebody() {
        let finished = scenario("descriptors-under-way", context, &[]);
        assert_told("descriptors_under_way", 2, finished.succeeded());
    }
}

#[test]
fn temporary_directory_is_not_needed() {
    for context in ["forkserver", "fork", "spawn"] {
        let program = through_env("TMPDIR=/nonexistent", "no-temporary-directory", context);
        assert_eq!(program.finish().succeeded(), "process 42\npool 1\n", "{context}");
    }
}

fn worker_that_overwrites_memory_is_told(context: &str) {
    for byte in [0, 1, 255] {
        let finished = scenario("scribble", context, &[&byte.to_string()]);
        assert_eq!(finished.succeeded(), "told\n[1, 2, 3]\n", "byte {byte}");
    }
}
