//! Workers that end before they have done anything are not replaced for ever.

mod support;
use support::scenario;

in_contexts! {
    workers_that_cannot_begin_are_given_up: forkserver spawn;
}

fn workers_that_cannot_begin_are_given_up(context: &str) {
    assert_eq!(scenario("cannot-begin", context, &[]).succeeded(), "told\n");
}
