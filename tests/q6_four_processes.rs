//! Q6: what `q6-four-processes` and its Python original print.

mod support;

use std::process::Command;

use support::{Output, run, snapshot, under_load};

fn demo() -> Command {
    support::program(env!("CARGO_BIN_EXE_q6-four-processes"))
}

/// Runs of the program in one test, since the order of its lines may differ in each.
const REPETITIONS: usize = 50;

/// Compares the sorted output with the snapshot. Each process prints one line, so sorting hides
/// only the order of the processes, which is free.
fn check(output: &Output) {
    snapshot!("default", output.grouped());
}

#[test]
fn default() {
    for _ in 0..REPETITIONS {
        check(&run(&mut demo()));
    }
}

/// The file that the page shows does the same by itself.
#[test]
fn the_program_of_the_page() {
    check(&run(&mut support::program(env!("CARGO_BIN_EXE_q6-program"))));
}

#[test]
fn recorded_runs() {
    let runs = ["q6_four_processes", "q6_four_processes__again"].map(support::recorded);
    runs.iter().for_each(check);
    assert_ne!(runs[0], runs[1], "the page shows two orders");
}

#[test]
fn default_under_load() {
    under_load(|| {
        for _ in 0..REPETITIONS {
            check(&run(&mut demo()));
        }
    });
}

#[test]
fn python() {
    // With the second value, each write of the program is a system call of its own.
    for unbuffered in ["", "1"] {
        for _ in 0..5 {
            let Some(mut python) = support::python("docs/python/q6_four_processes.py") else {
                return;
            };
            check(&run(python.env("PYTHONUNBUFFERED", unbuffered)));
        }
    }
}

#[test]
fn another_number_of_processes() {
    let of = |processes| run(demo().args(["--processes", processes])).grouped();
    snapshot!("one", of("1"));
    snapshot!("eight", of("8"));
    let mut lines: Vec<String> = of("100").stdout.lines().map(str::to_owned).collect();
    let mut expected: Vec<String> =
        (0..100).map(|n| format!("Process {n} is printing: {n}")).collect();
    lines.sort();
    expected.sort();
    assert_eq!(lines, expected);
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
        ("none", vec!["--processes", "0"]),
        ("too_many", vec!["--processes", "1001"]),
        ("negative", vec!["--processes", "-1"]),
        ("not_a_number", vec!["--processes", "four"]),
        ("no_value", vec!["--processes"]),
        ("twice", vec!["--processes", "4", "--processes", "5"]),
        ("no_option", vec!["4"]),
    ] {
        snapshot!(name, run(demo().args(arguments)));
    }
}
