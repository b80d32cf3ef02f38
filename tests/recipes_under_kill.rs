//! The recipes of shared state, while one of their processes is killed. Each program ends: with
//! what it prints otherwise, or with an error that names the dead process. Nothing of it stays
//! behind.
//!
//! The Python programs hang in many of these trials. `crates/proc-bench/python/shared_state.py`
//! counts them.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, thread};

use fastrand::Rng;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Member, Output, living, program, run_disturbed};

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

/// The processes that the program's fork server has made: those that may be killed. `None` if the
/// program has ended.
fn made_by_fork_server(program: Pid) -> Option<Vec<Member>> {
    let mut members = living(program);
    members.iter().find(|member| member.pid == program)?;
    let of_program = |member: &&Member| member.parent == program;
    let fork_servers: Vec<Pid> = members.iter().filter(of_program).map(|m| m.pid).collect();
    members.retain(|member| fork_servers.contains(&member.parent));
    Some(members)
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

/// Kills a process of the program so long after the first one was made.
fn kill_one(program: Pid, moment: Duration, random: &mut Rng) -> Option<Member> {
    if !wait_for_process(program) {
        return None;
    }
    thread::sleep(moment);
    let victim = random.choice(made_by_fork_server(program)?)?;
    kill(victim.pid, Signal::SIGKILL).ok()?;
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
    let life = (0..3).map(|_| run_whole(name).1).max().unwrap_or_default();
    let (mut kills, mut errors) = (0, 0);
    for _ in 0..MAX_RUNS {
        let moment = life.mul_f64(random.f64());
        let mut killed = None;
        let output = run_disturbed(&mut recipe(name), |program| {
            killed = kill_one(program, moment, &mut random);
            // If the program hangs, this stands above the processes that are alive.
            eprintln!("{name}: after {moment:?} of {life:?}, the kill hits {killed:?}");
        });
        kills += usize::from(killed.is_some());
        if output.status.success() {
            assert_eq!(output.grouped(), whole.grouped(), "{name}");
        } else {
            // The queue's consumers lease what they take.
            assert_ne!(name, "queue", "{output}");
            let victim = killed.unwrap_or_else(|| panic!("{name} fails without a kill: {output}"));
            assert!(output.status.code().is_some(), "{name}: {output}");
            let is_told = has_number(&output.stderr, victim.pid);
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
