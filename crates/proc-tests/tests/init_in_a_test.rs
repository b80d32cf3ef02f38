//! `init` in the middle of a test harness that runs other tests, and none at all.
//!
//! The tests here are run by cargo as usual, and once more by one of them, which counts how often each
//! has run: an executed copy of this program must run none of them.

mod support;
use std::io::Write;
use std::process::{Command, Stdio};

use proc_core::{Context, Error, Pool, Process};
use support::Running;

/// Where the tests write their names when they are counted.
const COUNTED: &str = "PROC_TESTS_COUNTED";

const NAMES: [&str; 4] =
    ["a_bystander", "calls_init_itself", "calls_no_init", "spawns_without_init"];

fn count(name: &str) {
    let Some(path) = std::env::var_os(COUNTED) else { return };
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
    let line = format!("{name}\n");
    file.expect("it can be written").write_all(line.as_bytes()).expect("there is room");
}

fn use_both(context: Context) -> Result<(), Error> {
    for x in 0..10 {
        let child = Process::new(|x: u32| x + 1, x).context(context).start()?;
        assert_eq!(child.join()?, x + 1);
    }
    let pool = Pool::builder().processes(2).context(context).build()?;
    assert_eq!(pool.map(|x: u32| x + 1, [1, 2, 3])?, [2, 3, 4]);
    Ok(())
}

#[test]
fn a_bystander() {
    count("a_bystander");
}

#[test]
fn calls_init_itself() -> Result<(), Error> {
    count("calls_init_itself");
    proc_core::init();
    use_both(Context::Forkserver)
}

#[test]
fn calls_no_init() -> Result<(), Error> {
    count("calls_no_init");
    use_both(Context::Forkserver)
}

#[test]
fn spawns_without_init() -> Result<(), Error> {
    count("spawns_without_init");
    use_both(Context::Spawn)
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
