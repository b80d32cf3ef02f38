//! A program's own panic hook takes nothing from errors, and is still called for other panics.

mod support;
use support::{Finished, Running, command};

in_contexts! {
    hook_of_an_initializer_takes_nothing_from_errors: forkserver spawn fork;
    hook_of_a_state_takes_nothing_from_errors: forkserver spawn fork;
    hook_of_a_preload_takes_nothing_from_errors: forkserver spawn fork;
    hook_of_main_takes_nothing_from_errors: forkserver spawn fork;
    hook_of_a_task_takes_nothing_from_errors: forkserver spawn fork;
    hook_of_a_process_takes_nothing_from_its_error: forkserver spawn fork;
    hooks_that_change_take_nothing_from_errors: forkserver spawn fork;
}

fn run(name: &str, context: &str, place: &str) -> Finished {
    let mut command = command();
    command.args([name, context, place]).env("RUST_BACKTRACE", "1");
    let finished = Running::start(command).finish();
    let told = format!("{}\n{}\n{}", finished.status, finished.stdout, finished.stderr);
    assert!(finished.status.success(), "{told}");
    finished
}

/// The hook was called for the panic of the thread.
#[track_caller]
fn heard(context: &str, place: &str) {
    let finished = run("hooks", context, place);
    let hook = finished.stdout.lines().filter(|line| *line == "hook: a thread panics").count();
    assert_eq!(hook, 1, "{}\n{}", finished.stdout, finished.stderr);
}

fn hook_of_an_initializer_takes_nothing_from_errors(context: &str) {
    heard(context, "initializer");
}

fn hook_of_a_state_takes_nothing_from_errors(context: &str) {
    heard(context, "state");
}

fn hook_of_a_preload_takes_nothing_from_errors(context: &str) {
    heard(context, "preload");
}

fn hook_of_main_takes_nothing_from_errors(context: &str) {
    match context {
        // What main does before init is not done where it is executed again.
        "spawn" => drop(run("hooks", context, "before-init")),
        _ => heard(context, "before-init"),
    }
}

fn hook_of_a_task_takes_nothing_from_errors(context: &str) {
    heard(context, "task");
}

fn hook_of_a_process_takes_nothing_from_its_error(context: &str) {
    heard(context, "process");
}

fn hooks_that_change_take_nothing_from_errors(context: &str) {
    assert!(run("hook-twice", context, "").stdout.ends_with("told\n"));
}
