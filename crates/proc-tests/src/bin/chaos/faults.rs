//! Faults from outside: signals to workers and fork servers, and which deaths they explain.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proc_core::Error;

use crate::choice::{Choice, Fault};
use crate::ledger::{FAULTS, Ledger};
use crate::procfs;

/// The shortest time between two kills of fork servers. A new one is executed in some tens of
/// milliseconds.
const FORK_SERVER_KILL_INTERVAL: Duration = Duration::from_millis(400);

/// A round's faults.
pub(crate) struct Faults<'a> {
    ledger: &'a Ledger,
    /// The mean time between two faults.
    gap: Duration,
    choice: Choice,
    /// Whether fork servers are killed too.
    fork_servers: ForkServers,
    over: AtomicBool,
    /// The processes that were sent SIGKILL or SIGTERM, or went with their fork server, and whether
    /// that has explained a death.
    killed: Mutex<HashMap<u32, Used>>,
    /// The processes that are stopped, and when they are continued.
    stopped: Mutex<Vec<(u32, Instant)>>,
    fork_servers_killed: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForkServers {
    Spared,
    Killed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Used {
    Not,
    Once,
}

impl<'a> Faults<'a> {
    pub(crate) fn new(
        ledger: &'a Ledger,
        gap: Duration,
        choice: Choice,
        fork_servers: ForkServers,
    ) -> Faults<'a> {
        Faults {
            ledger,
            gap,
            choice,
            fork_servers,
            over: AtomicBool::new(false),
            killed: Mutex::default(),
            stopped: Mutex::default(),
            fork_servers_killed: AtomicU64::new(0),
        }
    }

    /// Injects faults until [`finish`](Faults::finish).
    pub(crate) fn run(&self, mut rng: fastrand::Rng) {
        let mut next_kill_of_fork_server = Instant::now() + FORK_SERVER_KILL_INTERVAL;
        'faults: while !self.over.load(Ordering::Relaxed) {
            let gap = self.gap.mul_f64(2.0 * rng.f64());
            let next = Instant::now() + gap;
            while let Some(left) = next.checked_duration_since(Instant::now()) {
                self.continue_due(Instant::now());
                std::thread::park_timeout(left.min(Duration::from_millis(5)));
                if self.over.load(Ordering::Relaxed) {
                    break 'faults;
                }
            }
            let fork_servers = procfs::fork_servers();
            let mut workers: Vec<u32> = fork_servers
                .iter()
                .flat_map(|fork_server| procfs::children(fork_server.pid))
                .filter(procfs::Seen::is_alive)
                .map(|worker| worker.pid)
                .collect();
            rng.shuffle(&mut workers);
            let fork_server = rng.choice(&fork_servers).map(|fork_server| fork_server.pid);
            let soon = Instant::now() + Duration::from_micros(rng.u64(100..20_000));
            let fault = rng.u32(..12);
            let kind = match fault {
                0..7 => Fault::Kills,
                7..11 => Fault::Stops,
                _ => Fault::ForkServers,
            };
            if !self.has(kind) {
                continue;
            }
            match (fault, workers.first(), fork_server) {
                (0..5, Some(worker), _) => self.kill_worker(*worker, Signal::SIGKILL),
                (5..7, Some(worker), _) => self.kill_worker(*worker, Signal::SIGTERM),
                (7..10, Some(worker), _) => {
                    self.ledger.add(FAULTS, "SIGSTOP and SIGCONT of a worker", 1);
                    self.stop(*worker, soon);
                }
                (10, _, Some(fork_server)) => {
                    self.ledger.add(FAULTS, "SIGSTOP and SIGCONT of the fork server", 1);
                    self.stop(fork_server, soon);
                }
                (11, _, Some(fork_server))
                    if self.fork_servers == ForkServers::Killed
                        && next_kill_of_fork_server < Instant::now() =>
                {
                    self.ledger.add(FAULTS, "SIGKILL of the fork server", 1);
                    self.fork_servers_killed.fetch_add(1, Ordering::SeqCst);
                    send(fork_server, Signal::SIGKILL);
                    next_kill_of_fork_server = Instant::now() + FORK_SERVER_KILL_INTERVAL;
                }
                _ => {}
            }
        }
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        stopped.drain(..).for_each(|(pid, _)| send(pid, Signal::SIGCONT));
    }

    /// Stops a process until a time.
    pub(crate) fn stop(&self, pid: u32, until: Instant) {
        send(pid, Signal::SIGSTOP);
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).push((pid, until));
    }

    /// Continues processes whose time is over.
    fn continue_due(&self, now: Instant) {
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        for (pid, _) in stopped.extract_if(.., |(_, until)| *until <= now) {
            send(pid, Signal::SIGCONT);
        }
    }

    /// Continues stopped processes before their time.
    pub(crate) fn wake(&self, pids: &[u32]) {
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        stopped.retain(|(pid, _)| !pids.contains(pid));
        pids.iter().for_each(|pid| send(*pid, Signal::SIGCONT));
    }

    /// Ends [`run`](Faults::run). The caller must then unpark its thread.
    pub(crate) fn finish(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn kill_worker(&self, pid: u32, signal: Signal) {
        self.ledger.add(FAULTS, &format!("{signal} of a worker"), 1);
        self.note_kill(pid);
        send(pid, signal);
    }

    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.choice.has(fault)
    }

    /// Notes that a process is about to be sent SIGKILL or SIGTERM.
    pub(crate) fn note_kill(&self, pid: u32) {
        let mut killed = self.killed.lock().unwrap_or_else(PoisonError::into_inner);
        killed.entry(pid).or_insert(Used::Not);
    }

    /// How many fork servers were killed so far.
    pub(crate) fn fork_servers_killed(&self) -> u64 {
        self.fork_servers_killed.load(Ordering::SeqCst)
    }

    /// Whether a fault may explain the death of a process that runs no task, like a manager.
    /// Perhaps the error does not name the process, because its death is not announced yet.
    pub(crate) fn may_have_killed(&self, error: &Error) -> bool {
        let killed = self.killed.lock().unwrap_or_else(PoisonError::into_inner);
        self.fork_servers_killed() > 0
            || error.pid().map_or(!killed.is_empty(), |pid| killed.contains_key(&pid))
    }

    /// Whether a fault explains that the process of a task died. Each death explains one failed
    /// task.
    pub(crate) fn explain(&self, death: &Error) -> Result<(), String> {
        use std::os::unix::process::ExitStatusExt;
        let Some(pid) = death.pid() else { return Err("it names no process".into()) };
        let mut killed = self.killed.lock().unwrap_or_else(PoisonError::into_inner);
        let signal = death.exit_status().map(|status| status.signal());
        match signal {
            None if self.fork_servers_killed() > 0 => {
                killed.entry(pid).or_insert(Used::Not);
            }
            None => return Err("no fork server was killed".into()),
            Some(Some(number)) if number == Signal::SIGKILL as i32 => {}
            Some(Some(number)) if number == Signal::SIGTERM as i32 => {
                if death.worker().is_some() {
                    return Err("workers survive SIGTERM".into());
                }
            }
            Some(_) => return Err("no fault sends that signal".into()),
        }
        match killed.get_mut(&pid) {
            None => Err("no fault killed that process".into()),
            Some(Used::Once) => Err("its death has cost another task already".into()),
            Some(used) => {
                *used = Used::Once;
                Ok(())
            }
        }
    }
}

/// Sends a signal to a process. It may have ended.
fn send(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid as i32), signal);
}
