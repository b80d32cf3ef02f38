//! `init`: missing, late, repeated, in tests.

mod support;
use std::process::Command;

use support::{Running, scenario};

in_contexts! {
    missing_init_is_made_up_for: forkserver spawn fork;
    late_init_falls_back_to_execution: forkserver spawn;
    init_twice_is_harmless: forkserver spawn;
    init_in_a_child_is_harmless: forkserver spawn fork;
}

fn missing_init_is_made_up_for(context: &str) {
    assert_eq!(scenario("init-missing", context, &[]).succeeded(), "used\n");
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
fn program_need_not_reach_init_when_it_is_executed() {
    for way in ["forkserver", "spawn"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_careless"));
        command.env_clear().arg(way).stdout(std::process::Stdio::piped());
        assert_eq!(Running::start(command).finish().succeeded(), "Ok(42)\n", "{way}");
    }
}
