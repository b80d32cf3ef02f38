//! Programs that have threads before `init`, or do not call it: all works, and nothing runs twice.

use std::process::{Command, Stdio};
use std::time::Duration;

use proc_core::StartMethod;

use crate::support::{Finished, Running, word};

tests! {
    threads_before_init_are_no_hindrance: forkserver spawn;
    threads_without_init_are_no_hindrance: forkserver spawn;
    init_may_be_left_out: forkserver spawn;
    tokio_before_init_is_no_hindrance: forkserver spawn;
    stdin_is_left_to_the_program: forkserver spawn;
    constructors_run_once_in_each_process: forkserver spawn fork;
    forking_needs_one_thread_and_no_init;
}

/// How often each program is run. Threads behave differently in each run.
const RUNS: usize = 5;

fn late(start_method: StartMethod, way: &str, shell: Option<&str>) -> Finished {
    let program = env!("CARGO_BIN_EXE_late");
    let mut command = match shell {
        Some(line) => {
            let mut command = Command::new("sh");
            command.args(["-c", line, program]);
            command
        }
        None => Command::new(program),
    };
    command.env_clear().env("PATH", std::env::var_os("PATH").expect("there is a PATH"));
    command
        .env("LATE_WAY", way)
        .env("LATE_START_METHOD", word(start_method))
        .stdout(Stdio::piped());
    Running::start(command).limited_to(Duration::from_secs(40)).finish()
}

fn used(start_method: StartMethod, ways: &[&str]) {
    for way in ways {
        for _ in 0..RUNS {
            assert_eq!(late(start_method, way, None).succeeded(), "used\n", "{way}");
        }
    }
}

fn threads_before_init_are_no_hindrance(start_method: StartMethod) {
    used(start_method, &["parked", "deaf"]);
}

fn threads_without_init_are_no_hindrance(start_method: StartMethod) {
    used(start_method, &["parked-no-init", "no-init-thread"]);
}

fn init_may_be_left_out(start_method: StartMethod) {
    used(start_method, &["no-init"]);
}

fn tokio_before_init_is_no_hindrance(start_method: StartMethod) {
    used(start_method, &["tokio", "tokio-no-init", "tokio-current"]);
}

/// A copy of the program changes neither the offset of a file nor the content of a pipe.
fn stdin_is_left_to_the_program(start_method: StartMethod) {
    let lines = "line 1\nline 2\nline 3\n";
    let mut file = tempfile::NamedTempFile::new().expect("a file can be made");
    std::io::Write::write_all(&mut file, lines.as_bytes()).expect("there is room");
    let path = file.path().to_str().expect("temporary files have simple names");
    let pipe = r#"printf 'line 1\nline 2\nline 3\n' | "$0""#;
    for way in ["stdin-first", "stdin-last"] {
        for line in [format!(r#"exec "$0" < {path}"#), pipe.to_owned()] {
            assert_eq!(late(start_method, way, Some(&line)).succeeded(), "used\n", "{way}: {line}");
        }
    }
}

fn constructors_run_once_in_each_process(start_method: StartMethod) {
    used(start_method, &["constructors"]);
}

/// `Fork` makes a copy of the caller, so it needs no init; it does need one thread.
fn forking_needs_one_thread_and_no_init() {
    used(StartMethod::Fork, &["fork-no-init", "fork-threads"]);
}
