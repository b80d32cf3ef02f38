//! Chaos: makes random calls of pools and processes under random faults, and checks every result.
//!
//!     cargo run --release -p proc-tests --bin chaos -- --help
//!
//! - `tasks`: what tasks do, and which fates of theirs are right.
//! - `test_pool`: a pool with random settings.
//! - `calls`: makes the calls, and judges the results.
//! - `choice`: which faults happen.
//! - `faults`: sends signals, and knows which deaths they explain.
//! - `forked_copies`: copies of processes, made by `fork`.
//! - `limits`: rounds under resource limits.
//! - `life`: runs rounds in one process, and checks that nothing is left between them.
//! - `watch`: ends the program if a call hangs.
//!
//! This file supervises. Each *life* is a process of its own. After its end, no process of its
//! group may live and no file may be left.

mod calls;
mod choice;
mod faults;
mod forked_copies;
mod ledger;
mod life;
mod limits;
mod procfs;
mod tasks;
mod test_pool;
mod watch;

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use proc_core::StartMethod;

use choice::Chosen;
use ledger::{FATES, Ledger};
use life::Plan;

/// Makes random calls of pools and processes under random faults, and checks every result.
///
/// Some tasks share locks, values, queues and a manager's dictionary, and some processes have an
/// end of a pipe. No item may be lost or come twice, except the one that a killed process was
/// taking.
///
/// Ends after about `--tasks` tasks or `--seconds` seconds, whichever comes first, and prints a
/// table of what happened. If a result is wrong, ends at once, and prints the command that repeats
/// the same calls and faults. (With the same seed, calls and faults are the same, but they do not
/// meet at exactly the same moments.)
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Seed of the random numbers. The default is a random seed.
    #[arg(long)]
    seed: Option<u64>,
    /// How many tasks to run, at least, if there is time.
    #[arg(long, default_value_t = 1_000_000)]
    tasks: u64,
    /// About how many seconds the program may take.
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Start method of processes and pools.
    #[arg(long, value_enum, default_value_t = StartMethods::All)]
    start_method: StartMethods,
    /// The most workers that a pool may have.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// How many seconds a single call may take before it counts as hanging.
    #[arg(long, default_value_t = 60)]
    limit: u64,
    #[command(flatten)]
    faults: Chosen,
    /// Make the calls in this process, for a debugger (`all` then means `forkserver`). Nothing
    /// checks what it leaves behind.
    #[arg(long)]
    alone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StartMethods {
    Forkserver,
    Spawn,
    Fork,
    /// All of these, one after the other.
    All,
}

impl StartMethods {
    fn each(self) -> &'static [(StartMethods, StartMethod)] {
        const EACH: [(StartMethods, StartMethod); 3] = [
            (StartMethods::Forkserver, StartMethod::Forkserver),
            (StartMethods::Spawn, StartMethod::Spawn),
            (StartMethods::Fork, StartMethod::Fork),
        ];
        match self {
            StartMethods::Forkserver => &EACH[..1],
            StartMethods::Spawn => &EACH[1..2],
            StartMethods::Fork => &EACH[2..],
            StartMethods::All => &EACH,
        }
    }
}

/// How long processes of a life may outlive it.
const AFTERLIFE_TIMEOUT: Duration = Duration::from_secs(5);

/// How much longer a life may take than its planned time and the limit of one call together.
const GRACE_PERIOD: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    proc_core::init();
    let arguments = Arguments::parse();
    // Tasks abort on purpose: they need no core dumps.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).expect("less is allowed");
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let start_methods = arguments.start_method.each();
    if arguments.alone {
        // If the supervisor is killed, this life is killed too.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).expect("Linux can");
        life::live(Plan {
            start_method: start_methods[0].1,
            faults: arguments.faults.choice(),
            seed,
            workers: arguments.workers.into(),
            tasks: arguments.tasks,
            time: Duration::from_secs(arguments.seconds),
            limit: Duration::from_secs(arguments.limit),
        });
        return ExitCode::SUCCESS;
    }
    println!("chaos: seed {seed}");
    let start = Instant::now();
    let time = Duration::from_secs(arguments.seconds);
    let ledger = Ledger::default();
    let longest = (arguments.seconds / start_methods.len() as u64).clamp(1, 60);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut seed = seed;
    for (turn, (name, _)) in start_methods.iter().cycle().enumerate() {
        let left = time.saturating_sub(start.elapsed()).as_secs_f64().round() as u64;
        let is_enough = left == 0 || ledger.total(FATES) >= arguments.tasks;
        // Each start method has a turn, however slow the machine is.
        if is_enough && turn >= start_methods.len() {
            break;
        }
        let left = left.clamp(1, longest);
        let start_method = name.to_possible_value().expect("no start method is skipped");
        let options = [
            ("--seed", seed.to_string()),
            ("--tasks", arguments.tasks.div_ceil(start_methods.len() as u64).to_string()),
            ("--seconds", left.to_string()),
            ("--start-method", start_method.get_name().to_owned()),
            ("--workers", arguments.workers.to_string()),
            ("--limit", arguments.limit.to_string()),
        ];
        let mut options: Vec<String> =
            options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
        let without = arguments.faults.choice().to_string();
        if !without.is_empty() {
            options.extend(["--without".to_owned(), without]);
        }
        let deadline = Duration::from_secs(left + arguments.limit) + GRACE_PERIOD;
        if let Err(why) = supervise(&options, deadline, &ledger) {
            eprintln!("chaos: BROKEN: {why}\nagain: chaos {}", options.join(" "));
            return ExitCode::FAILURE;
        }
        println!(
            "chaos: {} {seed}: {} tasks in all after {:.1?}",
            start_method.get_name(),
            ledger.total(FATES),
            start.elapsed()
        );
        seed = rng.u64(..1 << 32);
    }
    let (tasks, took) = (ledger.total(FATES), start.elapsed());
    println!("\n{ledger}");
    println!("{tasks} tasks in {took:.1?}, {:.0} a second", tasks as f64 / took.as_secs_f64());
    ExitCode::SUCCESS
}

/// Runs one life in a process group and a directory of its own. Returns an error if it fails or
/// leaves something.
fn supervise(options: &[String], deadline: Duration, ledger: &Ledger) -> Result<(), String> {
    let start = Instant::now();
    let directory = tempfile::tempdir().expect("a directory can be made");
    let program = std::env::current_exe().expect("/proc is mounted");
    let mut life = Command::new(program)
        .args(options)
        .arg("--alone")
        .env("TMPDIR", directory.path())
        // With one heap, which is trimmed at once, a life keeps little of the memory that it has
        // freed.
        .envs([("MALLOC_ARENA_MAX", "1"), ("MALLOC_TRIM_THRESHOLD_", "131072")])
        .env("MALLOC_MMAP_THRESHOLD_", "131072")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("this program can be executed");
    let group = life.id();
    let end = |why: String| {
        let alive = procfs::describe_group(group);
        let _ = killpg(Pid::from_raw(group as i32), Signal::SIGKILL);
        Err(format!("{why}; alive:\n{alive}"))
    };
    let stdout = life.stdout.take().expect("it is a pipe");
    let status = std::thread::scope(|scope| -> Result<ExitStatus, String> {
        scope.spawn(|| {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if !ledger.add_line(&line) {
                    println!("{line}");
                }
            }
        });
        let status = loop {
            if let Some(status) = life.try_wait().expect("it is our child") {
                break status;
            }
            if start.elapsed() > deadline {
                end("a life does not end".to_owned())?;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        };
        let ended = Instant::now();
        while !procfs::group(group).is_empty() {
            if ended.elapsed() > AFTERLIFE_TIMEOUT {
                end(format!("processes outlive their program ({status})"))?;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Ok(status)
    })?;
    let left: Vec<_> = std::fs::read_dir(directory.path()).into_iter().flatten().collect();
    match (status.success(), left.is_empty()) {
        (true, true) => Ok(()),
        (true, false) => Err(format!("temporary files are left: {left:?}")),
        (false, _) => Err(format!("{status}")),
    }
}
