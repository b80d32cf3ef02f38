//! What the pages say of speed is what recorded runs hold.
//!
//! `UPDATE_DOCS=1 cargo test -p proc-bench` makes tables and plots from them anew.

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

/// A run, with a page of its own, a plot, and a summary on another page.
fn check(run: &str, other: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let record = Record::read(&root.join(format!("{run}.json"))).expect("a recorded run");
    let own = format!("{run}.md");
    let page = aims::table(&record).and_then(|aims| table::page(&record, &aims));
    hold(root.join(&own), |old| with(old, run, page.as_ref().expect("a page of the run")));
    let summary = table::summary(&record).expect("a summary of the run");
    hold(root.join(other), |old| with(old, run, &summary));
    hold(root.join(format!("{run}.svg")), |_| plot::svg(&record).expect("a plot of the run"));
}

/// Sees to it that a file is what `make` makes of it.
fn hold(file: PathBuf, make: impl Fn(&str) -> String) {
    let old = fs::read_to_string(&file).unwrap_or_default();
    let wanted = make(&old);
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, &wanted).expect("a writable file");
        return;
    }
    let name = file.display();
    assert!(old == wanted, "{name} is not the recorded run: UPDATE_DOCS=1 renews it");
}

/// The page with its made part made anew.
fn with(page: &str, run: &str, made: &str) -> String {
    let begin = format!("{BEGIN}{run}.json -->\n");
    let (before, rest) = page.split_once(&begin).expect("a page that says where its figures begin");
    let (_, after) = rest.split_once(END).expect("a page that says where its figures end");
    format!("{before}{begin}\n{made}\n{END}{after}")
}
