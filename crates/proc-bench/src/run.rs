//! A run: starts the contenders, gives them turns, and makes a record of what was measured.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::contenders::{self, Contender};
use crate::peer::Peer;
use crate::record::{Attendance, Machine, Measured, Outcome, Presence, Record, Row, Summary};
use crate::record::{commit, date};
use crate::sys;
use crate::table;
use crate::workload::{Answer, Case, Effort, Idle, Request, Workload};

/// What a run measures, and with which limits.
pub(crate) struct Plan {
    pub(crate) effort: Effort,
    pub(crate) rounds: u64,
    /// The time limit of one turn.
    pub(crate) timeout: Duration,
    /// The time limit of all turns of one case. A contender that has reached it gets no more turns.
    pub(crate) budget: Duration,
    pub(crate) python: PathBuf,
    pub(crate) workloads: Vec<&'static Workload>,
    pub(crate) contenders: Vec<Contender>,
}

/// Measures all cases, and prints each case when it is done.
pub(crate) fn run(plan: &Plan) -> Result<Record> {
    if cfg!(debug_assertions) {
        println!("this is a debug build: run with --release for meaningful figures");
    }
    if plan.workloads.iter().any(|workload| workload.name == "program") {
        contenders::build_q6()?;
    }
    let mut record = Record {
        command: command(),
        date: date(),
        commit: commit(),
        machine: Machine::this(),
        contenders: Vec::new(),
        results: Vec::new(),
    };
    let mut peers = Vec::new();
    for &contender in &plan.contenders {
        let mut peer = Peer::new(contender, &plan.python);
        let is = match peer.start() {
            Answer::Version(version) => Presence::Present(version),
            Answer::Absent(reason) | Answer::Failure(reason) => Presence::Absent(reason),
            other => Presence::Absent(format!("it does not say its version, but {other:?}")),
        };
        match &is {
            Presence::Present(version) => println!("{}: {version}", peer.name()),
            Presence::Absent(reason) => println!("{}: absent ({reason})", peer.name()),
        }
        let present = matches!(is, Presence::Present(_));
        record.contenders.push(Attendance { contender: peer.name(), is });
        if present {
            peers.push(peer);
        }
    }
    println!();
    for workload in &plan.workloads {
        for case in workload.cases(plan.effort) {
            let measured = measure(plan, workload, case, &mut peers);
            println!("{}", table::case(&measured)?);
            record.results.push(measured);
        }
    }
    print!("{}", table::fits(&record));
    record.machine.note_load();
    Ok(record)
}

/// Measures one case: the contenders take turns.
fn measure(plan: &Plan, workload: &Workload, case: Case, peers: &mut [Peer]) -> Measured {
    let request = Request {
        workload: workload.name.into(),
        workers: case.workers,
        tasks: case.tasks,
        repetitions: workload.repetitions(plan.effort),
    };
    let _awake = (workload.idle == Idle::Prevented).then(Awake::begin);
    let mut turns: Vec<Turns> = peers.iter().map(|_| Turns::default()).collect();
    for _ in 0..plan.rounds {
        for (peer, turns) in peers.iter_mut().zip(&mut turns) {
            if turns.end.is_none() && turns.spent < plan.budget {
                let begin = Instant::now();
                match peer.ask(&request, plan.timeout) {
                    Answer::Samples(samples) => turns.samples.extend(samples),
                    Answer::Unable => turns.end = Some(Outcome::Unable),
                    Answer::Failure(reason) | Answer::Absent(reason) => {
                        turns.end = Some(Outcome::Failure(reason));
                    }
                    Answer::Version(version) => {
                        turns.end = Some(Outcome::Failure(format!("it answers {version:?}")));
                    }
                }
                turns.spent += begin.elapsed();
            }
        }
    }
    let row = |(peer, turns): (&Peer, Turns)| {
        let summary = Summary::of(turns.samples).map(Outcome::Summary);
        let outcome = turns.end.or(summary).unwrap_or(Outcome::Unable);
        Row { contender: peer.name(), outcome }
    };
    let rows = peers.iter().zip(turns).map(row).collect();
    Measured { workload: workload.name.into(), case, rows }
}

/// The turns of a contender at a case.
#[derive(Default)]
struct Turns {
    samples: Vec<f64>,
    /// The outcome because of which the contender gets no more turns.
    end: Option<Outcome>,
    spent: Duration,
}

/// Keeps all processors from going idle, by threads that run only while a processor would be idle.
struct Awake {
    over: Arc<AtomicBool>,
    spinners: Vec<JoinHandle<()>>,
}

impl Awake {
    fn begin() -> Awake {
        let over = Arc::new(AtomicBool::new(false));
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let spinner = |_| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                // A thread that would compete with the contenders must not spin.
                let is_idle_priority = sys::run_when_idle().is_ok();
                while is_idle_priority && !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let spinners = (0..count).map(spinner).collect();
        Awake { over, spinners }
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for spinner in self.spinners.drain(..) {
            let _ = spinner.join();
        }
    }
}

fn command() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let fleets = if cfg!(feature = "fleets") { " --features fleets" } else { "" };
    let start = format!("cargo run --release -p proc-bench{fleets}");
    if arguments.is_empty() { start } else { format!("{start} -- {}", arguments.join(" ")) }
}
