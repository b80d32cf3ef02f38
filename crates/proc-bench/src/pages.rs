//! Tests that the figures on pages are those of recorded runs.
//!
//! `UPDATE_DOCS=1 cargo test -p proc-bench` writes tables and plots anew from the records.

use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::record::Record;
use crate::{aims, plot, table};

const BEGIN: &str = "<!-- benchmark: made from ";
const END: &str = "<!-- benchmark: end -->\n";

#[test]
fn figures_of_pools_are_those_of_the_recorded_run() {
    check("docs/benchmark", "README.md");
}

#[test]
fn figures_of_fleets_are_those_of_the_recorded_run() {
    check("docs/cluster/benchmark", "docs/cluster.md");
}

/// Checks what is made from a run: a page of its own, a plot, and a summary on another page.
fn check(run: &str, other: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let record = Record::read(&root.join(format!("{run}.json"))).expect("a recorded run");
    let own = format!("{run}.md");
    let page = aims::table(&record).and_then(|aims| table::page(&record, &aims));
    check_or_update(root.join(&own), |old| {
        replace_figures(old, run, page.as_ref().expect("a page of the run"))
    });
    let summary = table::summary(&record).expect("a summary of the run");
    check_or_update(root.join(other), |old| replace_figures(old, run, &summary));
    check_or_update(root.join(format!("{run}.svg")), |_| {
        plot::svg(&record).expect("a plot of the run")
    });
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
fn replace_figures(page: &str, run: &str, made: &str) -> String {
    let begin = format!("{BEGIN}{run}.json -->\n");
    let (before, rest) = page.split_once(&begin).expect("the page marks where its figures begin");
    let (_, after) = rest.split_once(END).expect("the page marks where its figures end");
    format!("{before}{begin}\n{made}\n{END}{after}")
}
