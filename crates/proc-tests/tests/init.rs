//! `init`: missing, late, repeated, in tests.

mod support;
use std::process::Command;

use support::{Running, scenario};

in_contexts! {
    missing_init_is_one_clear_error: forkserver spawn fork;
    late_init_falls_back_to_execution: forkserver spawn;
    init_twice_is_harmless: forkserver spawn;
    init_in_a_child_is_harmless: forkserver spawn fork;
}

fn missing_init_is_one_clear_error(context: &str) {
    let text = "proc_core::init() was not called; make it the first line of main (in tests, put \
                proc_core::init_tests!() at the top level of the file)";
    let expected = format!(
        "process: init-missing | {text} (process \"Process-1\")\n\
         pool: init-missing | {text}\n"
    );
    assert_eq!(scenario("init-missing", context, &[]).succeeded(), expected);
}

fn late_init_falls_back_to_execution(context: &str) {
    assert_eq!(scenario("init-late", context, &[]).succeeded(), "used\n");
}

fn init_twice_is_harmless(context: &str) {
    assert_eq!(scenario("init-twice", context, &[]).succeeded(), "used\nused\n");
}

fn init_in_a_child_is_harmless(context: &str) {
    let expected = "used\nprocess 5\nused\npool 6\n";
    assert_eq!(scenario("init-in-child", context, &[]).succeeded(), expected);
}

/// A program that reaches `init` only with arguments, which an executed one has not.
#[test]
fn program_that_does_not_reach_init_when_executed_is_told_so() {
    let run = |way: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_careless"));
        command.env_clear().arg(way).stdout(std::process::Stdio::piped());
        Running::start(command).finish().succeeded().to_owned()
    };
    assert_eq!(run("forkserver"), "Ok(42)\n");
    assert_eq!(
        run("spawn"),
        "true | cannot start a template: the program was executed again, but it ended (exit status: \
         3) before it reached proc_core::init() (process \"Process-1\")\n"
    );
}
