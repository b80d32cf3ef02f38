//! Code that forks in a worker: the copy never acts as the worker.

mod support;
use std::time::Duration;

use support::start;

in_contexts! {
    copies_of_tasks_give_no_results: forkserver spawn fork;
    copies_made_by_values_give_no_results: forkserver spawn fork;
    copies_that_return_late_give_no_results: forkserver spawn fork;
    copies_made_before_tasks_give_no_results: forkserver spawn fork;
    copies_of_processes_give_no_results: forkserver spawn fork;
}

fn right(name: &str, context: &str, words: &[&str]) {
    let program = start(name, context, words).limited_to(Duration::from_secs(30));
    assert_eq!(program.finish().succeeded(), "right\n", "{name} {context} {words:?}");
}

fn copies_of_tasks_give_no_results(context: &str) {
    for task in ["returns", "panics", "exits", "forks-twice", "thread"] {
        right("forking-tasks", context, &[task]);
    }
}

fn copies_made_by_values_give_no_results(context: &str) {
    for place in ["written", "read", "dropped"] {
        right("forking-value", context, &[place]);
    }
}

fn copies_that_return_late_give_no_results(context: &str) {
    right("forking-late", context, &[]);
}

fn copies_made_before_tasks_give_no_results(context: &str) {
    for place in ["initializer", "state", "worker-exit", "preload"] {
        right("forking-set-up", context, &[place]);
    }
}

fn copies_of_processes_give_no_results(context: &str) {
    right("forking-processes", context, &[]);
}
