//! Compares the output of programs with snapshots.

/// Compares the output of a program with the snapshot `name`, which all start methods share.
///
/// Filters replace what differs from run to run. Before that, this checks that the numbers of
/// workers are lower than `workers`.
#[track_caller]
pub(crate) fn assert_snapshot(name: &str, workers: usize, text: &str) {
    const FILTERS: [(&str, &str); 7] = [
        (r"\bpid([= ])[0-9]+\b", "pid${1}[pid]"),
        (r"\bworker([= ])[0-9]+\b", "worker${1}[worker]"),
        (r"\.rs:[0-9]+:[0-9]+\b", ".rs:[place]"),
        (r"/rustc/[0-9a-f]+/", "/rustc/[hash]/"),
        (r", core dumped\b", ""),
        (r"\b[0-9.]+/(s|min|h)\b", "[rate]"),
        (r"\b[0-9]{2}:[0-9]{2}:[0-9]{2}\b", "[time]"),
    ];
    for number in text.match_indices("worker=").map(|(at, found)| &text[at + found.len()..]) {
        let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
        let worker: usize = number[..end].parse().expect("a worker has a number");
        assert!(worker < workers, "worker {worker} of {workers} in:\n{text}");
    }
    insta::with_settings!({
        filters => FILTERS,
        omit_expression => true,
        prepend_module_to_snapshot => false,
        snapshot_path => "../snapshots",
    }, { insta::assert_snapshot!(name, text) });
}
