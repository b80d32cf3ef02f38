//! Tests that call `init` while the test harness runs other tests, and tests that never call it.
//!
//! One test runs this program again, in a process group of its own, and counts how often each of
//! the other tests runs there. A fork server is this program too, executed once more. It must run
//! no test.

#[path = "it/support/running.rs"]
mod running;

use std::io::Write;
use std::process::{Command, Stdio};

use proc_core::{Error, Pool, Process, StartMethod};
use running::Running;

/// The environment variable with the path of the file to which counted tests write their names.
const COUNTED: &str = "PROC_TESTS_COUNTED";

const NAMES: [&str; 4] =
    ["a_bystander", "calls_init_itself", "calls_no_init", "spawns_without_init"];

/// Notes that a test runs. Returns false if the test must not go on: because the tests are not
/// counted, or because the test has run before, so that this is a fork server that runs tests.
fn is_first(name: &str) -> bool {
    let Some(path) = std::env::var_os(COUNTED) else { return false };
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
    let line = format!("{name}\n");
    file.expect("it can be written").write_all(line.as_bytes()).expect("there is room");
    !before.lines().any(|line| line == name)
}

fn use_both(start_method: StartMethod) -> Result<(), Error> {
    for x in 0..10 {
        let child = Process::new(|x: u32| x + 1, x).start_method(start_method).start()?;
        assert_eq!(child.join()?, x + 1);
    }
    let pool = Pool::builder().processes(2).start_method(start_method).build()?;
    assert_eq!(pool.map(|x: u32| x + 1, [1, 2, 3])?, [2, 3, 4]);
    Ok(())
}

#[test]
fn a_bystander() {
    is_first("a_bystander");
}

#[test]
fn calls_init_itself() -> Result<(), Error> {
    if !is_first("calls_init_itself") {
        return Ok(());
    }
    proc_core::init();
    use_both(StartMethod::Forkserver)
}

#[test]
fn calls_no_init() -> Result<(), Error> {
    if !is_first("calls_no_init") {
        return Ok(());
    }
    use_both(StartMethod::Forkserver)
}

#[test]
fn spawns_without_init() -> Result<(), Error> {
    if !is_first("spawns_without_init") {
        return Ok(());
    }
    use_both(StartMethod::Spawn)
}

#[test]
fn each_test_runs_once() {
    if std::env::var_os(COUNTED).is_some() {
        return; // this is the program that is counted, or a copy of it
    }
    for threads in ["1", "4"] {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let counted = directory.path().join("counted");
        let mut command = Command::new(std::env::current_exe().expect("a test has a file"));
        command.env_clear().env("PATH", std::env::var_os("PATH").expect("there is a PATH"));
        command.env(COUNTED, &counted).env("RUST_TEST_THREADS", threads).stdout(Stdio::piped());
        let finished = Running::start(command).finish();
        let written = std::fs::read_to_string(&counted).unwrap_or_default();
        let mut names: Vec<&str> = written.lines().collect();
        names.sort_unstable();
        assert_eq!(names, NAMES, "{}{}", finished.stdout, finished.stderr);
        assert!(finished.status.success(), "{}{}", finished.stdout, finished.stderr);
    }
}
