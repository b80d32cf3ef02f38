//! Workers are killed at random moments: a task has its result or one death, and nothing is lost.

mod support;
use support::scenario;

in_contexts! {
    each_task_of_killed_workers_has_one_fate: forkserver spawn fork;
    wake_up_that_a_killed_worker_promised_is_made_good: forkserver spawn fork;
}

fn each_task_of_killed_workers_has_one_fate(context: &str) {
    for chunksize in ["1", "3", "default"] {
        let finished = scenario("killed-from-outside", context, &[chunksize]);
        assert_eq!(finished.succeeded(), "at least 100 kills, no more deaths\n", "{chunksize}");
    }
}

fn wake_up_that_a_killed_worker_promised_is_made_good(context: &str) {
    assert_eq!(scenario("killed-by-timer", context, &[]).succeeded(), "300 rounds\n");
}
