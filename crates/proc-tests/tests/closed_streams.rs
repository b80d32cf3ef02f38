//! Standard streams that are closed: what the library opens does not take their places.

mod support;
use std::process::{Command, Stdio};
use std::time::Duration;

use proc_core::{Error, Pool, Process, StartMethod};
use support::Running;

proc_core::init_tests!();

in_contexts! {
    closed_streams_are_no_hindrance: forkserver spawn fork;
    closed_streams_without_init_are_no_hindrance: forkserver spawn fork;
    streams_that_main_closes_are_no_hindrance: forkserver spawn fork;
}

/// Each choice of streams, as the shell closes them, and their numbers.
fn choices() -> impl Iterator<Item = (String, String)> {
    let redirections = ["0<&-", "1>&-", "2>&-"];
    (0..8_usize).map(move |choice| {
        let chosen = (0..3).filter(move |stream| choice & (1 << stream) != 0);
        let closing: Vec<&str> = chosen.clone().map(|stream| redirections[stream]).collect();
        let numbers: String = chosen.map(|stream| stream.to_string()).collect();
        (closing.join(" "), numbers)
    })
}

/// Runs a program whose streams a shell has closed; its exit code is all that it can tell.
#[track_caller]
fn expect_success(program: &str, arguments: &[&str], closing: &str) {
    let mut command = Command::new("sh");
    command.args(["-c", &format!(r#"exec "$0" "$@" {closing}"#), program]).args(arguments);
    command.env_clear().env("PATH", std::env::var_os("PATH").expect("there is a PATH"));
    command.env("RUST_TEST_THREADS", "2").stdout(Stdio::piped());
    let finished = Running::start(command).limited_to(Duration::from_secs(40)).finish();
    let ended = finished.status;
    assert!(ended.success(), "{arguments:?} {closing}: {ended}\n{}", finished.stderr);
}

fn closed(name: &str, context: &str) {
    for (closing, _) in choices() {
        expect_success(env!("CARGO_BIN_EXE_scenario"), &[name, context], &closing);
    }
}

fn closed_streams_are_no_hindrance(context: &str) {
    closed("closed", context);
}

fn closed_streams_without_init_are_no_hindrance(context: &str) {
    closed("closed-no-init", context);
}

fn streams_that_main_closes_are_no_hindrance(context: &str) {
    for name in ["closed-by-main", "closed-by-main-no-init"] {
        for (_, numbers) in choices().skip(1) {
            expect_success(env!("CARGO_BIN_EXE_scenario"), &[name, context, &numbers], "");
        }
    }
}

/// What the program that runs with closed streams does; as a test, with those there are.
#[test]
fn inner_pool_works() -> Result<(), Error> {
    for context in [StartMethod::Forkserver, StartMethod::Spawn] {
        let work = |values: Vec<u64>| {
            println!("{} values", values.len());
            eprintln!("{} values", values.len());
            values.into_iter().map(|value| value + 1).collect::<Vec<u64>>()
        };
        let pool = Pool::builder().processes(2).start_method(context).build()?;
        for _ in 0..5 {
            let results = pool.map(work, [vec![7; 30_000], vec![], vec![7; 10]])?;
            assert!(results == [vec![8; 30_000], vec![], vec![8; 10]]);
        }
        let child = Process::new(work, vec![1, 2]).start_method(context).start()?;
        assert_eq!(child.join()?, [2, 3]);
    }
    Ok(())
}

#[test]
fn inner_panic_is_told() -> Result<(), Error> {
    let pool = Pool::builder().processes(1).build()?;
    let error = pool.apply(|x: u32| assert_eq!(x, 2, "not two"), 1).expect_err("it panics");
    assert!(error.panic_message().is_some_and(|message| message.contains("not two")));
    Ok(())
}

/// `init_tests!` runs before Rust's own start has filled the places of closed streams.
#[test]
fn closed_streams_are_no_hindrance_to_init_tests() {
    let own = std::env::current_exe().expect("a test has a file");
    let own = own.to_str().expect("cargo's names are text");
    for _ in 0..3 {
        for (closing, _) in choices() {
            expect_success(own, &["inner_", "--nocapture"], &closing);
        }
    }
}
