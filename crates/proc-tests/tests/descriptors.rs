//! What workers inherit, and what crosses beside bytes.

mod support;
use support::scenario;

in_contexts! {
    workers_inherit_nothing_of_their_siblings: forkserver spawn fork;
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
