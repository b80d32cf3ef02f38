//! Q2: what `q2-processes-vs-threads` and its Python counterpart print.
//!
//! Figures differ from run to run, so the snapshot has names in their place. The tests read some of
//! the figures from the output itself and check them. No test checks how fast anything is.

mod support;

use std::process::Command;

use support::{Output, run, snapshot};

fn demo() -> Command {
    let mut command = support::program(env!("CARGO_BIN_EXE_q2-processes-vs-threads"));
    command.args(["--seconds", "0.2", "--workers", "2"]);
    command
}

/// Cells of the width they have in the table, so that the columns stay columns.
const CELLS: &[(&str, &str)] = &[
    (r"[ \d]{8}\d\.\d (µs|ms)", "    [DURATION]"),
    (r"[ \d]{7}\d\.\d KiB", "        [SIZE]"),
    (r"[ \d]{9}\d\.\d x", "       [RATIO]"),
    (r"[ \d]{4}\d\.\d x", "  [RATIO]"),
    (r"(?m)^  result {32}[ \d]{13}\d[ \d]{13}\d$", RESULTS),
    (r"(?m)Cores here: \d+$", "Cores here: [CORES]"),
    // The system's settings decide whether it writes a core file.
    (r" \(core dumped\)|, core dumped", ""),
];

/// The results depend on the amount of work, and that on the speed of the machine.
const RESULTS: &str = "  result                                      [RESULT]      [RESULT]";

fn check(name: &str, output: &Output) {
    let mut settings = insta::Settings::clone_current();
    for (pattern, replacement) in CELLS {
        settings.add_filter(pattern, *replacement);
    }
    settings.bind(|| snapshot!(name, output));
}

/// The number of the thread and that of the process, in the one line that begins with `label`.
fn numbers(output: &Output, label: &str) -> [u64; 2] {
    let [numbers] = all_numbers(output, label)[..] else { panic!("not one {label:?}:\n{output}") };
    numbers
}

fn all_numbers(output: &Output, label: &str) -> Vec<[u64; 2]> {
    let columns = |cells: &str| {
        let numbers: Vec<_> =
            cells.split_whitespace().map(|cell| cell.parse().expect("a number")).collect();
        numbers.try_into().expect("two columns")
    };
    output.stdout.lines().filter_map(|line| line.strip_prefix(label)).map(columns).collect()
}

/// What became of the program with threads and with processes, from the lines about one failure.
fn fates<'a>(output: &'a Output, failure: &str) -> [&'a str; 2] {
    let mut lines = output.stdout.lines().skip_while(|line| *line != failure).skip(1);
    ["  thread   ", "  process  "].map(|side| {
        let line = lines.next().unwrap_or_else(|| panic!("no {failure:?} in\n{output}"));
        line.strip_prefix(side).unwrap_or_else(|| panic!("{line:?} does not begin with {side:?}"))
    })
}

/// Compares the output with the snapshot, and then checks figures that the snapshot hides.
/// `failure` is the name of the first failure, which differs between the languages.
fn check_all(name: &str, output: &Output, failure: &str, joined: [&str; 2]) {
    check(name, output);

    // Memory: a change of the global by the other side is seen here only if that side was a thread.
    assert_eq!(numbers(output, "a global is, here"), [0, 0]);
    assert_eq!(numbers(output, "the other adds 1000 and then sees"), [1000, 1000]);
    assert_eq!(numbers(output, "it is now, here"), [1000, 0]);
    let row = output.stdout.lines().find_map(|line| line.strip_prefix("what join gave back"));
    assert_eq!(row.expect("a row").split_whitespace().collect::<Vec<_>>(), joined);

    // Work: whoever does it, the result is the same.
    let results = all_numbers(output, "  result");
    assert_eq!(results.len(), 2, "computing and waiting:\n{output}");
    assert!(results.iter().all(|[threads, processes]| *threads > 0 && threads == processes));

    // Failure: a panic is contained either way, a crash and a deadlock only by a process.
    let alive = |fate: &str| fate.starts_with("it goes on: ");
    assert_eq!(fates(output, failure).map(alive), [true, true]);
    assert_eq!(fates(output, "it aborts").map(alive), [false, true]);
    assert_eq!(fates(output, "two wait for each other").map(alive), [false, true]);
    assert!(fates(output, "it aborts")[0].contains("SIGABRT"), "{output}");

    // A race: an update is lost in threads and in processes, and in neither if it is one step.
    assert_eq!(
        fates(output, "two read a shared value, then write it plus 1"),
        ["it goes on: the sum is 1"; 2]
    );
    assert_eq!(
        fates(output, "two add 1 to a shared value in one step"),
        ["it goes on: the sum is 2"; 2]
    );
}

fn check_rust(output: &Output) {
    check_all("default", output, "it panics", ["1000"; 2]);
}

fn check_python(output: &Output) {
    check_all("python", output, "it raises an exception", ["None"; 2]);
}

#[test]
fn default() {
    check_rust(&run(&mut demo()));
}

#[test]
fn recorded_runs() {
    check_rust(&support::recorded("q2_processes_vs_threads"));
    check_python(&support::recorded("q2_processes_vs_threads__python"));
}

/// On a busy machine, too, the output is the same.
#[test]
fn under_load() {
    support::under_load(|| {
        for _ in 0..5 {
            check("default", &run(&mut demo()));
        }
    });
}

#[test]
fn another_number_of_workers() {
    for workers in ["1", "7"] {
        let mut command = support::program(env!("CARGO_BIN_EXE_q2-processes-vs-threads"));
        let output = run(command.args(["--seconds", "0.1", "--workers", workers]));
        assert!(output.status.success(), "{output}");
        assert!(output.stdout.contains(&format!("\nWORK SHARED BY {workers} ")), "{output}");
    }
}

#[test]
fn python() {
    if let Some(mut python) = support::python("docs/python/q2_processes_vs_threads.py") {
        check_python(&run(&mut python));
    }
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
fn wrong_arguments() {
    for (name, arguments) in [
        ("no_time", vec!["--seconds", "0"]),
        ("negative_time", vec!["--seconds", "-1"]),
        ("endless", vec!["--seconds", "inf"]),
        ("no_workers", vec!["--workers", "0"]),
        ("too_many_workers", vec!["--workers", "65"]),
        ("no_value", vec!["--workers"]),
        ("no_option", vec!["fast"]),
    ] {
        let mut command = support::program(env!("CARGO_BIN_EXE_q2-processes-vs-threads"));
        let output = run(command.args(arguments));
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(output.stderr.lines().count(), 1);
        snapshot!(name, output);
    }
}
