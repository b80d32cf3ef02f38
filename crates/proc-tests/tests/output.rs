//! What tasks and processes print arrives, whole.

mod support;
use std::process::Stdio;

use support::{Running, command, scenario};

in_contexts! {
    text_without_a_newline_arrives_from_tasks: forkserver spawn fork;
    text_without_a_newline_arrives_from_brisk_tasks: forkserver spawn fork;
    text_without_a_newline_arrives_from_processes: forkserver spawn fork;
    closed_stdout_costs_the_one_who_prints: forkserver spawn;
    lines_are_never_torn: forkserver spawn fork;
}

fn text_without_a_newline_arrives_from_tasks(context: &str) {
    for (end, told) in ENDS {
        let finished = scenario("unfinished-line-pool", context, &[end]);
        assert!(finished.status.success(), "{}", finished.stderr);
        assert_eq!(finished.stdout, format!("printed before {end};"));
        assert!(finished.stderr.starts_with(told), "{}", finished.stderr);
        assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
    }
}

fn text_without_a_newline_arrives_from_brisk_tasks(context: &str) {
    let finished = scenario("unfinished-line-brisk", context, &["10000"]);
    let words = finished.succeeded().split_terminator(' ');
    // A call may share its tasks out anew while it runs: their order is free.
    let mut told: Vec<u32> = words.map(|word| word.parse().expect("a number")).collect();
    told.sort_unstable();
    assert!(told.iter().copied().eq(0..10_000), "{} of them", told.len());
}

const ENDS: [(&str, &str); 3] =
    [("return", "returned\n"), ("panic", "panic task=0 "), ("exit", "death code=7 task=0 ")];

fn text_without_a_newline_arrives_from_processes(context: &str) {
    let ends = [("return", "returned"), ("panic", "panic "), ("exit", "death code=7 ")];
    for (end, told) in ends {
        let finished = scenario("unfinished-line-process", context, &[end]);
        assert!(finished.status.success(), "{}", finished.stderr);
        assert_eq!(finished.stdout, format!("printed before {end};"));
        let last = finished.stderr.lines().last().expect("the parent tells the end");
        assert!(last.starts_with(told), "{}", finished.stderr);
        // A process's own panic is also printed, as in a program without a parent.
        let printed = finished.stderr.contains("panicked at crates/proc-tests/src/output.rs:");
        assert_eq!(printed && finished.stderr.lines().count() > 1, end == "panic");
    }
}

fn closed_stdout_costs_the_one_who_prints(context: &str) {
    let (reader, writer) = std::io::pipe().expect("a pipe can be made");
    drop(reader);
    let mut command = command();
    command.args(["closed-stdout", context]).stdout(Stdio::from(writer));
    let finished = Running::start(command).finish();
    assert_eq!(
        finished.stderr,
        "failed printing to stdout: Broken pipe (os error 32)\nBroken pipe (os error 32)\n"
    );
    assert!(finished.status.success());
}

fn lines_are_never_torn(context: &str) {
    const LINES: usize = 4000;
    let finished = scenario("many-lines", context, &[&LINES.to_string()]);
    let expected = |task: usize| {
        let (again, end) = ("again ".repeat(task % 50), "and again".repeat(task % 7));
        format!("task {task} says {again}{end}")
    };
    let number = |line: &str| -> usize {
        let word = line.split(' ').nth(1).expect("a line begins with its task");
        word.parse().unwrap_or_else(|_| panic!("a torn line: {line:?}"))
    };
    let mut lines: Vec<&str> = finished.succeeded().lines().collect();
    lines.sort_by_key(|line| number(line));
    let whole: Vec<String> = (0..LINES).map(expected).collect();
    assert_eq!(lines, whole);
}
