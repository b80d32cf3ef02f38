//! Workers' states and ends, and how many there are.

mod support;
use support::{assert_told, scenario};

in_contexts! {
    tasks_share_the_state_of_their_worker: forkserver spawn fork;
    state_dies_with_its_worker: forkserver spawn fork;
    failing_state_is_believed: forkserver spawn fork;
    state_that_cannot_be_made_again_costs_a_worker: forkserver spawn fork;
    worker_that_ends_in_order_says_so: forkserver spawn fork;
    panic_at_the_end_of_a_worker_spoils_nothing: forkserver spawn fork;
    state_is_dropped_in_its_worker: forkserver spawn fork;
    worker_exit_before_state_is_refused: forkserver;
}

fn tasks_share_the_state_of_their_worker(context: &str) {
    assert_told("state", 1, scenario("state", context, &[]).succeeded());
}

fn state_dies_with_its_worker(context: &str) {
    assert_told(
        "state_of_the_dead",
        1,
        scenario("state-of-a-dead-worker", context, &[]).succeeded(),
    );
}

fn failing_state_is_believed(context: &str) {
    for code in ["0", "4"] {
        let finished = scenario("state-fails", context, &[code]);
        assert_told(&format!("state_that_fails_{code}"), 2, finished.succeeded());
    }
}

fn state_that_cannot_be_made_again_costs_a_worker(context: &str) {
    assert_told(
        "state_that_fails_again",
        1,
        scenario("state-fails-again", context, &[]).succeeded(),
    );
}

fn worker_that_ends_in_order_says_so(context: &str) {
    let end = |seen: &str| format!("the end of [\"state\"{seen}]. ");
    let all = end(r#", "1", "2", "3", "4", "5""#);
    for way in ["close", "drop", "terminate"] {
        let finished = scenario("worker-exit", context, &[way]);
        assert_eq!(finished.succeeded(), format!("{all}the end of the pool\n"), "{way}");
    }
    let parts = [end(r#", "1", "2""#), end(r#", "3", "4""#), end(r#", "5""#)].concat();
    let finished = scenario("worker-exit", context, &["share"]);
    assert_eq!(finished.succeeded(), format!("{parts}the end of the pool\n"));
}

fn panic_at_the_end_of_a_worker_spoils_nothing(context: &str) {
    let finished = scenario("worker-exit-panics", context, &[]);
    assert!(finished.status.success(), "{}", finished.stderr);
    assert_eq!(finished.stdout, "[0, 1, 2]\n");
    // The fourth worker has had no task when the pool closes, or was not started any more.
    let panics = finished.stderr.matches("at the very end").count();
    assert!((3..=4).contains(&panics), "{}", finished.stderr);
}

fn state_is_dropped_in_its_worker(context: &str) {
    let finished = scenario("state-dropped", context, &[]);
    assert_eq!(finished.succeeded(), "dropped false\ndropped true\n");
}

fn worker_exit_before_state_is_refused(context: &str) {
    let finished = scenario("worker-exit-misplaced", context, &[]);
    assert_told("worker_exit_misplaced", 1, finished.succeeded());
}
