//! What the pages say of speed is what `docs/benchmark.json` holds, a recorded run.
//!
//! `UPDATE_DOCS=1 cargo test -p proc-bench` makes table and plot from it anew.

use std::path::Path;
use std::{env, fs};

use crate::record::Record;
use crate::{plot, table};

const BEGIN: &str = "<!-- benchmark: made from docs/benchmark.json -->\n";
const END: &str = "<!-- benchmark: end -->\n";

#[test]
fn figures_are_those_of_the_recorded_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let record = Record::read(&root.join("docs/benchmark.json")).expect("a recorded run");
    let page = table::page(&record).expect("a page of the run");
    let summary = table::summary(&record).expect("a summary of the run");
    let svg = plot::svg(&record).expect("a plot of the run");
    let read = |file: &Path| fs::read_to_string(file).expect("a readable file");
    for (name, made) in [("docs/benchmark.md", Some(page)), ("README.md", Some(summary))]
        .into_iter()
        .chain([("docs/benchmark.svg", None)])
    {
        let file = root.join(name);
        let wanted = match made {
            Some(made) => with(&read(&file), &made),
            None => svg.clone(),
        };
        if env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&file, &wanted).expect("a writable file");
        }
        assert!(read(&file) == wanted, "{name} is not the recorded run: UPDATE_DOCS=1 renews it");
    }
}

/// The page with its made part made anew.
fn with(page: &str, made: &str) -> String {
    let (before, rest) = page.split_once(BEGIN).expect("a page that says where its figures begin");
    let (_, after) = rest.split_once(END).expect("a page that says where its figures end");
    format!("{before}{BEGIN}\n{made}\n{END}{after}")
}
