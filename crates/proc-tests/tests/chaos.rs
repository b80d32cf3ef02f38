//! The chaos program, for a short time; CONTRIBUTING.md says how to run it for a long one.

mod support;
use std::process::{Command, Stdio};

use support::Running;

#[test]
fn nothing_is_lost_in_chaos() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaos"));
    command.env_clear().args(["--seconds", "9", "--limit", "20"]).stdout(Stdio::piped());
    let finished = Running::start(command).finish();
    let told = finished.succeeded();
    for context in ["forkserver", "spawn", "fork"] {
        assert!(told.contains(&format!("chaos: {context} ")), "{told}");
    }
    for section in ["calls", "faults", "tasks", "rounds"] {
        assert!(told.contains(&format!("\n{section}\n")), "{told}");
    }
}
