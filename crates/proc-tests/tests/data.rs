//! Large values, and a bound on the memory that they take.

mod support;
use support::{assert_told, scenario};

in_contexts! {
    large_values_come_whole: forkserver spawn fork;
    large_values_lie_among_small_ones: forkserver spawn fork;
    large_values_that_fail_leave_nothing: forkserver spawn fork;
    results_are_expected_as_in_the_call_before: forkserver spawn fork;
    calls_keep_within_bounds: forkserver spawn fork;
    slow_consumers_hold_up_nobody: forkserver spawn fork;
    concurrent_calls_share_the_bound: forkserver spawn fork;
    retries_keep_within_bounds: forkserver spawn fork;
}

fn large_values_come_whole(context: &str) {
    assert_eq!(scenario("large", context, &[]).succeeded(), "large values come whole\n");
}

fn large_values_lie_among_small_ones(context: &str) {
    assert_eq!(scenario("large-among-small", context, &[]).succeeded(), "each in its place\n");
}

fn large_values_that_fail_leave_nothing(context: &str) {
    assert_told("large_and_failing", 2, scenario("large-and-failing", context, &[]).succeeded());
}

fn results_are_expected_as_in_the_call_before(context: &str) {
    assert_told("large_again", 1, scenario("large-again", context, &[]).succeeded());
}

fn calls_keep_within_bounds(context: &str) {
    assert_eq!(scenario("bound", context, &[]).succeeded(), "within bounds\n");
}

fn slow_consumers_hold_up_nobody(context: &str) {
    assert_eq!(scenario("bound-and-slow", context, &[]).succeeded(), "nobody waits for ever\n");
}

fn concurrent_calls_share_the_bound(context: &str) {
    assert_eq!(scenario("bound-and-two", context, &[]).succeeded(), "over true\n");
}

fn retries_keep_within_bounds(context: &str) {
    assert_eq!(scenario("bound-and-retries", context, &[]).succeeded(), "well 29\n");
}
