//! The programs of the book's pages: each prints what its snapshot holds, and its Python original
//! prints the same, unless it shows a difference.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use support::{program, run, snapshot};

/// Programs whose lines come in any order. Their snapshots have the lines of each process or task
/// together.
const ANY_ORDER: &[&str] = &["recipe_indexed", "recipe_lock", "tour_lock", "tour_retries"];

/// Programs among these in which nothing gets between the lines of one process.
const IN_BLOCKS: &[&str] = &["recipe_lock", "tour_lock"];

/// Programs that are here in one language only: the other language has no such feature, or its
/// program is in another directory.
const ALONE: &[&str] = &[
    "contain_cancel",
    "contain_crash",
    "contain_limits",
    "contain_tests",
    "ipc_traps",
    "primes",
    "shared_counter_lost",
    "shared_handles",
    "shared_mutex",
];

/// Programs that show a difference between the languages. The output in Python has a snapshot of
/// its own, whose name ends with `_in_python`.
const DIFFERENT: &[&str] = &["shared_deaths"];

/// Programs that do not end. `web_handler.rs` tests them.
const SERVERS: &[&str] = &["web_handler"];

/// Runs of each program: more than one, since a wrong order may be rare.
const RUNS: usize = 3;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin")
}

/// The names of all files with this extension.
fn names(extension: &str) -> Vec<String> {
    let files = fs::read_dir(directory()).expect("a directory");
    let files = files.map(|entry| entry.expect("an entry").path());
    let files = files.filter(|file| file.extension().is_some_and(|e| e == extension));
    let mut names: Vec<_> = files.map(|file| stem(&file)).collect();
    names.sort();
    names
}

fn stem(file: &Path) -> String {
    file.file_stem().and_then(|stem| stem.to_str()).expect("a name in UTF-8").to_owned()
}

fn rust(name: &str) -> Command {
    // All programs of a package are built before its tests. The test lies one directory deeper.
    let test = env::current_exe().expect("a test has a file");
    program(test.ancestors().nth(2).expect("target/<profile>/deps/<test>").join(name))
}

/// Runs a program, which must print the same each time. If it hangs, [`run`] kills it and panics.
fn check(name: &str, mut command: impl FnMut() -> Command) {
    for _ in 0..RUNS {
        let output = run(&mut command());
        if IN_BLOCKS.contains(&name) {
            let mut processes: Vec<_> = output.stdout.lines().map(process).collect();
            processes.dedup();
            let blocks = processes.len();
            processes.sort_unstable();
            processes.dedup();
            assert_eq!(processes.len(), blocks, "{name}: torn apart:\n{}", output.stdout);
        }
        snapshot!(name, if ANY_ORDER.contains(&name) { output.grouped() } else { output });
    }
}

/// The process or task to which a line belongs: what stands before the first colon.
fn process(line: &str) -> Option<&str> {
    Some(line.split_once(':')?.0)
}

/// Checks programs, all of them also if some fail, so that one run shows all failures.
///
/// With `BOOK_PROGRAMS=tour`, only those whose names begin with `tour`.
fn check_each(names: Vec<String>, check: impl Fn(&str)) {
    let beginning = env::var("BOOK_PROGRAMS").unwrap_or_default();
    let chosen = names.into_iter().filter(|name| name.starts_with(&beginning));
    let chosen = chosen.filter(|name| !SERVERS.contains(&name.as_str()));
    let fails = |name: &String| catch_unwind(AssertUnwindSafe(|| check(name))).is_err();
    let failed: Vec<_> = chosen.filter(fails).collect();
    assert!(failed.is_empty(), "these fail, see above: {failed:?}");
}

#[test]
fn in_rust() {
    check_each(names("rs"), |name| check(name, || rust(name)));
}

/// Compared with the same snapshots, except the programs in [`DIFFERENT`].
#[test]
fn in_python() {
    check_each(names("py"), |name| {
        let file = directory().join(format!("{name}.py"));
        if support::python(&file).is_some() {
            let ending = if DIFFERENT.contains(&name) { "_in_python" } else { "" };
            let python = || support::python(&file).expect("Python was here");
            check(&format!("{name}{ending}"), python);
        }
    });
}

#[test]
fn each_has_a_counterpart() {
    let (rust, python) = (names("rs"), names("py"));
    for name in rust.iter().chain(&python) {
        let is_alone = !rust.contains(name) || !python.contains(name);
        assert_eq!(is_alone, ALONE.contains(&name.as_str()), "{name}");
    }
}
