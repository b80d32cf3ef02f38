//! Tasks that are fetched later: cancelled, awaited, or told to a callback.

mod support;
use support::{assert_told, scenario};

in_contexts! {
    callback_that_panics_spoils_nothing: forkserver spawn fork;
    cancelled_task_that_waits_never_runs: forkserver spawn fork;
    cancelled_task_that_runs_is_stopped: forkserver spawn fork;
    call_is_cancelled_as_a_whole: forkserver spawn fork;
    task_that_is_done_is_not_cancelled: forkserver spawn fork;
    task_of_a_worker_that_is_only_starting_is_cancelled: forkserver spawn fork;
    tasks_are_futures: forkserver spawn fork;
}

fn callback_that_panics_spoils_nothing(context: &str) {
    let finished = scenario("callbacks-that-panic", context, &[]);
    assert!(finished.status.success(), "{}", finished.stderr);
    assert_eq!(finished.stdout, "map [0, 1, 2, 3]\nmap_async 100\nall are called\n");
    // The last one's sender is dropped before its panic is printed, and the program may be quicker.
    let panics = finished.stderr.matches("a callback's own trouble").count();
    assert!((6..=7).contains(&panics), "{}", finished.stderr);
}

fn cancelled_task_that_waits_never_runs(context: &str) {
    assert_told("cancel_queued", 1, scenario("cancel-queued", context, &[]).succeeded());
}

fn cancelled_task_that_runs_is_stopped(context: &str) {
    assert_told("cancel_running", 2, scenario("cancel-running", context, &[]).succeeded());
}

fn call_is_cancelled_as_a_whole(context: &str) {
    assert_told("cancel_some", 2, scenario("cancel-some", context, &[]).succeeded());
}

fn task_of_a_worker_that_is_only_starting_is_cancelled(context: &str) {
    let finished = scenario("cancel-at-start", context, &[]);
    assert_eq!(finished.succeeded(), "afterwards [0, 1, 2]\n");
}

fn task_that_is_done_is_not_cancelled(context: &str) {
    let finished = scenario("cancel-done", context, &[]);
    assert_eq!(finished.succeeded(), "fetched false\n7\nunfetched false\n8\nsame worker true\n");
}

fn tasks_are_futures(context: &str) {
    for executor in ["bare", "current-thread", "multi-thread"] {
        let finished = scenario("futures", context, &[executor]);
        assert_told(&format!("futures_{executor}"), 2, finished.succeeded());
    }
}
