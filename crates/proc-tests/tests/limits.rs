//! What a process and a worker may use, and what is told of those that want more.

mod support;
use support::{assert_told, scenario};

in_contexts! {
    limits_hold_for_processes_and_workers: forkserver spawn fork;
    who_passes_a_limit_is_told_so: forkserver spawn fork;
    limits_that_cannot_be_set_are_errors: forkserver spawn fork;
}

fn limits_hold_for_processes_and_workers(context: &str) {
    assert_told("limits_set", 1, scenario("limits-set", context, &[]).succeeded());
}

fn who_passes_a_limit_is_told_so(context: &str) {
    let finished = scenario("limits-passed", context, &[]);
    assert!(finished.status.success(), "{}\n{}", finished.stdout, finished.stderr);
    // One line of Rust's for each allocation that failed.
    let failed = finished.stderr.matches("memory allocation of 2147483648 bytes failed").count();
    assert_eq!(failed, 3, "{}", finished.stderr);
    assert_told("limits_passed", 2, &finished.stdout);
}

fn limits_that_cannot_be_set_are_errors(context: &str) {
    assert_told("limits_refused", 1, scenario("limits-refused", context, &[]).succeeded());
}
