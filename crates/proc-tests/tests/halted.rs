//! Workers that are stopped (SIGSTOP) while they have no task hold up nobody.

mod support;
use std::time::Duration;

use support::start;

in_contexts! {
    stopped_worker_holds_up_nobody: forkserver spawn fork;
    several_stopped_workers_hold_up_nobody: forkserver spawn fork;
    task_of_a_stopped_worker_times_out: forkserver spawn fork;
    worker_stopped_between_tasks_holds_up_nobody: forkserver spawn fork;
}

fn run(name: &str, context: &str, words: &[&str]) -> String {
    let program = start(name, context, words).limited_to(Duration::from_secs(30));
    program.finish().succeeded().to_owned()
}

fn stopped_worker_holds_up_nobody(context: &str) {
    assert_eq!(run("halted-one", context, &[]), "soon\n");
}

fn several_stopped_workers_hold_up_nobody(context: &str) {
    assert_eq!(run("halted-some", context, &[]), "soon\n");
}

fn task_of_a_stopped_worker_times_out(context: &str) {
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
    for call in calls {
        assert_eq!(run("halted-alone", context, &[call]), "told\n", "{call}");
    }
}

fn worker_stopped_between_tasks_holds_up_nobody(context: &str) {
    assert_eq!(run("halted-between", context, &[]), "soon\n");
}
