//! The chaos program, for a short time; CONTRIBUTING.md says how to run it for a long one.

use std::process::{Command, Stdio};

use crate::support::Running;

tests! {
    nothing_is_lost_in_chaos;
    deaths_by_faults_are_noticed;
}

/// Runs chaos with options, and returns its output.
fn chaos(options: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaos"));
    command.env_clear().args(options).args(["--limit", "20"]).stdout(Stdio::piped());
    Running::start(command).finish().succeeded().to_owned()
}

fn nothing_is_lost_in_chaos() {
    let told = chaos(&["--seconds", "9"]);
    for start_method in ["forkserver", "spawn", "fork"] {
        assert!(told.contains(&format!("chaos: {start_method} ")), "{told}");
    }
    for section in ["calls", "faults", "tasks", "rounds"] {
        assert!(told.contains(&format!("\n{section}\n")), "{told}");
    }
}

/// With all faults, a run of seconds may have no kill that hits a task. With kills alone, many hit
/// tasks, unless the machine is so busy that there are few kills. Then another run follows.
fn deaths_by_faults_are_noticed() {
    let mut told = String::new();
    for _ in 0..5 {
        told = chaos(&["--only", "kills", "--seconds", "9"]);
        if told.contains("death, by a fault from outside") {
            return;
        }
    }
    panic!("no kill has hit a task: {told}");
}
