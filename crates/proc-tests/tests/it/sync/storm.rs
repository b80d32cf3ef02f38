//! Processes that use shared state in a loop, and are killed at random moments.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proc_core::{Child, Message, Process, StartMethod};

use crate::support::{Arguments, Finished, Program, describe, run, wait_until};

/// How many processes a storm kills, if there is time.
const KILLS: u32 = 200;

/// How many processes a storm kills, however long it takes.
const MIN_KILLS: u32 = 40;

/// After this time a storm kills no more, on a busy machine.
const DURATION: Duration = Duration::from_millis(2500);

/// Runs a program with a random seed, which it prints. So the seed is in the message of a failure.
pub(super) fn run_seeded(program: Program, start_method: StartMethod) -> Finished {
    run(program, start_method, &[&fastrand::u32(..).to_string()])
}

/// Runs a program with a random seed, which must print no more than the seed.
#[track_caller]
pub(super) fn survives(program: Program, start_method: StartMethod) {
    let finished = run_seeded(program, start_method);
    assert_eq!(finished.succeeded().lines().count(), 1, "{}", finished.stdout);
    finished.after("seed ");
}

/// Returns the random numbers of a program, whose first word is the seed. Prints the seed.
pub(super) fn seeded(arguments: &Arguments) -> fastrand::Rng {
    println!("seed {}", arguments.word());
    fastrand::Rng::with_seed(arguments.number() as u64)
}

/// Sends SIGKILL to a process that is not reaped yet.
pub(super) fn kill_now(pid: u32) {
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("it is not reaped yet");
}

/// Processes that do the same work until they are told to stop.
pub(super) struct Storm<F, A, R> {
    start_method: StartMethod,
    work: F,
    argument: A,
    children: Vec<Child<R>>,
    pub(super) rng: fastrand::Rng,
    began: Instant,
    kills: u32,
}

impl<F: Fn(A) -> R + Copy + 'static, A: Message + Clone, R: Message> Storm<F, A, R> {
    /// Starts processes that call `work` with `argument`.
    pub(super) fn begin(arguments: &Arguments, count: usize, work: F, argument: A) -> Self {
        let mut storm = Storm {
            start_method: arguments.start_method,
            work,
            argument,
            children: Vec::new(),
            rng: seeded(arguments),
            began: Instant::now(),
            kills: 0,
        };
        (0..count).for_each(|_| storm.start_one());
        storm
    }

    fn start_one(&mut self) {
        // If the program panics, it does not wait for a daemon, which nobody has told to stop.
        let process = Process::new(self.work, self.argument.clone()).daemon(true);
        let child = process.start_method(self.start_method).start();
        self.children.push(child.expect("it can be started"));
    }

    /// Kills some of the processes, and starts others. Returns false if there were enough kills.
    pub(super) fn kill_some(&mut self) -> bool {
        let has_time = self.kills < MIN_KILLS || self.began.elapsed() < DURATION;
        let goes_on = self.kills < KILLS && has_time;
        if goes_on {
            (0..self.rng.u32(1..8)).for_each(|_| self.kill_one());
        }
        goes_on
    }

    /// Kills one of the processes at a random moment, and starts another one.
    fn kill_one(&mut self) {
        self.kills += 1;
        std::thread::sleep(Duration::from_micros(self.rng.u64(..4000))); // the random moment
        let victim = self.children.swap_remove(self.rng.usize(..self.children.len()));
        let pid = victim.pid();
        kill_now(pid);
        // The next one starts while the others find out about the death.
        self.start_one();
        let error = victim.join().map(drop).expect_err("it never returns by itself");
        assert!(error.is_death() && error.pid() == Some(pid), "{}", describe(&error));
    }

    /// How many processes were killed.
    pub(super) fn kills(&self) -> u32 {
        self.kills
    }

    /// Waits for the processes, which were told to stop. Returns their results.
    pub(super) fn end(self) -> Vec<R> {
        let join = |child: Child<R>| child.join().unwrap_or_else(|e| panic!("{}", describe(&e)));
        self.children.into_iter().map(join).collect()
    }
}

/// Stops a process, and returns when it is stopped.
pub(super) fn halt(pid: u32) {
    kill(Pid::from_raw(pid as i32), Signal::SIGSTOP).expect("it is not reaped yet");
    wait_until(|| state_of(pid) == Some('T'));
}

/// Continues a process.
pub(super) fn go_on(pid: u32) {
    kill(Pid::from_raw(pid as i32), Signal::SIGCONT).expect("it is not reaped yet");
}

/// Waits until the main thread of a process waits for something.
pub(super) fn wait_until_asleep(pid: u32) {
    wait_until(|| state_of(pid) == Some('S'));
}

fn stat_of(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.to_owned())
}

/// The state of the main thread of a process.
fn state_of(pid: u32) -> Option<char> {
    stat_of(pid)?.chars().next()
}

/// The process that has started a process: its fork server.
pub(super) fn parent_of(pid: u32) -> u32 {
    let stat = stat_of(pid).expect("the process is not reaped yet");
    stat.split(' ').nth(1).and_then(|parent| parent.parse().ok()).expect("stat has a parent")
}
