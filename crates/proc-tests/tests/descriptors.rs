//! What workers inherit, and what crosses beside bytes.

mod support;
use support::{assert_told, scenario};

in_contexts! {
    workers_inherit_nothing_of_their_siblings: forkserver spawn fork;
    channels_and_memory_cross: forkserver spawn fork;
    too_many_channels_are_refused: forkserver spawn fork;
    failing_values_leak_no_channel: forkserver spawn fork;
}

fn workers_inherit_nothing_of_their_siblings(context: &str) {
    let alone = scenario("worker-descriptors", context, &["1"]);
    let alone = alone.succeeded().trim_end();
    assert!(!alone.contains('\n'), "{alone}");
    for workers in [2, 8, 64] {
        let finished = scenario("worker-descriptors", context, &[&workers.to_string()]);
        let lines: Vec<&str> = finished.succeeded().lines().collect();
        assert_eq!(lines, vec![alone; workers]);
    }
}

fn channels_and_memory_cross(context: &str) {
    assert_eq!(scenario("channels", context, &[]).succeeded(), "crossed\n");
}

fn too_many_channels_are_refused(context: &str) {
    let finished = scenario("too-many-channels", context, &[]);
    assert_told("too_many_channels", 1, finished.succeeded());
}

fn failing_values_leak_no_channel(context: &str) {
    let finished = scenario("channels-that-fail", context, &[]);
    assert!(finished.status.success(), "{}", finished.stderr);
    assert!(!finished.stderr.contains("ipc-channel"), "{}", finished.stderr);
    assert_told("channels_that_fail", 1, &finished.stdout);
}
