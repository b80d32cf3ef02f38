//! How long processes live: longer than threads, never longer than their program.

mod support;
use nix::sys::signal::Signal;
use support::{Running, start};

in_contexts! {
    nothing_outlives_a_killed_program_when_idle: forkserver spawn fork;
    nothing_outlives_a_killed_program_when_busy: forkserver spawn fork;
    nothing_outlives_a_killed_program_when_nested: forkserver spawn fork;
    interrupt_ends_everything_without_a_word: forkserver spawn fork;
}

fn idle(context: &str) -> Running {
    let mut program = start("stay", context, &["idle"]);
    program.lines(1, "idle");
    assert_population(&program, context, &[]);
    program
}

fn busy(context: &str) -> Running {
    let mut program = start("stay", context, &["busy"]);
    program.lines(2, "busy");
    assert_population(&program, context, &[]);
    program
}

fn nested(context: &str) -> Running {
    let mut program = start("stay", context, &["nested"]);
    program.lines(4, "asleep");
    let mut more = vec!["Process-1", "Process-1", "Process-2", "Process-2"];
    if context == "spawn" {
        more.extend(["template", "template"]);
    }
    assert_population(&program, context, &more);
    program
}

/// Who is there to be outlived: the test would be worth nothing without them.
#[track_caller]
fn assert_population(program: &Running, context: &str, more: &[&str]) {
    let mut expected = vec!["scenario", "template", "worker-0", "worker-1"];
    expected.extend(more);
    if context != "forkserver" {
        expected.push("template");
    }
    expected.sort_unstable();
    assert_eq!(program.names(), expected);
}

fn nothing_outlives_a_killed_program_when_idle(context: &str) {
    killed(idle(context));
}

fn nothing_outlives_a_killed_program_when_busy(context: &str) {
    killed(busy(context));
}

fn nothing_outlives_a_killed_program_when_nested(context: &str) {
    killed(nested(context));
}

/// The fixture looks for what is left.
fn killed(program: Running) {
    program.signal(Signal::SIGKILL);
    program.finish().was_killed_by(Signal::SIGKILL);
}

fn interrupt_ends_everything_without_a_word(context: &str) {
    for program in [idle(context), busy(context), nested(context)] {
        program.signal_group(Signal::SIGINT);
        program.finish().was_killed_by(Signal::SIGINT);
    }
}
