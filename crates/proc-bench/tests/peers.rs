//! A peer that is absent, hangs, ends or prints rubbish does not stop the run. The run says what
//! happened.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

/// An interpreter under which each of the peers in Python fails in its own way.
const FAILING: &str = r#"#!/bin/sh
case "$2" in
mpire) echo '{"version":"hangs 1.0"}'; while read -r _; do :; done ;;
loky) echo '{"absent":"not installed"}' ;;
joblib) echo '{"version":"ends 1.0"}'; read -r _; exit 3 ;;
futures) echo '{"version":"babbles 1.0"}'; read -r _; echo hello; while read -r _; do :; done ;;
esac
"#;

#[test]
fn a_peer_that_fails_is_named_and_the_run_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let [python, json, svg] = ["python", "run.json", "run.svg"].map(|n| directory.path().join(n));
    fs::write(&python, FAILING).expect("a file");
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("an executable file");

    let run = bench()
        .args(["pool", "trip", "--quick", "--timeout", "2"])
        .args(["--peers", "proc-core,mpire,loky,joblib,futures"])
        .args(["--python".as_ref(), python.as_os_str()])
        .args(["--json".as_ref(), json.as_os_str(), "--svg".as_ref(), svg.as_os_str()])
        .output()
        .expect("a run");
    let text = String::from_utf8(run.stdout).expect("a text");
    assert!(run.status.success(), "{text}");
    for line in [
        "loky: absent (not installed)",
        "  mpire failed: no answer in 2 s: killed",
        "  joblib failed: it ended: exit status: 3",
        "  futures failed: it says \"hello\": expected value at line 1 column 1",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line:?} in:\n{text}");
    }
    let ours = text.lines().filter(|line| line.starts_with("  proc-core ")).count();
    assert_eq!(ours, 2, "one for each workload:\n{text}");

    let render = bench().arg("--render").arg(&json).output().expect("a page");
    let page = String::from_utf8(render.stdout).expect("a text");
    assert!(page.contains("\nmpire failed: no answer in 2 s: killed\n"), "{page}");
    assert!(fs::read_to_string(&svg).expect("a plot").ends_with("</svg>\n"));
}

#[test]
fn an_unknown_workload_is_refused() {
    let run = bench().arg("sleep").output().expect("a run");
    assert_eq!(run.status.code(), Some(2));
}

fn bench() -> Command {
    Command::new(env!("CARGO_BIN_EXE_proc-bench"))
}
