//! Programs whose standard streams a shell has closed.
//!
//! Test programs other than `it` use this file too.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::running::Running;

/// Returns each choice of streams: how a shell closes them, and their numbers.
pub(crate) fn choices() -> impl Iterator<Item = (String, String)> {
    let redirections = ["0<&-", "1>&-", "2>&-"];
    (0..8_usize).map(move |choice| {
        let chosen = (0..3).filter(move |stream| choice & (1 << stream) != 0);
        let closing: Vec<&str> = chosen.clone().map(|stream| redirections[stream]).collect();
        let numbers: String = chosen.map(|stream| stream.to_string()).collect();
        (closing.join(" "), numbers)
    })
}

/// Runs a program whose streams a shell has closed. Its exit code must say success.
#[track_caller]
pub(crate) fn expect_success(program: &Path, arguments: &[&str], closing: &str) {
    let mut command = Command::new("sh");
    command.args(["-c", &format!(r#"exec "$0" "$@" {closing}"#)]).arg(program).args(arguments);
    command.env_clear().env("PATH", std::env::var_os("PATH").expect("there is a PATH"));
    command.env("RUST_TEST_THREADS", "2").stdout(Stdio::piped());
    let finished = Running::start(command).limited_to(Duration::from_secs(40)).finish();
    let ended = finished.status;
    assert!(ended.success(), "{arguments:?} {closing}: {ended}\n{}", finished.stderr);
}
