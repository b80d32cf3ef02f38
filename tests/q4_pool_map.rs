//! Q4: what `q4-pool-map` and its Python original print.

mod support;

use std::process::Command;

use support::{run, snapshot, under_load};

fn demo() -> Command {
    support::program(env!("CARGO_BIN_EXE_q4-pool-map"))
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
    snapshot!("default", run(&mut support::program(env!("CARGO_BIN_EXE_q4-program"))));
}

#[test]
fn python() {
    if let Some(mut python) = support::python("docs/python/q4_pool_map.py") {
        snapshot!("default", run(&mut python));
    }
}

#[test]
fn recorded_runs() {
    snapshot!("default", support::recorded("q4_pool_map"));
    snapshot!("default", support::recorded("q4_pool_map__python"));
}

#[test]
fn another_number_of_processes() {
    for processes in ["1", "2", "9", "16"] {
        snapshot!("default", run(demo().args(["--processes", processes])));
    }
}

#[test]
fn other_numbers() {
    snapshot!("negative", run(demo().args(["-3", "0", "4"])));
    snapshot!("largest", run(demo().args(["-3037000499", "3037000499"])));
    snapshot!("both", run(demo().args(["--processes", "2", "1", "2", "3"])));
}

#[test]
fn many_numbers() {
    let output = run(demo().args((0..10_000).map(|number| number.to_string())));
    let squares: Vec<i64> = (0..10_000).map(|number| number * number).collect();
    assert!(output.stdout == format!("{squares:?}\n"), "{output}");
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
        ("not_a_number", vec!["3", "four"]),
        ("square_too_large", vec!["3037000500"]),
        ("square_too_large_negative", vec!["-3037000500"]),
        ("number_too_large", vec!["9223372036854775808"]),
        ("unknown_option", vec!["--workers", "5"]),
    ] {
        snapshot!(name, run(demo().args(arguments)));
    }
}
