//! Workers that end before they have done anything are not replaced for ever.

mod support;
use support::scenario;

in_contexts! {
    workers_that_cannot_begin_are_given_up: forkserver spawn;
    workers_that_are_killed_at_once_are_given_up: forkserver spawn;
}

fn workers_that_cannot_begin_are_given_up(context: &str) {
    let finished = scenario("too-limited", context, &[]);
    // What a worker without descriptors says of it may be on stderr.
    assert!(finished.status.success(), "{}", finished.stderr);
    assert_eq!(finished.stdout, "bounded\n");
}

fn workers_that_are_killed_at_once_are_given_up(context: &str) {
    assert_eq!(scenario("killed-at-once", context, &[]).succeeded(), "bounded\n");
}
