//! Builds programs with cargo, in workspaces of their own.

use std::path::Path;
use std::process::{Command, Stdio};

/// Writes a file, and makes its directory.
pub(crate) fn write(file: &Path, text: &str) {
    std::fs::create_dir_all(file.parent().expect("it is in a directory")).expect("it can be made");
    std::fs::write(file, text).expect("it can be written");
}

/// Our own workspace.
pub(crate) fn ours() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("it is in crates")
}

/// The line of a manifest that makes proc-core a dependency.
pub(crate) fn dependency_on_core() -> String {
    format!("proc-core = {{ path = {:?} }}", ours().join("crates/proc-core"))
}

/// Lets a workspace have the same versions as ours.
pub(crate) fn take_versions(workspace: &Path) {
    std::fs::copy(ours().join("Cargo.lock"), workspace.join("Cargo.lock")).expect("it is there");
}

/// Runs a command that must succeed. Returns what it prints.
pub(crate) fn told_by(mut command: Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().expect("it is there");
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).expect("it is text").trim().to_owned()
}

/// What the compiler says.
pub(crate) fn rustc(arguments: &[&str]) -> String {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(arguments);
    told_by(rustc)
}

/// The system for which the compiler compiles.
///
/// A build with `--target` passes flags to no build script and to no procedural macro.
pub(crate) fn host() -> String {
    let version = rustc(&["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("it says so").to_owned()
}
