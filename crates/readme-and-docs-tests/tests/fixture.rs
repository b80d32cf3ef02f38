//! Tests of the fixture that runs demos: it returns output and status, and finds processes and
//! files that a program leaves behind.

#[path = "../../../tests/support/mod.rs"]
mod support;

use std::process::Command;

use support::{run, run_reading};

fn shell(script: &str) -> Command {
    let mut command = support::program("/bin/sh");
    command.args(["-c", script]);
    command
}

#[test]
fn output_and_status_arrive() {
    let output = run(&mut shell("echo out; echo $HOME err >&2; exit 7"));
    assert_eq!(output.to_string(), "out\n----- stderr -----\nerr\n----- exit status: 7 -----");
    assert_eq!(run(&mut shell("kill -9 $$")).status.code(), None);
}

#[test]
fn only_some_lines_are_read() {
    let output = run_reading(&mut shell("yes & wait $!"), 2);
    assert_eq!((output.stdout.as_str(), output.status.code()), ("y\ny\n", Some(128 + 13)));
    let output = run_reading(&mut shell("echo unread; echo $?"), 0);
    assert_eq!((output.stdout.as_str(), output.status.code()), ("", None));
}

#[test]
fn a_process_that_ends_in_time_is_waited_for() {
    assert_eq!(run(&mut shell("(sleep 0.2; echo late) & echo early")).stdout, "early\nlate\n");
    run(&mut shell("sleep 0.2 > /dev/null 2>&1 &"));
}

#[test]
#[should_panic = "(sleep) S"]
fn a_process_that_stays_is_found_and_named() {
    run(&mut shell("sleep 100 > /dev/null 2>&1 &"));
}

#[test]
#[should_panic = "(sleep) S"]
fn a_process_that_keeps_stdout_open_is_found_and_named() {
    run(&mut shell("sleep 100 &"));
}

#[test]
#[should_panic = "left files behind"]
fn a_file_that_stays_is_found() {
    run(&mut shell("echo > $TMPDIR/file"));
}
