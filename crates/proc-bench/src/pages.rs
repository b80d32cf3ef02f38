//! Tests that the figures on pages are those of recorded runs.
//!
//! `UPDATE_DOCS=1 cargo test -p proc-bench` writes tables and plots anew from the records.

use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::record::{Measured, Record};
use crate::{aims, plot, table};

/// What stands before medians and before details, and is followed by the name of the record.
const MEDIANS: &str = "<!-- benchmark: made from ";
const DETAILS: &str = "<!-- benchmark: details of ";
const END: &str = "<!-- benchmark: end -->\n";

/// Each run is a file in JSON, a plot, and a page, which have one name.
const POOLS: &str = "docs/benchmark";
const FLEETS: &str = "docs/cluster/benchmark";

/// Part of the figures of [`POOLS`], for a page about something else.
struct Part {
    page: &'static str,
    /// Workloads, each with the number of workers of one of its cases.
    rows: &'static [(&'static str, usize)],
    /// Contenders.
    columns: &'static [&'static str],
}

const PARTS: &[Part] = &[
    Part {
        page: "README.md",
        rows: &[("start", 1), ("pool", 2), ("trip", 2), ("tiny", 2), ("send", 2), ("memory", 8)],
        columns: &[
            "proc-core",
            "threads",
            "procspawn",
            "cpython-fork",
            "cpython-forkserver",
            "cpython-spawn",
        ],
    },
    Part {
        page: "docs/processes-threads-async.md",
        rows: &[
            ("start", 1),
            ("pool", 2),
            ("trip", 2),
            ("tiny", 2),
            ("send", 2),
            ("receive", 2),
            ("shared", 2),
            ("cpu", 1),
            ("cpu", 2),
            ("up", 64),
            ("memory", 64),
        ],
        columns: &["proc-core", "threads", "cpython-fork", "cpython-forkserver"],
    },
    Part {
        page: "docs/crossing.md",
        rows: &[
            ("trip", 2),
            ("tiny", 2),
            ("chunksize-1", 2),
            ("send", 2),
            ("receive", 2),
            ("shared", 2),
            ("state", 2),
        ],
        columns: &[
            "proc-core",
            "proc-core-fork",
            "threads",
            "procspawn",
            "cpython-fork",
            "cpython-forkserver",
        ],
    },
];

#[test]
fn figures_of_pools_are_those_of_the_recorded_run() {
    check_own(POOLS, "docs/benchmark-details.md");
}

#[test]
fn figures_of_fleets_are_those_of_the_recorded_run() {
    check_own(FLEETS, "docs/cluster/benchmark.md");
    let summary = table::summary(&record(FLEETS)).expect("a summary of the run");
    check_figures("docs/cluster.md", MEDIANS, FLEETS, &summary);
}

#[test]
fn figures_of_other_pages_are_those_of_the_recorded_run() {
    let record = record(POOLS);
    for Part { page, rows, columns } in PARTS {
        let case = |one: &Measured| (one.workload.clone(), one.case.workers);
        for (workload, workers) in *rows {
            let has_row = |one: &Measured| case(one) == ((*workload).into(), *workers);
            assert!(record.results.iter().any(has_row), "{page}: {workload}, {workers}");
        }
        let is_shown = |one: &Measured| {
            rows.iter().any(|(workload, workers)| case(one) == ((*workload).into(), *workers))
        };
        let made = table::medians(&record, columns, is_shown).expect("a part of the run");
        check_figures(page, MEDIANS, POOLS, &made);
    }
}

/// Checks what is made from a whole run: a page of its own, perhaps another one for the details,
/// and a plot.
fn check_own(run: &str, details_page: &str) {
    let (record, page) = (record(run), format!("{run}.md"));
    let summary = table::summary(&record).expect("a summary of the run");
    check_figures(&page, MEDIANS, run, &summary);
    let details = aims::table(&record).and_then(|aims| table::details(&record, &aims));
    check_figures(details_page, DETAILS, run, &details.expect("details of the run"));
    check_or_update(file(&format!("{run}.svg")), |_| {
        plot::svg(&record).expect("a plot of the run")
    });
}

fn check_figures(page: &str, begin: &str, run: &str, made: &str) {
    check_or_update(file(page), |old| {
        replace_figures(old, &format!("{begin}{run}.json -->\n"), made)
    });
}

fn record(run: &str) -> Record {
    Record::read(&file(&format!("{run}.json"))).expect("a recorded run")
}

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Checks that a file is what `make` makes of it, or writes it if that is asked for.
fn check_or_update(file: PathBuf, make: impl Fn(&str) -> String) {
    let old = fs::read_to_string(&file).unwrap_or_default();
    let wanted = make(&old);
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, &wanted).expect("a writable file");
        return;
    }
    let name = file.display();
    assert!(old == wanted, "{name} does not show the recorded run: UPDATE_DOCS=1 writes it anew");
}

/// Returns the page with new figures.
fn replace_figures(page: &str, begin: &str, made: &str) -> String {
    let (before, rest) = page.split_once(begin).expect("the page marks where its figures begin");
    let (_, after) = rest.split_once(END).expect("the page marks where its figures end");
    format!("{before}{begin}\n{made}\n{END}{after}")
}
