//! The recipes of shared state, while one of their processes is killed. Each program prints the
//! same as without a kill, or ends with an error. The error names the dead process, except in one
//! case ([`NEVER_HAD_IT`]). Nothing of the program stays behind.
//!
//! The Python programs hang in many of these trials. `crates/proc-bench/python/shared_state.py`
//! counts them.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use fastrand::Rng;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Output, program, run_disturbed};

/// Kills of each program.
const TRIALS: usize = 30;

/// The most runs of a program. A kill may come too late, when no process is left that it could hit.
const MAX_RUNS: usize = 20 * TRIALS;

/// The error if the process is killed before it has got its end of the pipe. So nobody knows whose
/// the end was.
const NEVER_HAD_IT: &str = "the other end of the pipe was dropped";

/// The variable of the environment that sets the seed.
const SEED: &str = "RECIPES_SEED";

fn recipe(name: &str) -> Command {
    // All programs of a package are built before its tests. The test lies one directory deeper.
    let test = env::current_exe().expect("a test has a file");
    let profile: &Path = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    program(profile.join(format!("recipe_{name}")))
}

/// The children of a process, also those that have ended. (To look at all processes of the system
/// would take longer than some recipes run.)
fn children(parent: Pid) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids = lists.flat_map(|list| {
        list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
    });
    pids.map(Pid::from_raw).collect()
}

fn is_running(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

/// The processes that the program's fork server has made: those that may be killed. `None` if the
/// program has ended.
fn made_by_fork_server(program: Pid) -> Option<Vec<Pid>> {
    let made = children(program).into_iter().flat_map(children);
    let made = made.filter(|pid| is_running(*pid)).collect();
    is_running(program).then_some(made)
}

/// Waits until the fork server has made a process. Nothing tells the test of it, so it looks again
/// and again. Returns whether there is one.
fn wait_for_process(program: Pid) -> bool {
    loop {
        match made_by_fork_server(program) {
            None => return false,
            Some(members) if members.is_empty() => thread::yield_now(),
            Some(_) => return true,
        }
    }
}

/// Kills a process of the program when `moment` has passed since the first one was made.
fn kill_one(program: Pid, moment: Duration, random: &mut Rng) -> Option<Pid> {
    if !wait_for_process(program) {
        return None;
    }
    let begin = Instant::now();
    while begin.elapsed() < moment {} // to sleep would take longer than some processes live
    let victim = random.choice(made_by_fork_server(program)?)?;
    kill(victim, Signal::SIGKILL).ok()?;
    Some(victim)
}

/// Runs the program without a kill. Returns its output, and how long there were processes that may
/// be killed.
fn run_whole(name: &str) -> (Output, Duration) {
    let mut life = Duration::ZERO;
    let output = run_disturbed(&mut recipe(name), |program| {
        if wait_for_process(program) {
            let begin = Instant::now();
            while made_by_fork_server(program).is_some_and(|members| !members.is_empty()) {}
            life = begin.elapsed();
        }
    });
    assert!(output.status.success(), "{name}: {output}");
    (output, life)
}

/// Whether a text has this number.
fn has_number(text: &str, number: Pid) -> bool {
    text.split(|c: char| !c.is_ascii_digit()).any(|word| word == number.to_string())
}

fn goes_on(name: &str) {
    let seed = env::var(SEED).map_or_else(|_| fastrand::u64(..), |seed| seed.parse().expect(SEED));
    eprintln!("{name}: {SEED}={seed}");
    let mut random = Rng::with_seed(seed);
    let (whole, _) = run_whole(name);
    // How long after the first process the kill may come. It follows the speed of the machine.
    let mut latest = (0..3).map(|_| run_whole(name).1).max().unwrap_or_default();
    let (mut kills, mut errors) = (0, 0);
    for _ in 0..MAX_RUNS {
        let moment = latest.mul_f64(random.f64());
        let mut killed = None;
        let output = run_disturbed(&mut recipe(name), |program| {
            killed = kill_one(program, moment, &mut random);
            // If the program hangs, this stands above the processes that are alive.
            eprintln!("{name}: after {moment:?} of {latest:?}, the kill hits {killed:?}");
        });
        latest = match killed {
            None => moment.max(Duration::from_micros(1)), // it came too late
            Some(_) => latest.mul_f64(1.3),
        };
        kills += usize::from(killed.is_some());
        if output.status.success() {
            assert_eq!(output.grouped(), whole.grouped(), "{name}");
        } else {
            // The queue's consumers lease what they take.
            assert_ne!(name, "queue", "{output}");
            let victim = killed.unwrap_or_else(|| panic!("{name} fails without a kill: {output}"));
            assert!(output.status.code().is_some(), "{name}: {output}");
            let is_told = has_number(&output.stderr, victim);
            let is_told = is_told || output.stderr.contains(NEVER_HAD_IT);
            assert!(is_told, "{name} does not tell of {victim:?}: {output}");
            errors += 1;
        }
        if kills == TRIALS {
            eprintln!("{name}: {kills} kills, {errors} of them end in an error, the others do not");
            return;
        }
    }
    panic!("{name}: only {kills} kills of {MAX_RUNS} came before the end");
}

#[test]
fn counter() {
    goes_on("counter");
}

#[test]
fn queue() {
    goes_on("queue");
}

#[test]
fn lock() {
    goes_on("lock");
}

#[test]
fn event() {
    goes_on("event");
}

#[test]
fn dict() {
    goes_on("dict");
}

#[test]
fn pipe() {
    goes_on("pipe");
}

#[test]
fn array() {
    goes_on("array");
}
