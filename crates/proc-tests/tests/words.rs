//! Where something is missing, it works all the same, or the error says what is missing and what to
//! do.

mod support;
use std::io::Write as _;
use std::process::{Command, Stdio};

use support::{Finished, Running, scenario};

in_contexts! {
    temporary_directories_are_not_needed: forkserver spawn fork;
    missing_proc_is_named: forkserver spawn fork;
    missing_dev_is_named: forkserver spawn fork;
    refused_memfd_is_named: forkserver spawn fork;
    refused_signalfd_is_no_harm: forkserver spawn fork;
    other_refused_calls_are_named: forkserver spawn fork;
    attributes_that_cannot_cross_are_named: forkserver spawn fork;
    too_few_descriptors_come_with_a_hint: forkserver spawn fork;
    too_few_descriptors_of_a_worker_come_with_a_hint: forkserver spawn fork;
    daemon_after_init_is_told_what_to_do: forkserver spawn fork;
}

/// What is fine, and what tells all of the words.
#[track_caller]
fn fine_or_told(finished: &Finished, words: &[&str]) {
    for line in finished.succeeded().lines() {
        let lower = line.to_lowercase();
        let is_told = words.iter().all(|word| lower.contains(word)) && !line.contains("panicked");
        assert!(line.ends_with(": fine") || is_told, "without {words:?}: {line}");
    }
}

fn needs_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        let _ = writeln!(std::io::stderr(), "skipped: only root may mount and filter");
    }
    !is_root
}

const FINE: &str = "process: fine\npool: fine\nshared: fine\n";

fn temporary_directories_are_not_needed(context: &str) {
    // Missing, unwritable even for root, and no directory.
    for directory in ["/nonexistent", "/proc", "/dev/null"] {
        let mut command = Command::new("env");
        command.env_clear().env("PATH", std::env::var_os("PATH").expect("there is a PATH"));
        command.arg(format!("TMPDIR={directory}"));
        command.args([env!("CARGO_BIN_EXE_scenario"), "words-use", context]);
        command.stdout(Stdio::piped());
        assert_eq!(Running::start(command).finish().succeeded(), FINE, "{directory}");
    }
}

fn missing_proc_is_named(context: &str) {
    if !needs_root() {
        for order in ["after", "before"] {
            let finished = scenario("hidden-directory", context, &["/proc", order]);
            fine_or_told(&finished, &["/proc", "mount"]);
        }
    }
}

fn missing_dev_is_named(context: &str) {
    if !needs_root() {
        for order in ["after", "before"] {
            let finished = scenario("hidden-directory", context, &["/dev", order]);
            fine_or_told(&finished, &["/dev/null"]);
        }
    }
}

fn refused(context: &str, call: &str) -> Vec<Finished> {
    let orders = ["after", "before"].into_iter();
    let cases = orders.flat_map(|order| ["EPERM", "ENOSYS"].map(|errno| (order, errno)));
    cases.map(|(order, errno)| scenario("refused-call", context, &[call, errno, order])).collect()
}

fn refused_memfd_is_named(context: &str) {
    if !needs_root() {
        for finished in refused(context, "memfd_create") {
            fine_or_told(&finished, &["memfd_create", "seccomp"]);
        }
    }
}

fn refused_signalfd_is_no_harm(context: &str) {
    if !needs_root() {
        for finished in refused(context, "signalfd") {
            assert_eq!(finished.succeeded(), FINE);
        }
    }
}

fn other_refused_calls_are_named(context: &str) {
    if !needs_root() {
        for call in ["pidfd_open", "eventfd", "close_range"] {
            for finished in refused(context, call) {
                fine_or_told(&finished, &[call, "seccomp"]);
            }
        }
    }
}

fn attributes_that_cannot_cross_are_named(context: &str) {
    let finished = scenario("self-describing", context, &[]);
    for line in finished.succeeded().lines() {
        let (what, came) = line.split_once(": ").expect("each line names a value");
        if what.starts_with("plain ") {
            assert_eq!(came, "fine", "{what}");
            continue;
        }
        let words: &[&str] = match what.starts_with("flat ") {
            // It fails when it is written, as it does not say how many fields it has.
            true => &["flatten"],
            false => &["self-describing", "tag", "untagged", "flatten"],
        };
        let is_letter = |c: char| c.is_alphanumeric() || c == '-';
        for word in words {
            let is_told = came.split(|c| !is_letter(c)).any(|told| told == *word);
            assert!(is_told, "no {word:?} in: {line}");
        }
        assert!(came.starts_with("encode") || came.starts_with("decode"), "{line}");
    }
}

fn too_few_descriptors_come_with_a_hint(context: &str) {
    let ways = [
        "process",
        "first process",
        "sender of a process",
        "build",
        "share",
        "sender",
        "shared",
        "large",
        "large result",
        "results",
        "resize",
    ];
    for (way, spare) in ways.iter().flat_map(|way| (0..12).map(move |spare| (way, spare))) {
        let finished = scenario("few-descriptors", context, &[way, &spare.to_string()]);
        fine_or_told(&finished, &["too many open files", "ulimit -n"]);
    }
}

fn too_few_descriptors_of_a_worker_come_with_a_hint(context: &str) {
    for count in [4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64] {
        let finished = scenario("few-descriptors-in-worker", context, &[&count.to_string()]);
        fine_or_told(&finished, &["open files"]);
    }
}

fn daemon_after_init_is_told_what_to_do(context: &str) {
    let finished = scenario("daemon-after-init", context, &[]);
    let told = finished.succeeded();
    for line in told.lines() {
        let is_fine = line.ends_with(": fine") || line == "daemon ended";
        assert!(is_fine || line.contains("fork") && line.contains("init"), "{line}");
    }
    assert!(told.ends_with("daemon ended\n"));
}
