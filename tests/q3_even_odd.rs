//! Q3: what `q3-even-odd` and its Python original print.

mod support;

use std::process::Command;

use support::{Output, run, snapshot, under_load};

fn demo() -> Command {
    support::program(env!("CARGO_BIN_EXE_q3-even-odd"))
}

/// Runs of the program in one test, since the order of its lines may differ in each.
const REPETITIONS: usize = 50;

/// Compares the grouped output with the snapshot, and then checks the order that grouping hides.
fn check(output: &Output) {
    snapshot!("default", output.grouped());
    assert!(output.stdout.ends_with("\nEND!\n"), "the parent is last:\n{output}");
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
    check(&run(&mut support::program(env!("CARGO_BIN_EXE_q3-program"))));
}

#[test]
fn recorded_runs() {
    let runs = ["q3_even_odd", "q3_even_odd__again"].map(support::recorded);
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
            let Some(mut python) = support::python("docs/python/q3_even_odd.py") else { return };
            check(&run(python.env("PYTHONUNBUFFERED", unbuffered)));
        }
    }
}

#[test]
fn another_end() {
    snapshot!("to_4", run(demo().arg("4")).grouped());
    snapshot!("to_1", run(demo().arg("1")).grouped());
    snapshot!("to_0", run(demo().arg("0")));
}

/// There are enough lines for both processes to write at the same time.
#[test]
fn no_line_is_torn() {
    let output = run(demo().arg("20000"));
    let line = |i| format!("{}: {i}\n", if i % 2 == 0 { "even" } else { "odd" });
    let evens = (0..20_000).step_by(2).map(line);
    let odds = (1..20_000).step_by(2).map(line);
    let expected: String = evens.chain(odds).chain(["END!\n".into()]).collect();
    assert!(output.grouped().stdout == expected);
    assert!(output.stdout.ends_with("\nEND!\n"));
}

#[test]
fn nobody_reads() {
    support::assert_quiet_without_reader(demo);
    // More than a pipe holds, so all processes find that nobody reads.
    let output = support::run_reading(demo().arg("100000"), 1);
    assert_eq!((output.stderr.as_str(), output.status.code()), ("", Some(141)));
}

#[test]
fn help() {
    snapshot!("help", run(demo().arg("--help")));
    snapshot!("version", run(demo().arg("--version")));
}

#[test]
fn wrong_arguments_take_one_line_and_exit_code_2() {
    for (name, arguments) in [
        ("not_a_number", vec!["fifteen"]),
        ("negative", vec!["-5"]),
        ("too_large", vec!["4294967296"]),
        ("too_many", vec!["15", "16"]),
        ("unknown_option", vec!["--fast"]),
    ] {
        snapshot!(name, run(demo().args(arguments)));
    }
}
