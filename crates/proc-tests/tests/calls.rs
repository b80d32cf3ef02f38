//! Calls as they should be: windows, sizes, replaced workers, pools inside tasks.

mod support;
use std::time::Duration;

use support::{assert_told, scenario, start};

in_contexts! {
    worker_is_replaced_after_its_share: forkserver spawn fork;
    imap_stays_in_its_window: forkserver spawn fork;
    imap_keeps_its_window_while_one_task_is_stuck: forkserver spawn fork;
    idle_workers_get_what_waits_behind_a_stuck_task: forkserver spawn fork;
    dropped_imap_drops_the_rest: forkserver spawn fork;
    imap_gives_each_result_once: forkserver spawn fork;
    panic_of_the_input_is_the_callers: forkserver spawn fork;
    every_size_works: forkserver spawn fork;
    million_tasks: forkserver spawn fork;
    refused_numbers_start_nothing: forkserver spawn;
    functions_own_results_are_plain_data: forkserver spawn fork;
    results_are_fetched_later: forkserver spawn fork;
    large_values_cross: forkserver spawn fork;
    pools_work_inside_tasks: forkserver spawn fork;
    processes_start_processes: forkserver spawn fork;
    death_inside_a_task_is_its_own: forkserver spawn fork;
}

fn worker_is_replaced_after_its_share(context: &str) {
    for chunksize in ["0", "1", "5", "100"] {
        let finished = scenario("max-tasks", context, &[chunksize]);
        assert_eq!(finished.succeeded(), "50 processes\nat most 2 tasks in one\n", "{chunksize}");
    }
}

fn imap_stays_in_its_window(context: &str) {
    for workers in ["1", "2", "8"] {
        let finished = scenario("imap-window", context, &[workers]);
        assert_eq!(finished.succeeded(), "never more than the window ahead\n");
    }
}

fn imap_keeps_its_window_while_one_task_is_stuck(context: &str) {
    assert_eq!(scenario("imap-stuck", context, &[]).succeeded(), "in order\n");
}

fn idle_workers_get_what_waits_behind_a_stuck_task(context: &str) {
    for workers in ["2", "5"] {
        let finished = scenario("shared-chunks", context, &[workers]);
        let expected = ["Some(1)", "Some(7)", "None"].map(|c| format!("chunks of {c}: all done\n"));
        assert_eq!(finished.succeeded(), expected.concat());
    }
}

fn dropped_imap_drops_the_rest(context: &str) {
    assert_eq!(scenario("imap-dropped", context, &[]).succeeded(), "dropped\n");
}

fn imap_gives_each_result_once(context: &str) {
    assert_eq!(scenario("imap-order", context, &[]).succeeded(), "each one once\n");
}

fn panic_of_the_input_is_the_callers(context: &str) {
    assert_eq!(scenario("imap-input-panics", context, &[]).succeeded(), "[0, 1, 2]\n");
}

fn every_size_works(context: &str) {
    assert_told("sizes", 2, scenario("sizes", context, &[]).succeeded());
}

fn million_tasks(context: &str) {
    assert_eq!(scenario("million", context, &[]).succeeded(), "a million\n");
}

/// `cargo test --release -p proc-tests --test calls -- --ignored ten_million`
#[test]
#[ignore = "slow in debug builds"]
fn ten_million_items() {
    for context in ["forkserver", "spawn", "fork"] {
        assert_eq!(scenario("ten-million", context, &[]).succeeded(), "ten million\n");
    }
}

/// `cargo test --release -p proc-tests --test calls -- --ignored huge`
#[test]
#[ignore = "takes 16 GiB of memory"]
fn huge_values_cross() {
    // Virtual machines may get their memory from their host slowly, page by page.
    let program = start("huge-values", "forkserver", &["4"]).limited_to(Duration::from_secs(600));
    assert_eq!(program.finish().succeeded(), "huge\n");
}

fn refused_numbers_start_nothing(context: &str) {
    assert_told("refused_numbers", 0, scenario("refused-numbers", context, &[]).succeeded());
}

fn functions_own_results_are_plain_data(context: &str) {
    assert_told("own_results", 2, scenario("own-results", context, &[]).succeeded());
}

fn results_are_fetched_later(context: &str) {
    assert_told("results_fetched_later", 2, scenario("apply-async", context, &[]).succeeded());
}

fn large_values_cross(context: &str) {
    assert_eq!(scenario("large-values", context, &[]).succeeded(), "large\n");
}

fn pools_work_inside_tasks(context: &str) {
    assert_eq!(scenario("nested-pools", context, &[]).succeeded(), "15 answers\n");
}

fn processes_start_processes(context: &str) {
    let expected = "[(5, \"scenario\"), (4, \"link-4\"), (3, \"link-3\"), (2, \"link-2\"), \
                    (1, \"link-1\"), (0, \"link-0\")]\n";
    assert_eq!(scenario("nested-processes", context, &[]).succeeded(), expected);
}

fn death_inside_a_task_is_its_own(context: &str) {
    let expected = "death code=9 task=0 worker=0 | task 0: the process exited with code 9 before it \
                    had a result\n";
    assert_eq!(scenario("nested-death", context, &[]).succeeded(), expected);
}
