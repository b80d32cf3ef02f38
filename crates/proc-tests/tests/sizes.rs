//! How many workers there are: asked for, away for want of work, or dying too often.

mod support;
use support::{assert_told, scenario};

in_contexts! {
    pool_grows_and_shrinks: forkserver spawn fork;
    shrinking_waits_for_tasks: forkserver spawn fork;
    no_result_is_lost_by_resizing: forkserver spawn fork;
    senseless_sizes_are_refused: forkserver spawn fork;
    pool_that_cannot_grow_stays_as_it_was: forkserver spawn fork;
    idle_workers_leave_and_come_back: forkserver spawn fork;
    work_that_meets_a_leaving_worker_is_done: forkserver spawn fork;
    worker_that_leaves_ends_in_order: forkserver spawn fork;
    pool_ends_without_workers: forkserver spawn fork;
    too_many_deaths_end_the_pool: forkserver spawn fork;
    pool_without_a_worker_tells_everybody: forkserver spawn fork;
    only_deaths_count: forkserver spawn fork;
    retired_slot_is_tried_again: forkserver spawn fork;
}

fn pool_grows_and_shrinks(context: &str) {
    let expected = [1, 4, 2, 6, 1, 3].map(|size| format!("{size}: {size} workers\n")).concat();
    assert_eq!(scenario("resize", context, &[]).succeeded(), expected);
}

fn shrinking_waits_for_tasks(context: &str) {
    let expected = "processes 1, workers 2\nresults 2\nafterwards [0, 1, 2]\n";
    assert_eq!(scenario("resize-busy", context, &[]).succeeded(), expected);
}

fn no_result_is_lost_by_resizing(context: &str) {
    assert_eq!(scenario("resize-under-load", context, &[]).succeeded(), "maps 50\n");
}

fn senseless_sizes_are_refused(context: &str) {
    assert_told("senseless_sizes", 2, scenario("resize-refused", context, &[]).succeeded());
}

fn pool_that_cannot_grow_stays_as_it_was(context: &str) {
    let finished = scenario("resize-without-descriptors", context, &[]);
    assert_eq!(finished.succeeded(), "start true, processes 2\n[0, 1, 2]\n");
}

fn idle_workers_leave_and_come_back(context: &str) {
    let expected = "processes 4\n".repeat(3);
    assert_eq!(scenario("idle", context, &[]).succeeded(), expected);
}

fn work_that_meets_a_leaving_worker_is_done(context: &str) {
    assert_eq!(scenario("idle-races", context, &[]).succeeded(), "nothing is lost\n");
}

fn worker_that_leaves_ends_in_order(context: &str) {
    let finished = scenario("idle-exit", context, &[]);
    assert_eq!(finished.succeeded(), "bye 5\ncounted 7\nbye 7\n");
}

fn pool_ends_without_workers(context: &str) {
    assert_eq!(scenario("idle-end", context, &[]).succeeded(), "close 9\nended\n");
}

fn too_many_deaths_end_the_pool(context: &str) {
    assert_told("restart_limit", 1, scenario("restart-limit", context, &[]).succeeded());
}

fn pool_without_a_worker_tells_everybody(context: &str) {
    assert_told("no_worker", 2, scenario("no-worker", context, &[]).succeeded());
}

fn only_deaths_count(context: &str) {
    let finished = scenario("restarts-that-do-not-count", context, &[]);
    assert_told("only_deaths_count", 3, finished.succeeded());
}

fn retired_slot_is_tried_again(context: &str) {
    assert_eq!(scenario("retired", context, &[]).succeeded(), "workers 1\nworkers 2\n");
}
