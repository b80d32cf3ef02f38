//! Calls as they should be: windows, sizes, replaced workers.

mod support;
use support::scenario;

in_contexts! {
    worker_is_replaced_after_its_share: forkserver spawn fork;
}

fn worker_is_replaced_after_its_share(context: &str) {
    for chunksize in ["0", "1", "5", "100"] {
        let finished = scenario("max-tasks", context, &[chunksize]);
        assert_eq!(finished.succeeded(), "50 processes\nat most 2 tasks in one\n", "{chunksize}");
    }
}
