//! Prints in one line which tests of the workspace are skipped on this machine, and what they need.
//!
//! This is the last test program that `cargo test --workspace` runs. Only the examples of the
//! documentation come after it. It has no test harness, because a harness would hide the line.

#[path = "../../../tests/support/machine.rs"]
mod machine;

use std::collections::BTreeSet;
use std::path::Path;
use std::{env, fs};

use machine::Missing;

fn main() {
    let arguments: BTreeSet<String> = env::args().collect();
    // A program that asks for the names of tests expects nothing else.
    if arguments.contains("--list") {
        return;
    }
    let missing = [
        machine::python3().err(),
        machine::nats_server().err(),
        machine::mdbook().err(),
        machine::browser().err(),
        machine::axe().err(),
        machine::llvm_tools().err(),
        machine::coverage_tools().err(),
        machine::network_namespaces().err(),
        machine::root().err(),
        machine::cgroup().err(),
        machine::systemd_analyze().err(),
    ];
    let mut skipped: Vec<String> = missing.iter().flatten().map(Missing::to_string).collect();
    if !["--ignored", "--include-ignored"].iter().any(|option| arguments.contains(*option)) {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
        let ignored = ignored_in(workspace.expect("packages are two levels down"));
        if ignored > 0 {
            let how = "cargo test --workspace --tests -- --ignored";
            skipped.push(format!("{ignored} tests that take minutes or much memory ({how})"));
        }
    }
    let skipped = if skipped.is_empty() { "nothing".into() } else { skipped.join("; ") };
    println!("skipped: {skipped}");
}

/// How many tests below a directory have the attribute `ignore`. Tests that another test starts as
/// a program do not count.
fn ignored_in(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut ignored = 0;
    for path in entries.filter(|path| !path.ends_with("target")) {
        if path.is_dir() {
            ignored += ignored_in(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let attributes = text.lines().filter(|line| line.trim_start().starts_with("#[ignore"));
            ignored += attributes.filter(|line| !line.contains("program of the test")).count();
        }
    }
    ignored
}
