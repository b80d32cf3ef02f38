//! Results as tables: text for the terminal, Markdown for pages.

use std::fmt::Write as _;

use anyhow::Result;

use crate::fit::{Fit, points};
use crate::record::{Measured, Outcome, Presence, Record, show};
use crate::workload::{Unit, Workload};

/// One case of a workload, for the terminal.
pub(crate) fn case(measured: &Measured) -> Result<String> {
    let mut text = format!("{}: {}\n", measured.workload, heading(measured)?);
    let _ =
        writeln!(text, "  {:<19}{:>11}{:>25}{:>10}", "", "median", "least .. greatest", "ratio");
    for [name, median, spread, ratio] in cells(measured)? {
        let _ = writeln!(text, "  {name:<19}{median:>11}{spread:>25}{ratio:>10}");
    }
    for note in notes(measured)? {
        let _ = writeln!(text, "  {note}");
    }
    Ok(text)
}

/// The fits of the large pools, for the terminal; empty if there are none.
pub(crate) fn fits(record: &Record) -> String {
    let rows = fit_cells(record);
    if rows.is_empty() {
        return String::new();
    }
    let mut text = "large, fitted: once + workers x a worker + tasks x a task\n".to_owned();
    let head = ["", "once", "a worker", "a task", "error"].map(String::from);
    for [name, base, worker, task, error] in std::iter::once(head).chain(rows) {
        let _ = writeln!(text, "  {name:<19}{base:>11}{worker:>13}{task:>13}{error:>10}");
    }
    text
}

/// Returns a page about a run, in Markdown.
pub(crate) fn page(record: &Record, aims: &str) -> Result<String> {
    Ok(format!("{}\n{}", summary(record)?, details(record, aims)?))
}

/// Returns all of a page but its summary: who took part, the aims, and each case.
pub(crate) fn details(record: &Record, aims: &str) -> Result<String> {
    let mut text = attendance(record);
    if !aims.is_empty() {
        let _ = write!(text, "\n### What was asked, and what this run reached\n\n{aims}");
        text.push_str("\nAll figures are medians. A figure in bold misses what was asked.\n");
    }
    for measured in &record.results {
        let _ = write!(text, "\n### {}\n\n{}.\n\n", name(measured)?, sentence(measured)?);
        text.push_str("| | median | least .. greatest | ratio |\n|---|---:|---:|---:|\n");
        for [name, median, spread, ratio] in cells(measured)? {
            let _ = writeln!(text, "| {name} | {median} | {spread} | {ratio} |");
        }
        for note in notes(measured)? {
            let _ = write!(text, "\n{note}\n");
        }
    }
    let fits = fit_cells(record);
    if !fits.is_empty() {
        text.push_str("\n### What a pool costs, fitted\n\n");
        text.push_str(
            "`large` by least squares of the relative error: once, for each worker, for ",
        );
        text.push_str("each task.\n\n| | once | a worker | a task | largest error |\n");
        text.push_str("|---|---:|---:|---:|---:|\n");
        for [name, base, worker, task, error] in fits {
            let _ = writeln!(text, "| {name} | {base} | {worker} | {task} | {error} |");
        }
    }
    Ok(text)
}

/// Returns where a run is from, and a table of its medians, without the large pools.
pub(crate) fn summary(record: &Record) -> Result<String> {
    const FLEETS: [&str; 4] = ["proc-cluster", "ray", "dask", "mpi4py"];
    const POOLS: [&str; 7] = [
        "proc-core",
        "limit",
        "threads",
        "procspawn",
        "cpython-fork",
        "cpython-forkserver",
        "cpython-spawn",
    ];
    let fleets = record.results.iter().all(|one| one.workload().is_ok_and(Workload::is_fleets));
    let columns = if fleets { &FLEETS[..] } else { &POOLS[..] };
    medians(record, columns, |measured| measured.workload != "large")
}

/// Returns where a run is from, and a table of the medians of some cases and contenders. Where
/// `limit` is no limit, it has no figure.
pub(crate) fn medians(
    record: &Record,
    columns: &[&str],
    is_shown: impl Fn(&Measured) -> bool,
) -> Result<String> {
    let mut text = format!("{}\n\n| medians |", origin(record));
    columns.iter().for_each(|name| text.push_str(&format!(" {name} |")));
    text.push_str("\n|---|");
    columns.iter().for_each(|_| text.push_str("---:|"));
    text.push('\n');
    for measured in record.results.iter().filter(|measured| is_shown(measured)) {
        let unit = measured.workload()?.unit;
        let _ = write!(text, "| {} |", heading(measured)?);
        for name in columns {
            let summary = measured.summary(name).filter(|_| measured.label(name) == *name);
            let median = summary.map(|summary| show(summary.median, unit));
            let _ = write!(text, " {} |", median.unwrap_or_else(|| "-".into()));
        }
        text.push('\n');
    }
    Ok(text)
}

fn origin(record: &Record) -> String {
    let Record { command, date, commit, machine, .. } = record;
    let warning = if command.contains("--quick") {
        " A quick run: it shows that everything runs, not how fast."
    } else {
        ""
    };
    format!(
        "`{command}` on {date}, commit {commit}: {} processors ({}), {}, {}; load {}.{warning}",
        machine.processors,
        machine.processor,
        machine.system,
        machine.rust,
        machine.load.join(" before, ") + " after",
    )
}

fn attendance(record: &Record) -> String {
    let mut text = String::new();
    for one in &record.contenders {
        let _ = match &one.is {
            Presence::Present(version) => writeln!(text, "- {}: {version}", one.contender),
            Presence::Absent(reason) => writeln!(text, "- {}: absent ({reason})", one.contender),
        };
    }
    text
}

/// The title of a workload, with the numbers of workers and tasks as far as they are of interest.
pub(crate) fn heading(measured: &Measured) -> Result<String> {
    Ok(format!("{}{}", measured.workload()?.title, numbers(measured)?))
}

/// The heading, which begins with a small letter, as a sentence.
fn sentence(measured: &Measured) -> Result<String> {
    let heading = heading(measured)?;
    let mut letters = heading.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    Ok(first.into_iter().chain(letters).collect())
}

/// The name of a workload, with the numbers if it has several cases.
fn name(measured: &Measured) -> Result<String> {
    let Workload { name, cases, .. } = measured.workload()?;
    let numbers = if cases.len() > 1 { numbers(measured)? } else { String::new() };
    Ok(format!("{name}{numbers}"))
}

/// How many workers and tasks a case has, as far as that is of interest.
fn numbers(measured: &Measured) -> Result<String> {
    let Workload { cases, .. } = measured.workload()?;
    let differ = cases.iter().any(|case| case.workers != cases[0].workers);
    let workers = match measured.case.workers {
        _ if !differ => String::new(),
        1 => ", 1 worker".into(),
        workers => format!(", {workers} workers"),
    };
    let tasks = match measured.case.tasks {
        0..=4 => String::new(),
        tasks => format!(", {} tasks", grouped(tasks)),
    };
    Ok(format!("{workers}{tasks}"))
}

/// The rows of contenders that did the workload: name, median, extremes, ratio.
fn cells(measured: &Measured) -> Result<Vec<[String; 4]>> {
    let unit = measured.workload()?.unit;
    let ours = measured.ours().map(|summary| summary.median);
    let mut rows = Vec::new();
    for name in measured.rows.iter().map(|row| &row.contender) {
        let Some(summary) = measured.summary(name) else { continue };
        let spread = format!("{} .. {}", show(summary.least, unit), show(summary.greatest, unit));
        let ratio = ours.map_or("-".into(), |ours| format!("{:.2}x", summary.median / ours));
        let label = measured.label(name).to_owned();
        rows.push([label, show(summary.median, unit), spread, ratio]);
    }
    Ok(rows)
}

/// Says what `limit` measures and whether it is a limit, which contenders failed and how, and which
/// did not run the workload.
fn notes(measured: &Measured) -> Result<Vec<String>> {
    let limit = measured.workload()?.limit;
    let mut notes = Vec::new();
    let mut unable = Vec::new();
    for row in &measured.rows {
        match &row.outcome {
            Outcome::Summary(_) if row.contender == "limit" && measured.has_limit() => {
                notes.push(format!("limit: {limit}"));
            }
            Outcome::Summary(_) if row.contender == "limit" => {
                notes.push(format!("bare: {limit}; no limit, since a process was faster"));
            }
            Outcome::Summary(_) => {}
            Outcome::Failure(reason) => notes.push(format!("{} failed: {reason}", row.contender)),
            Outcome::Unable => unable.push(row.contender.as_str()),
        }
    }
    if !unable.is_empty() {
        notes.push(format!("-: {}", unable.join(", ")));
    }
    Ok(notes)
}

fn fit_cells(record: &Record) -> Vec<[String; 5]> {
    let mut rows = Vec::new();
    for contender in record.contenders.iter().map(|one| &one.contender) {
        if let Some(fit) = Fit::of(&points(&record.results, contender)) {
            let [base, worker, task] =
                [fit.base, fit.worker, fit.task].map(|part| show(part, Unit::Seconds));
            rows.push([
                contender.clone(),
                base,
                worker,
                task,
                format!("{:.0} %", fit.error * 100.0),
            ]);
        }
    }
    rows
}

/// A number with a comma before each three digits.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
    groups.join(",")
}
