//! The aims: which medians each workload should have, compared with those of a run.

use std::fmt::Write as _;

use anyhow::Result;

use crate::record::{Measured, Record, show};
use crate::table;

/// The aim of a workload: in the case with this number of workers, or in each case.
struct Aim(&'static str, Option<usize>, Goal);

/// What the median of proc-core or proc-cluster should be.
enum Goal {
    /// At least this many times as fast as the fastest of these contenders.
    Faster(f64, Peers),
    /// At most this many times the median of this contender.
    Within(f64, &'static str),
    /// At most this many seconds or bytes.
    AtMost(f64),
}

/// Contenders, and a name for all of them.
type Peers = (&'static str, &'static [&'static str]);

const FORK: Peers = ("cpython-fork", &["cpython-fork"]);
const FORKSERVER: Peers = ("cpython-forkserver", &["cpython-forkserver"]);
const CPYTHON: Peers = ("any CPython", &["cpython-fork", "cpython-forkserver", "cpython-spawn"]);
const RAY: Peers = ("ray", &["ray"]);
const PROCSPAWN: Peers = ("procspawn", &["procspawn"]);

const AIMS: &[Aim] = {
    use Goal::{AtMost, Faster, Within};
    &[
        Aim("start", None, Faster(6.0, FORK)),
        Aim("start", None, Faster(50.0, FORKSERVER)),
        Aim("start", None, Faster(5.0, PROCSPAWN)),
        Aim("start", None, Within(4.0, "limit")),
        Aim("start", None, AtMost(350e-6)),
        Aim("pool", None, Faster(20.0, FORK)),
        Aim("pool", None, AtMost(1.5e-3)),
        Aim("trip-awake", None, Faster(30.0, CPYTHON)),
        Aim("trip-awake", None, Faster(8.0, PROCSPAWN)),
        Aim("trip-awake", None, Within(3.0, "limit")),
        Aim("tiny", None, Faster(12.0, CPYTHON)),
        Aim("chunksize-1", None, Faster(150.0, CPYTHON)),
        Aim("skewed", None, Within(1.05, "limit")),
        Aim("send", None, Faster(8.0, CPYTHON)),
        Aim("send", None, Within(3.0, "limit")),
        Aim("receive", None, Faster(8.0, CPYTHON)),
        Aim("receive", None, Within(3.0, "limit")),
        Aim("cpu", None, Within(1.03, "threads")),
        Aim("up", Some(500), AtMost(0.1)),
        Aim("memory", Some(8), AtMost(200.0 * 1024.0)),
        Aim("program", None, Faster(10.0, FORK)),
        Aim("fleet-trip-awake", None, AtMost(400e-6)),
        Aim("fleet-tiny", None, Faster(2.0, RAY)),
        Aim("fleet-chunksize-1", None, Faster(100.0, RAY)),
        Aim("fleet-chunksize-1", None, AtMost(0.4)), // 20,000 tasks: 50,000 a second
    ]
};

/// Returns a table of the aims whose workload was measured; empty if there are none.
pub(crate) fn table(record: &Record) -> Result<String> {
    let mut text = String::new();
    for Aim(workload, workers, goal) in AIMS {
        let is_case = |one: &&Measured| workers.is_none_or(|workers| one.case.workers == workers);
        let all = record.results.iter().filter(|one| one.workload == *workload).filter(is_case);
        for measured in all {
            let [words, reached] = goal.compare(measured)?;
            let _ = writeln!(text, "| {} | {words} | {reached} |", table::heading(measured)?);
        }
    }
    if !text.is_empty() {
        text.insert_str(0, "| | asked | reached |\n|---|---|---|\n");
    }
    Ok(text)
}

impl Goal {
    /// Returns the goal and what was reached, in words. A missed goal is in bold.
    fn compare(&self, measured: &Measured) -> Result<[String; 2]> {
        let median = |name: &str| measured.summary(name).map(|summary| summary.median);
        let ours = measured.ours().map(|summary| summary.median);
        let (words, is_reached, reached) = match self {
            Goal::Faster(times, (name, peers)) => {
                let fastest = peers.iter().filter_map(|peer| median(peer)).min_by(f64::total_cmp);
                let ratio = fastest.zip(ours).map(|(theirs, ours)| theirs / ours);
                let words = format!("{times} times as fast as {name}");
                (
                    words,
                    ratio.map(|ratio| ratio >= *times),
                    ratio.map(|r| format!("{r:.2}\u{a0}times")),
                )
            }
            Goal::Within(times, name) => {
                let ratio = ours.zip(median(name)).map(|(ours, theirs)| ours / theirs);
                let words = match measured.label(name) {
                    "limit" => format!("{times} times the limit"),
                    "bare" => format!("{times} times `bare`: {}", measured.workload()?.limit),
                    name => format!("{times} times {name}"),
                };
                (
                    words,
                    ratio.map(|ratio| ratio <= *times),
                    ratio.map(|r| format!("{r:.2}\u{a0}times")),
                )
            }
            Goal::AtMost(max) => {
                let unit = measured.workload()?.unit;
                let reached = ours.map(|ours| show(ours, unit));
                (show(*max, unit), ours.map(|ours| ours <= *max), reached)
            }
        };
        let reached = match (is_reached, reached) {
            (Some(true), Some(reached)) => reached,
            (_, Some(reached)) => format!("**{reached}**"),
            (_, None) => "-".into(),
        };
        Ok([words, reached])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Outcome, Row, Summary};
    use crate::workload::Case;

    #[test]
    fn missed_goals_are_bold() {
        let row = |(contender, median): &(&str, f64)| Row {
            contender: (*contender).into(),
            outcome: Outcome::Summary(Summary::of(vec![*median]).expect("a sample")),
        };
        let rows = [("proc-core", 0.01), ("cpython-fork", 0.2), ("cpython-spawn", 0.1)];
        let measured = Measured {
            workload: "pool".into(),
            case: Case { workers: 2, tasks: 2 },
            rows: rows.iter().map(row).collect(),
        };
        let compare = |goal: Goal| goal.compare(&measured).expect("a known workload");
        let [faster, within, at_most] = [
            compare(Goal::Faster(12.0, CPYTHON)),
            compare(Goal::Within(0.5, "cpython-spawn")),
            compare(Goal::AtMost(0.01)),
        ];
        assert_eq!(faster, ["12 times as fast as any CPython", "**10.00\u{a0}times**"]);
        assert_eq!(within, ["0.5 times cpython-spawn", "0.10\u{a0}times"]);
        assert_eq!(at_most, ["10.00 ms", "10.00 ms"]);
        assert_eq!(compare(Goal::Faster(2.0, PROCSPAWN)), ["2 times as fast as procspawn", "-"]);
    }
}
