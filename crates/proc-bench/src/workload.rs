//! The workloads. `contenders`, `python/workloads.py` and `python/fleets.py` say what each
//! contender does for them.

use serde::{Deserialize, Serialize};

/// One thing that is timed.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: Unit,
    /// What the row `limit` measures, which is the machine without any library.
    pub(crate) limit: &'static str,
    /// Whether processors may go idle. If not, no contender has to wait until they wake up.
    pub(crate) idle: Idle,
    /// How often each contender does the workload in its turn.
    pub(crate) repetitions: usize,
    pub(crate) cases: &'static [Case],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unit {
    Seconds,
    Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    Allowed,
    Prevented,
}

/// How large a workload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Case {
    /// Zero stands for the number of processors.
    pub(crate) workers: usize,
    pub(crate) tasks: usize,
}

const fn case(workers: usize, tasks: usize) -> Case {
    Case { workers, tasks }
}

pub(crate) const WORKLOADS: &[Workload] = &[
    Workload {
        name: "start",
        title: "start and join a process that does nothing",
        unit: Unit::Seconds,
        limit: "bare fork, _exit and waitpid",
        idle: Idle::Allowed,
        repetitions: 20,
        cases: &[case(1, 1)],
    },
    Workload {
        name: "pool",
        title: "pool of 2: build, map of 2, end",
        unit: Unit::Seconds,
        limit: "",
        idle: Idle::Allowed,
        repetitions: 10,
        cases: &[case(2, 2)],
    },
    Workload {
        name: "trip",
        title: "one task, there and back, processors may go idle in between",
        unit: Unit::Seconds,
        limit: "8 bytes through a pipe and back",
        idle: Idle::Allowed,
        repetitions: 200,
        cases: &[case(2, 1)],
    },
    Workload {
        name: "trip-awake",
        title: "one task, there and back, processors kept awake",
        unit: Unit::Seconds,
        limit: "8 bytes through a pipe and back",
        idle: Idle::Prevented,
        repetitions: 200,
        cases: &[case(2, 1)],
    },
    Workload {
        name: "tiny",
        title: "map of tiny tasks, pool of 2, nothing set",
        unit: Unit::Seconds,
        limit: "",
        idle: Idle::Allowed,
        repetitions: 1,
        cases: &[case(2, 1_000_000)],
    },
    Workload {
        name: "chunksize-1",
        title: "map of tiny tasks, pool of 2, chunksize 1",
        unit: Unit::Seconds,
        limit: "",
        idle: Idle::Allowed,
        repetitions: 1,
        cases: &[case(2, 100_000)],
    },
    Workload {
        name: "skewed",
        title: "map of tasks of 100 us, 1 % of which take 10 ms, pool of 2",
        unit: Unit::Seconds,
        limit: "the ideal schedule of the same tasks",
        idle: Idle::Allowed,
        repetitions: 2,
        cases: &[case(2, 1000)],
    },
    Workload {
        name: "send",
        title: "map of buffers of 1 MiB to their lengths, pool of 2",
        unit: Unit::Seconds,
        limit: "memcpy of as much, once",
        idle: Idle::Allowed,
        repetitions: 3,
        cases: &[case(2, 64)],
    },
    Workload {
        name: "receive",
        title: "map of lengths to buffers of 1 MiB, pool of 2",
        unit: Unit::Seconds,
        limit: "memcpy of as much, once",
        idle: Idle::Allowed,
        repetitions: 3,
        cases: &[case(2, 64)],
    },
    Workload {
        name: "shared",
        title: "pool of 2 made, given an array of 200 MB, each task reads a byte of every page of it",
        unit: Unit::Seconds,
        limit: "",
        idle: Idle::Allowed,
        repetitions: 1,
        cases: &[case(2, 64)],
    },
    Workload {
        name: "state",
        title: "map of keys to values in a table of 10,000 that each worker keeps, pool of 2",
        unit: Unit::Seconds,
        limit: "",
        idle: Idle::Allowed,
        repetitions: 1,
        cases: &[case(2, 100_000)],
    },
    Workload {
        name: "initializer",
        title: "pool of 2 whose initializer takes 50 ms: build, map of tiny tasks, end",
        unit: Unit::Seconds,
        limit: "",
        idle: Idle::Allowed,
        repetitions: 1,
        cases: &[case(2, 1000)],
    },
    Workload {
        name: "cpu",
        title: "map of computations of about 100 us",
        unit: Unit::Seconds,
        limit: "a plain loop, divided by the number of workers",
        idle: Idle::Allowed,
        repetitions: 1,
        cases: &[case(1, 5000), case(0, 5000)],
    },
    Workload {
        name: "up",
        title: "build a pool, nothing else",
        unit: Unit::Seconds,
        limit: "as many bare forks",
        idle: Idle::Allowed,
        repetitions: 1,
        cases: &[case(1, 0), case(8, 0), case(64, 0), case(500, 0)],
    },
    Workload {
        name: "large",
        title: "build a pool, map of tiny tasks, end",
        unit: Unit::Seconds,
        limit: "",
        idle: Idle::Allowed,
        repetitions: 1,
        cases: &[
            case(1, 1000),
            case(8, 1000),
            case(64, 1000),
            case(500, 1000),
            case(1, 100_000),
            case(8, 100_000),
            case(64, 100_000),
            case(500, 100_000),
        ],
    },
    Workload {
        name: "memory",
        title: "memory of an idle worker (proportional set size)",
        unit: Unit::Bytes,
        limit: "",
        idle: Idle::Allowed,
        repetitions: 1,
        cases: &[case(8, 0), case(64, 0)],
    },
    Workload {
        name: "program",
        title: "the program of question 6, from start to exit",
        unit: Unit::Seconds,
        limit: "",
        idle: Idle::Allowed,
        repetitions: 3,
        cases: &[case(4, 4)],
    },
];

/// The workloads of fleets. Agents on this machine stand for machines.
pub(crate) const FLEETS: &[Workload] = &[
    Workload {
        name: "fleet-trip",
        title: "one task, there and back, fleet of 2, processors may go idle in between",
        unit: Unit::Seconds,
        limit: "",
        idle: Idle::Allowed,
        repetitions: 200,
        cases: &[case(2, 1)],
    },
    Workload {
        name: "fleet-trip-awake",
        title: "one task, there and back, fleet of 2, processors kept awake",
        unit: Unit::Seconds,
        limit: "",
        idle: Idle::Prevented,
        repetitions: 200,
        cases: &[case(2, 1)],
    },
    Workload {
        name: "fleet-tiny",
        title: "map of tiny tasks, fleet of 2, nothing set",
        unit: Unit::Seconds,
        limit: "",
        idle: Idle::Allowed,
        repetitions: 1,
        cases: &[case(2, 20_000)],
    },
    Workload {
        name: "fleet-chunksize-1",
        title: "map of tiny tasks, fleet of 2, chunksize 1",
        unit: Unit::Seconds,
        limit: "",
        idle: Idle::Allowed,
        repetitions: 1,
        cases: &[case(2, 20_000)],
    },
    Workload {
        name: "fleet-large",
        title: "map of buffers of 1 MiB to themselves, fleet of 2",
        unit: Unit::Seconds,
        limit: "",
        idle: Idle::Allowed,
        repetitions: 2,
        cases: &[case(2, 64)],
    },
    Workload {
        name: "fleet-growth",
        title: "map of tasks that wait 5 ms",
        unit: Unit::Seconds,
        limit: "",
        idle: Idle::Allowed,
        repetitions: 1,
        cases: &[case(1, 1000), case(2, 1000), case(4, 1000), case(8, 1000)],
    },
];

impl Workload {
    pub(crate) fn named(name: &str) -> Option<&'static Workload> {
        Workload::all().find(|workload| workload.name == name)
    }

    pub(crate) fn all() -> impl Iterator<Item = &'static Workload> {
        WORKLOADS.iter().chain(FLEETS)
    }

    /// Whether this is a workload of fleets.
    pub(crate) fn is_fleets(&self) -> bool {
        FLEETS.iter().any(|workload| workload.name == self.name)
    }

    /// The cases on this machine. With little effort they are small.
    pub(crate) fn cases(&self, effort: Effort) -> Vec<Case> {
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        let sized = |case: &Case| match effort {
            Effort::Full => *case,
            Effort::Quick => Case { workers: case.workers.min(4), tasks: case.tasks.min(2000) },
        };
        let mut cases: Vec<Case> = self.cases.iter().map(sized).collect();
        for case in &mut cases {
            if case.workers == 0 {
                case.workers = all;
            }
        }
        cases.dedup();
        cases
    }

    pub(crate) fn repetitions(&self, effort: Effort) -> usize {
        match effort {
            Effort::Full => self.repetitions,
            Effort::Quick => 1,
        }
    }
}

/// How much is measured: enough for figures, or only enough to see that everything runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    Full,
    Quick,
}

/// A request to a contender, as a line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) workload: String,
    pub(crate) workers: usize,
    pub(crate) tasks: usize,
    pub(crate) repetitions: usize,
}

/// An answer of a contender, as a line of JSON. The first one comes without a request, and is the
/// version, or the reason why the contender is absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Answer {
    Version(String),
    Absent(String),
    /// One sample for each repetition (`memory`: for each worker), in the workload's unit.
    Samples(Vec<f64>),
    /// The contender does not run the workload: it cannot, or would show nothing new.
    Unable,
    Failure(String),
}

/// The size of the shared array.
pub(crate) const SHARED_BYTES: usize = 200_000_000;
/// The size of a large argument or result.
pub(crate) const LARGE_BYTES: usize = 1 << 20;
/// How many entries the table has that a worker keeps.
pub(crate) const TABLE_ENTRIES: u64 = 10_000;
/// How long the expensive initializer works.
pub(crate) const INITIALIZER_MICROS: Microseconds = 50_000;

pub(crate) type Microseconds = u64;

/// How long each of the skewed tasks takes. One task of each hundred, at changing places, takes 100
/// times as long as the others.
pub(crate) fn skewed(tasks: usize) -> Vec<Microseconds> {
    let long = |i: usize| i % 100 == i / 100 * 37 % 100;
    (0..tasks).map(|i| if long(i) { 10_000 } else { 100 }).collect()
}
