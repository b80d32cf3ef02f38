//! Copies of the program that the user's `fork` makes cannot use, and cannot damage, what it has.

mod support;
use std::time::Duration;

use support::start;

in_contexts! {
    calls_of_a_copy_are_refused: forkserver spawn fork;
    tasks_of_a_copy_are_refused: forkserver spawn fork;
    what_a_copy_drops_is_kept: forkserver spawn fork;
    children_of_a_copy_are_left_alone: forkserver spawn fork;
    copies_of_a_busy_program_do_not_hang: forkserver spawn fork;
    ends_of_copies_are_harmless: forkserver spawn fork;
    copies_make_pools_of_their_own: forkserver spawn fork;
    daemons_make_pools: forkserver spawn fork;
}

fn unharmed(name: &str, context: &str) {
    let program = start(name, context, &[]).limited_to(Duration::from_secs(40));
    assert_eq!(program.finish().succeeded(), "unharmed\n");
}

fn calls_of_a_copy_are_refused(context: &str) {
    unharmed("copy-calls", context);
}

fn tasks_of_a_copy_are_refused(context: &str) {
    unharmed("copy-tasks", context);
}

fn what_a_copy_drops_is_kept(context: &str) {
    unharmed("copy-drops", context);
}

fn children_of_a_copy_are_left_alone(context: &str) {
    unharmed("copy-children", context);
}

fn copies_of_a_busy_program_do_not_hang(context: &str) {
    unharmed("copy-busy", context);
}

fn ends_of_copies_are_harmless(context: &str) {
    unharmed("copy-ends", context);
}

fn copies_make_pools_of_their_own(context: &str) {
    unharmed("copy-anew", context);
}

/// `daemon()` ends the program that the test started; the daemon is in a group of its own.
fn daemons_make_pools(context: &str) {
    let mut program = start("daemon", context, &[]);
    program.lines(1, "used");
    assert_eq!(program.finish().stderr, "");
}
