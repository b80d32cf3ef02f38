//! Q1: what `q1-why-processes` and its Python counterpart print.
//!
//! Figures differ from run to run, so the snapshot has names in their place. The tests read some of
//! the figures from the output itself and check them. No test checks how fast anything is.

mod support;

use std::process::Command;

use support::{Output, run, snapshot};

fn demo(arguments: &[&str]) -> Command {
    let mut command = support::program(env!("CARGO_BIN_EXE_q1-why-processes"));
    command.args(arguments);
    command
}

const QUICK: [&str; 4] = ["--seconds", "0.2", "--workers", "2"];

/// The labels of the table's rows if the largest pool has two workers.
const LABELS: [&str; 3] = ["no pool", "pool of 1", "pool of 2"];

/// Cells of the width they have in the table, so that the columns stay columns.
const CELLS: &[(&str, &str)] = &[
    (r"[ \d]{8}\d\.\d ms", "    [DURATION]"),
    (r"[ \d]{7}\d\.\d x", "     [RATIO]"),
    (r"[ \d]{9}\d %[ \d]{11}\d", "   [PERCENT]    [PRIMES]"),
    (r"the primes below \d+", "the primes below [LIMIT]"),
    (r"Cores here: \d+", "Cores here: [CORES]"),
    (r"\(worker \d+,", "(worker [WORKER],"),
];

fn check(name: &str, output: &Output) {
    let mut settings = insta::Settings::clone_current();
    for (pattern, replacement) in CELLS {
        settings.add_filter(pattern, *replacement);
    }
    settings.bind(|| snapshot!(name, output));
}

/// The rows of the table of speeds: who did it, and how many primes they found.
fn rows(output: &Output) -> Vec<(&str, usize)> {
    let rows = output.stdout.lines().filter(|line| line.contains(" % "));
    let row = |line: &'_ str| -> usize {
        line.split_whitespace().next_back().expect("cells").parse().expect("a number")
    };
    rows.map(|line| (line[..20].trim_end(), row(line))).collect()
}

/// Counts primes by the sieve of Eratosthenes, which the program does not use.
fn primes_below(limit: usize) -> usize {
    let mut composite = vec![false; limit];
    let mut primes = 0;
    for n in 2..limit {
        if !composite[n] {
            primes += 1;
            (n * n..limit).step_by(n).for_each(|multiple| composite[multiple] = true);
        }
    }
    primes
}

/// Asserts that each run of the table found all primes below the limit that the title names.
fn assert_all_primes_found(output: &Output, who: &[&str]) {
    let title = output.stdout.lines().find_map(|line| line.split_once("the primes below "));
    let limit: usize = title.expect("a title").1.parse().expect("a number");
    let primes = primes_below(limit);
    assert!(primes > 0);
    let expected: Vec<_> = who.iter().map(|who| (*who, primes)).collect();
    assert_eq!(rows(output), expected, "{output}");
}

#[test]
fn default() {
    let output = run(&mut demo(&QUICK));
    check("default", &output);
    assert_all_primes_found(&output, &LABELS);
}

/// On a busy machine, too, one process is killed and all others go on.
#[test]
fn under_load() {
    support::under_load(|| {
        for _ in 0..5 {
            check("default", &run(&mut demo(&QUICK)));
        }
    });
}

#[test]
fn another_number_of_workers() {
    let pools = |workers| run(&mut demo(&["--seconds", "0.1", "--workers", workers]));
    assert_all_primes_found(&pools("1"), &["no pool", "pool of 1"]);
    assert_all_primes_found(
        &pools("6"),
        &["no pool", "pool of 1", "pool of 2", "pool of 4", "pool of 6"],
    );
    // A pool of one worker survives its worker.
    assert!(pools("1").stdout.contains("pool of 1           7 results: 0 1 4 - 16 25 36 49\n"));
}

#[test]
fn python() {
    if let Some(mut python) = support::python("docs/python/q1_why_processes.py") {
        let output = run(&mut python);
        check("python", &output);
        assert_all_primes_found(&output, &LABELS);
    }
}

#[test]
fn recorded_runs() {
    for (run, name) in [("q1_why_processes", "default"), ("q1_why_processes__python", "python")] {
        let output = support::recorded(run);
        check(name, &output);
        assert_all_primes_found(&output, &LABELS);
    }
}

#[test]
fn nobody_reads() {
    support::assert_quiet_without_reader(|| demo(&QUICK));
}

#[test]
fn help() {
    snapshot!("help", run(&mut demo(&["--help"])));
    snapshot!("version", run(&mut demo(&["--version"])));
}

#[test]
fn wrong_arguments() {
    for (name, arguments) in [
        ("no_time", ["--seconds", "0"].as_slice()),
        ("negative_time", &["--seconds", "-1"]),
        ("endless", &["--seconds", "inf"]),
        ("no_workers", &["--workers", "0"]),
        ("too_many_workers", &["--workers", "65"]),
        ("no_value", &["--workers"]),
        ("no_option", &["fast"]),
    ] {
        let output = run(&mut demo(arguments));
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(output.stderr.lines().count(), 1);
        snapshot!(name, output);
    }
}
