//! Q5: what `q5-worker-pool` and its Python original print.

mod support;

use std::process::Command;

use support::{run, snapshot, under_load};

fn demo() -> Command {
    support::program(env!("CARGO_BIN_EXE_q5-worker-pool"))
}

/// The results are in the order of the numbers, so nothing is sorted: not even under load.
#[test]
fn default() {
    snapshot!("default", run(&mut demo()));
    under_load(|| {
        for _ in 0..20 {
            snapshot!("default", run(&mut demo()));
        }
    });
}

/// The file that the page shows does the same by itself.
#[test]
fn the_program_of_the_page() {
    snapshot!("default", run(&mut support::program(env!("CARGO_BIN_EXE_q5-program"))));
}

#[test]
fn python() {
    if let Some(mut python) = support::python("docs/python/q5_worker_pool.py") {
        snapshot!("default", run(&mut python));
    }
}

#[test]
fn recorded_runs() {
    snapshot!("default", support::recorded("q5_worker_pool"));
    snapshot!("default", support::recorded("q5_worker_pool__python"));

    let verbose = support::recorded("q5_worker_pool__verbose").stdout;
    let (workers, results): (Vec<_>, Vec<_>) =
        verbose.split_inclusive('\n').partition(|line| line.starts_with("worker with "));
    snapshot!("default", results.concat());
    // Nine numbers, and no worker takes more than three.
    assert!(workers.len() >= 3, "{verbose}");
    assert!(workers.iter().all(|line| pid(line.trim_end()).is_some()), "{verbose}");
}

/// The results are the same with each of these arguments.
#[test]
fn every_argument_of_the_constructor() {
    for arguments in [
        ["--processes", "1"],
        ["--processes", "16"],
        ["--start-method", "forkserver"],
        ["--start-method", "Fork"],
        ["--start-method", "Spawn"],
        ["--max-tasks-per-child", "1"],
        ["--max-tasks-per-child", "2"],
    ] {
        for _ in 0..3 {
            snapshot!("default", run(demo().args(arguments)));
        }
    }
}

#[test]
fn the_initializer_has_its_argument() {
    snapshot!("cubes", run(demo().args(["--exponent", "3", "1", "-2", "3"])));
}

/// The pid in a line `worker with pid … is ready`.
fn pid(line: &str) -> Option<u32> {
    line.strip_prefix("worker with pid ")?.strip_suffix(" is ready")?.parse().ok()
}

/// Each worker prints one line, so the test can count workers.
#[test]
fn workers_are_replaced_after_their_tasks() {
    let workers = |arguments: &[&str]| {
        let output = run(demo().arg("--verbose").args(arguments));
        for line in output.stderr.lines() {
            assert!(pid(line).is_some(), "torn: {line}");
        }
        output.stderr.lines().count()
    };
    assert_eq!(workers(&["--processes", "3"]), 3);
    // Nine numbers, and no worker takes more than one.
    assert!(workers(&["--processes", "3", "--max-tasks-per-child", "1"]) >= 9);
    assert!(workers(&["--processes", "1", "--max-tasks-per-child", "3"]) >= 3);
}

#[test]
fn verbose() {
    snapshot!("verbose", run(demo().args(["--verbose", "--processes", "1"])));
}

#[test]
fn nobody_reads() {
    support::assert_quiet_without_reader(demo);
}

#[test]
fn help() {
    snapshot!("help", run(demo().arg("--help")));
    snapshot!("version", run(demo().arg("--version")));
}

#[test]
fn wrong_arguments_take_one_line_and_exit_code_2() {
    for (name, arguments) in [
        ("no_processes", vec!["--processes", "0"]),
        ("too_many_processes", vec!["--processes", "1001"]),
        ("no_tasks", vec!["--max-tasks-per-child", "0"]),
        ("no_such_start_method", vec!["--start-method", "thread"]),
        ("not_a_number", vec!["3", "four"]),
        ("power_too_large", vec!["3", "3037000500"]),
        ("exponent_too_large", vec!["--exponent", "64", "2"]),
        ("exponent_negative", vec!["--exponent", "-1"]),
    ] {
        snapshot!(name, run(demo().args(arguments)));
    }
}
