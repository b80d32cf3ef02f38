//! The record of a run: what was measured, and on which machine. Tables, plots and pages are made
//! from it.

use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::workload::{Case, Unit, Workload};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) command: String,
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) machine: Machine,
    pub(crate) contenders: Vec<Attendance>,
    pub(crate) results: Vec<Measured>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) memory: String,
    pub(crate) system: String,
    pub(crate) rust: String,
    /// The load of the minute before the run and of its last minute. The second one is mostly that
    /// of the run itself.
    pub(crate) load: Vec<String>,
}

/// Whether a contender is present.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Attendance {
    pub(crate) contender: String,
    pub(crate) is: Presence,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Presence {
    /// The version.
    Present(String),
    /// The reason.
    Absent(String),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) workload: String,
    pub(crate) case: Case,
    pub(crate) rows: Vec<Row>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) contender: String,
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Summary(Summary),
    Failure(String),
    Unable,
}

/// Samples in seconds or bytes: how many, their extremes, quartiles and median.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) samples: usize,
    pub(crate) least: f64,
    pub(crate) lower: f64,
    pub(crate) median: f64,
    pub(crate) upper: f64,
    pub(crate) greatest: f64,
}

impl Record {
    pub(crate) fn read(file: &Path) -> Result<Record> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is no record of a run", file.display()))
    }

    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))
    }
}

impl Measured {
    /// The workload of this program that has the recorded name.
    pub(crate) fn workload(&self) -> Result<&'static Workload> {
        Workload::named(&self.workload)
            .with_context(|| format!("this program has no workload {:?}", self.workload))
    }

    pub(crate) fn summary(&self, contender: &str) -> Option<&Summary> {
        let row = self.rows.iter().find(|row| row.contender == contender)?;
        match &row.outcome {
            Outcome::Summary(summary) => Some(summary),
            Outcome::Failure(_) | Outcome::Unable => None,
        }
    }

    /// The result of this project's contender, to which the others are compared.
    pub(crate) fn ours(&self) -> Option<&Summary> {
        ["proc-core", "proc-cluster"].iter().find_map(|name| self.summary(name))
    }

    /// Whether the contender `limit` is a limit here: no contender with processes was faster in any
    /// repetition. Some contenders do less work than `limit`: a worker that looks for its next task
    /// while it is awake needs no pipe, and two workers copy faster than one loop.
    pub(crate) fn has_limit(&self) -> bool {
        let Some(limit) = self.summary("limit") else { return false };
        let processes = self.rows.iter().map(|row| row.contender.as_str());
        let processes = processes.filter(|name| !["limit", "threads"].contains(name));
        !processes.filter_map(|name| self.summary(name)).any(|summary| summary.least < limit.least)
    }

    /// The name by which tables and plots show a contender: `limit` only where it is one.
    pub(crate) fn label<'a>(&self, contender: &'a str) -> &'a str {
        if contender == "limit" && !self.has_limit() { "bare" } else { contender }
    }
}

impl Summary {
    /// Summarizes samples. Returns `None` if there are none.
    pub(crate) fn of(mut samples: Vec<f64>) -> Option<Summary> {
        samples.sort_by(f64::total_cmp);
        let quantile = |q: f64| {
            let place = q * (samples.len() - 1) as f64;
            let (below, above) = (samples[place.floor() as usize], samples[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        (!samples.is_empty()).then(|| Summary {
            samples: samples.len(),
            least: quantile(0.0),
            lower: quantile(0.25),
            median: quantile(0.5),
            upper: quantile(0.75),
            greatest: quantile(1.0),
        })
    }
}

impl Machine {
    pub(crate) fn this() -> Machine {
        let unknown = || "unknown".to_owned();
        let field = |file: &str, name: &str| {
            let text = std::fs::read_to_string(file).ok()?;
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let system = nix::sys::utsname::uname().map_or_else(
            |_| unknown(),
            |name| {
                let parts = [name.sysname(), name.release(), name.machine()];
                parts.map(|part| part.to_string_lossy().into_owned()).join(" ")
            },
        );
        Machine {
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory: field("/proc/meminfo", "MemTotal").unwrap_or_else(unknown),
            system,
            rust: output("rustc", &["--version"]).unwrap_or_else(unknown),
            load: vec![load()],
        }
    }

    /// Notes the load of the last minute.
    pub(crate) fn note_load(&mut self) {
        self.load.push(load());
    }
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().into()
}

pub(crate) fn date() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

pub(crate) fn commit() -> String {
    let describe = ["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"];
    output("git", &describe).unwrap_or_else(|| "unknown".into())
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A number with a unit, as people read it.
pub(crate) fn show(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Seconds if value < 1e-6 => format!("{:.0} ns", value * 1e9),
        Unit::Seconds if value < 1e-3 => format!("{:.1} us", value * 1e6),
        Unit::Seconds if value < 1.0 => format!("{:.2} ms", value * 1e3),
        Unit::Seconds => format!("{value:.2} s"),
        Unit::Bytes if value < 1e6 => format!("{:.0} KiB", value / 1024.0),
        Unit::Bytes => format!("{:.1} MiB", value / (1024.0 * 1024.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_interpolates_quantiles() {
        assert_eq!(Summary::of(Vec::new()), None);
        let one = Summary::of(vec![3.0]).expect("a summary of one sample");
        assert_eq!((one.samples, one.least, one.median, one.greatest), (1, 3.0, 3.0, 3.0));
        let four = Summary::of(vec![4.0, 1.0, 3.0, 2.0]).expect("a summary of four samples");
        assert_eq!((four.lower, four.median, four.upper), (1.75, 2.5, 3.25));
    }

    #[test]
    fn limit_is_one_if_no_process_is_faster() {
        let row = |(contender, time): &(&str, f64)| Row {
            contender: (*contender).into(),
            outcome: Outcome::Summary(Summary::of(vec![*time]).expect("a sample")),
        };
        let label = |rows: &[(&str, f64)]| {
            let (workload, case) = ("start".into(), Case { workers: 1, tasks: 1 });
            let rows = rows.iter().map(row).collect();
            Measured { workload, case, rows }.label("limit").to_owned()
        };
        assert_eq!(label(&[("proc-core", 3.0), ("limit", 2.0), ("threads", 1.0)]), "limit");
        assert_eq!(label(&[("proc-core", 1.0), ("limit", 2.0), ("threads", 3.0)]), "bare");
    }

    #[test]
    fn numbers_are_shown_in_suitable_units() {
        let seconds = [2e-8, 3.5e-6, 0.0123, 4.0].map(|value| show(value, Unit::Seconds));
        assert_eq!(seconds, ["20 ns", "3.5 us", "12.30 ms", "4.00 s"]);
        assert_eq!([2048.0, 3e6].map(|v| show(v, Unit::Bytes)), ["2 KiB", "2.9 MiB"]);
    }
}
