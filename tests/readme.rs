//! What the README's own program prints.

mod support;

use std::path::Path;
use std::process::Command;

use support::{run, snapshot};

#[test]
fn ten_lines_of_your_own() {
    let q6 = Path::new(env!("CARGO_BIN_EXE_q6-four-processes"));
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "-p", "proc-core", "--example", "first"]);
    build.arg("--target-dir").arg(q6.ancestors().nth(2).expect("target/<profile>/<program>"));
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let built = build.current_dir(support::workspace()).status().expect("cargo");
    assert!(built.success(), "the example does not build");
    let output = run(&mut support::program(q6.with_file_name("examples/first")));
    snapshot!("default", output);
}
