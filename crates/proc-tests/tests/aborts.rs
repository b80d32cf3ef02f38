//! What is told of workers that panic where that ends them, that abort, and that crash.

mod support;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use support::{Running, scenario};

in_contexts! {
    panics_that_cannot_unwind_are_told: forkserver spawn fork;
    abort_does_not_carry_an_earlier_panic: forkserver spawn fork;
    crash_is_not_called_a_limit: forkserver spawn fork;
    failed_allocation_is_called_a_limit: forkserver spawn fork;
    panics_of_a_program_that_aborts_are_told: forkserver spawn fork;
}

/// Whatever a program prints as it aborts, it says at the end that all was as it should be.
#[track_caller]
fn told(name: &str, context: &str, rest: &[&str]) {
    let finished = scenario(name, context, rest);
    assert_eq!(finished.stdout, "told\n", "{rest:?} {}\n{}", finished.status, finished.stderr);
    assert!(finished.status.success());
}

fn panics_that_cannot_unwind_are_told(context: &str) {
    for way in 1..=7 {
        told("panic-cannot-unwind", context, &[&way.to_string()]);
    }
}

fn abort_does_not_carry_an_earlier_panic(context: &str) {
    told("abort-after-panic", context, &[]);
}

fn crash_is_not_called_a_limit(context: &str) {
    for way in ["null", "abort", "c-abort", "bus", "stack", "illegal", "segv", "kill", "panic"] {
        told("crash-under-limit", context, &[way]);
    }
}

fn failed_allocation_is_called_a_limit(context: &str) {
    told("allocation-under-limit", context, &[]);
}

/// Builds `src/bin/aborting.rs` so that its panics abort; only that one crate is compiled anew.
fn aborting() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = Path::new(env!("CARGO_BIN_EXE_aborting"));
        let profile = program.parent().expect("it lies in the directory of its profile");
        let target = profile.parent().expect("that lies in the target directory");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["rustc", "--quiet", "--offline", "--locked", "--package", "proc-tests"]);
        cargo.args(["--bin", "aborting"]).arg("--target-dir").arg(target);
        if profile.file_name().is_some_and(|name| name == "release") {
            cargo.arg("--release");
        }
        cargo.args(["--", "-C", "panic=abort"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = cargo.output().expect("cargo runs the tests, so it is there");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        program.to_owned()
    })
}

fn panics_of_a_program_that_aborts_are_told(context: &str) {
    let mut command = Command::new(aborting());
    command.env_clear().arg(context).stdout(Stdio::piped());
    let finished = Running::start(command).finish();
    assert!(finished.status.success(), "{}\n{}", finished.status, finished.stderr);
    let panicked = "true Some(6) Some(\"boom 3\") Some(\"aborting.rs\") true";
    let aborted = "true Some(6) None None true";
    assert_eq!(
        finished.stdout,
        format!(
            "process: {panicked}\nprocess: {aborted}\n\
             task: 0\ntask: 1\ntask: 2\ntask: {panicked}\ntask: {aborted}\ntask: 5\n[0, 1, 2]\n"
        )
    );
}
