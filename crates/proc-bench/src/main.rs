//! The benchmark: times proc-core and its peers in one run, in turns.
//!
//!     cargo run --release -p proc-bench
//!
//! Each contender is a process of its own, which waits on a pipe for its turn. In a round, each
//! contender does one block of repetitions, so that other load of the machine hits all of them.
//! Clocks run inside the contenders. A contender that is absent, fails or hangs is named, and the
//! run goes on.

mod aims;
mod contenders;
mod fit;
#[cfg(test)]
mod pages;
mod peer;
mod plot;
mod record;
mod run;
mod sys;
mod table;
mod workload;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::builder::PossibleValuesParser;
use clap::{Parser, ValueEnum as _};

use contenders::Contender;
use record::Record;
use workload::{Effort, FLEETS, WORKLOADS, Workload};

/// Times proc-core and its peers, which take turns in one run, and prints medians, extremes and
/// ratios.
#[derive(Parser)]
#[command(version, after_help = workloads(), max_term_width = 100)]
struct Arguments {
    /// Workloads to time [default: all workloads of pools]
    #[arg(
        value_name = "WORKLOAD",
        value_parser = PossibleValuesParser::new(Workload::all().map(|w| w.name)),
        hide_possible_values = true
    )]
    workloads: Vec<String>,
    /// Time fleets: proc-cluster (if built with --features fleets), Ray, Dask and mpi4py
    #[arg(long, conflicts_with = "workloads")]
    fleets: bool,
    /// Contenders to time, separated by commas [default: all]
    #[arg(long, value_name = "PEER", value_delimiter = ',')]
    peers: Vec<Contender>,
    /// Run one round of few repetitions and small cases, to see that everything runs, not how fast
    #[arg(long)]
    quick: bool,
    /// Turns of each contender [default: 5, fleets: 3, quick: 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Kill a contender whose turn takes longer than this [default: 60, fleets: 300, quick: 10,
    /// quick fleets: 60]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// Give a contender no more turns in a case when it has used this time [default: 15, fleets:
    /// 60, quick: 2]
    #[arg(long, value_name = "SECONDS")]
    budget: Option<u64>,
    /// The interpreter for the peers in Python [default: that of venv.sh if installed, else
    /// python3]
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Write the figures to this file, for --render
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the figures as SVG into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Measure nothing; show the figures that an earlier run has written by --json
    #[arg(long, value_name = "FILE", conflicts_with_all = ["workloads", "fleets", "peers", "quick", "json"])]
    render: Option<PathBuf>,
    /// Run as this contender, with requests from standard input
    #[arg(long, hide = true, value_enum)]
    contender: Option<Contender>,
}

fn workloads() -> String {
    let mut text = String::from("Workloads:\n");
    for workload in Workload::all() {
        text += &format!("  {:<18} {}\n", workload.name, workload.title);
    }
    text + "\nPeers in Python run if they are installed; crates/proc-bench/venv.sh installs them."
}

fn main() -> Result<()> {
    contenders::init();
    let arguments = Arguments::parse();
    if let Some(contender) = arguments.contender {
        return contender.serve();
    }
    let record = match &arguments.render {
        Some(file) => {
            let record = Record::read(file)?;
            print!("{}", table::page(&record, &aims::table(&record)?)?);
            record
        }
        None => run::run(&plan(&arguments))?,
    };
    if let Some(file) = &arguments.json {
        record.write(file)?;
    }
    if let Some(file) = &arguments.svg {
        let svg = plot::svg(&record)?;
        std::fs::write(file, svg).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

fn plan(arguments: &Arguments) -> run::Plan {
    let effort = if arguments.quick { Effort::Quick } else { Effort::Full };
    let workloads: Vec<&Workload> = match &arguments.workloads[..] {
        [] if arguments.fleets => FLEETS.iter().collect(),
        [] => WORKLOADS.iter().collect(),
        named => Workload::all().filter(|w| named.iter().any(|name| name == w.name)).collect(),
    };
    let fleets = workloads.iter().any(|workload| workload.is_fleets());
    let [rounds, timeout, budget] = match (effort, fleets) {
        (Effort::Full, false) => [5, 60, 15],
        (Effort::Full, true) => [3, 300, 60],
        (Effort::Quick, false) => [1, 10, 2],
        (Effort::Quick, true) => [1, 60, 2],
    };
    let mut contenders = Contender::value_variants().to_vec();
    contenders.retain(|contender| {
        workloads.iter().any(|workload| workload.is_fleets() == contender.is_fleet())
            && (arguments.peers.is_empty() || arguments.peers.contains(contender))
    });
    run::Plan {
        effort,
        rounds: arguments.rounds.map_or(rounds, u64::from),
        timeout: Duration::from_secs(arguments.timeout.unwrap_or(timeout)),
        budget: Duration::from_secs(arguments.budget.unwrap_or(budget)),
        python: arguments.python.clone().unwrap_or_else(python),
        workloads,
        contenders,
    }
}

/// The interpreter of `venv.sh` if that was run, otherwise the one that a shell would find.
fn python() -> PathBuf {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench-venv/bin/python");
    if venv.exists() { venv } else { "python3".into() }
}
