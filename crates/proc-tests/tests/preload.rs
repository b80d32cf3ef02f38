//! What all workers of a pool have from the start.

mod support;
use support::{assert_told, scenario};

in_contexts! {
    preloaded_data_are_in_every_worker: forkserver spawn fork;
    failing_preload_is_told: forkserver spawn fork;
    next_fork_server_runs_it_again: forkserver spawn fork;
}

fn preloaded_data_are_in_every_worker(context: &str) {
    let expected = "values {998001}\nfork servers 1\nparents true\nhere false\ngone\n";
    assert_eq!(scenario("preload", context, &[]).succeeded(), expected);
}

fn failing_preload_is_told(context: &str) {
    assert_told("preload_fails", 1, scenario("preload-fails", context, &[]).succeeded());
}

fn next_fork_server_runs_it_again(context: &str) {
    assert_eq!(scenario("preload-again", context, &[]).succeeded(), "first 0\nsecond Some(1)\n");
}
