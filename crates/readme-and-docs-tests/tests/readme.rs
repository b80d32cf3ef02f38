//! Tests that the program in the README prints what the README shows.

#[path = "../../../tests/support/mod.rs"]
mod support;

use std::env;
use std::process::Command;

use support::{run, snapshot};

#[test]
fn ten_lines_of_your_own() {
    let test = env::current_exe().expect("a test has a file");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "-p", "proc-core", "--example", "first"]);
    build.arg("--target-dir").arg(profile.parent().expect("target/<profile>"));
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let built = build.current_dir(support::workspace()).status().expect("cargo");
    assert!(built.success(), "the example does not build");
    let output = run(&mut support::program(profile.join("examples/first")));
    snapshot!("default", output);
}
