//! A life: rounds of calls under faults in one process, and between them nothing may be left.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use proc_core::{Child, Pool, Process, StartMethod};

use crate::choice::{Choice, Fault};
use crate::faults::{Faults, ForkServers};
use crate::ledger::{FATES, Ledger};
use crate::plays::Caller;
use crate::station::{Round, Station};
use crate::tasks::mix;
use crate::watch::{Watch, broken};
use crate::{procfs, strain};

/// What one life is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) context: StartMethod,
    pub(crate) faults: Choice,
    pub(crate) seed: u64,
    pub(crate) workers: usize,
    pub(crate) tasks: u64,
    pub(crate) time: Duration,
    /// How long a call may take.
    pub(crate) limit: Duration,
}

/// How much more memory a life may use after its first rounds, in KiB.
const SLACK: u64 = 8 << 10;

/// How long what is ended may take to be gone.
const PATIENCE: Duration = Duration::from_secs(20);

/// Lives, and tells what happened.
pub(crate) fn live(plan: Plan) {
    strain::forbid_panics();
    let start = Instant::now();
    let ledger = Ledger::default();
    let mut rng = fastrand::Rng::with_seed(plan.seed);
    let mut known: HashMap<usize, Holdings> = HashMap::new();
    let mut memory: Option<u64> = None;
    let mut rounds = 0;
    if plan.context != StartMethod::Fork {
        start_callbacks(plan.context);
    }
    while start.elapsed() < plan.time && ledger.total(FATES) < plan.tasks {
        // A fork server that was killed is not forked again but executed: some time must be
        // without.
        let halfway = start.elapsed() > plan.time / 2 || ledger.total(FATES) > plan.tasks / 2;
        let is_time = halfway && plan.faults.has(Fault::ForkServers);
        let fork_servers = if is_time { ForkServers::Killed } else { ForkServers::Spared };
        let end = Instant::now() + Duration::from_millis(rng.u64(200..2000));
        if strain::is_chosen(plan.faults) && rng.bool() {
            strain::round(&plan, &mut rng, &ledger);
        } else {
            round(&plan, fork_servers, end.min(start + plan.time), &mut rng, &ledger);
        }
        rounds += 1;
        settle(plan.context, &mut known);
        let now = own_memory();
        match memory.zip(now) {
            None if rounds > 3 => memory = now,
            Some((before, now)) if now > before + SLACK => {
                broken(&format!("{before} KiB after three rounds, {now} KiB after {rounds}"));
            }
            _ => {}
        }
    }
    ledger.add("rounds", &format!("{:?}", plan.context), rounds);
    ledger.tell();
}

/// The thread that calls back stays once it was needed.
fn start_callbacks(context: StartMethod) {
    let pool = Pool::builder().processes(1).start_method(context).build();
    let task = pool.as_ref().map(|pool| pool.apply_async(mix, 7));
    let (sender, result) = mpsc::channel();
    match task {
        Ok(Ok(task)) => task.on_done(move |result| drop(sender.send(result))),
        other => broken(&format!("nothing is wrong yet, but: {other:?}")),
    }
    if !matches!(result.recv(), Ok(Ok(value)) if value == mix(7)) {
        broken("a callback is not called with the result");
    }
}

fn round(
    plan: &Plan,
    fork_servers: ForkServers,
    end: Instant,
    rng: &mut fastrand::Rng,
    ledger: &Ledger,
) {
    let watch = Watch::new(plan.limit);
    let gap = Duration::from_millis([30, 100, 300, 1000, 3000][rng.usize(..5)]);
    let round = Round {
        watch: &watch,
        ledger,
        faults: Faults::new(ledger, gap, plan.faults, fork_servers),
        context: plan.context,
        workers: plan.workers,
        end,
        tasks: plan.tasks,
    };
    // Only a process without threads can be forked.
    let pools = if plan.context == StartMethod::Fork { 1 } else { rng.usize(1..=2) };
    let stations: Vec<Station> = (0..pools).filter_map(|_| Station::build(&round, rng)).collect();
    let callers: Vec<fastrand::Rng> = (0..rng.usize(1..=4)).map(|_| rng.fork()).collect();
    let injector = rng.fork();
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch.run());
        let injecting = scope.spawn(|| round.faults.run(injector));
        std::thread::scope(|scope| {
            for rng in callers {
                scope.spawn(|| call(Caller::new(&round, rng), &stations));
            }
        });
        let on_the_way = watch.begin(u64::MAX, "end of the round's pools".to_owned());
        drop(stations);
        drop(on_the_way);
        round.faults.finish();
        injecting.thread().unpark();
        watch.finish();
        watching.thread().unpark();
    });
}

fn call(mut caller: Caller<'_>, stations: &[Station]) {
    if std::panic::catch_unwind(AssertUnwindSafe(|| caller.run(stations))).is_err() {
        broken("a caller panics");
    }
}

/// What a program holds when nothing is going on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    /// Children and theirs, with their states.
    processes: Vec<String>,
    temporary_files: usize,
    shared_memory: usize,
}

impl Holdings {
    fn now() -> Holdings {
        let children = procfs::children(std::process::id());
        let grandchildren = children.iter().flat_map(|child| procfs::children(child.pid));
        let mut processes: Vec<String> = children
            .iter()
            .cloned()
            .chain(grandchildren)
            .map(|seen| {
                let end = if seen.is_alive() { "" } else { ", not collected" };
                format!("{}{end}", seen.name)
            })
            .collect();
        processes.sort_unstable();
        let shared = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten();
        Holdings {
            descriptors: procfs::count("/proc/self/fd"),
            threads: procfs::count("/proc/self/task"),
            processes,
            temporary_files: std::fs::read_dir(std::env::temp_dir()).map_or(0, Iterator::count),
            // The directory belongs to everybody.
            shared_memory: shared
                .filter(|entry| entry.file_name().to_string_lossy().contains("ipc-channel"))
                .count(),
        }
    }
}

/// Waits until nothing is left of a round. What is held with so many fork servers stays the same.
fn settle(context: StartMethod, known: &mut HashMap<usize, Holdings>) {
    let start = Instant::now();
    // A killed fork server that nobody asks is not missed: ask each.
    let contexts: &[StartMethod] = match context {
        StartMethod::Spawn => &[StartMethod::Forkserver, StartMethod::Spawn],
        _ => &[StartMethod::Forkserver],
    };
    loop {
        // Starting a process makes the fork server that there is to be, and collects those that
        // ended.
        for context in contexts {
            let child = Process::new(mix, 7).start_method(*context).start();
            match child.and_then(Child::join) {
                Ok(value) if value == mix(7) => {}
                other => broken(&format!("a process between rounds gives {other:?}")),
            }
        }
        let now = Holdings::now();
        let are_fork_servers = now.processes.iter().all(|name| name == "forkserver");
        // What is counted one after another belongs together only where nothing changes meanwhile.
        if are_fork_servers && now == Holdings::now() {
            let before = known.entry(now.processes.len()).or_insert_with(|| now.clone());
            // A thread that was joined is counted for a moment longer: the first time may be such.
            before.threads = before.threads.min(now.threads);
            if *before == now {
                return;
            }
        }
        if start.elapsed() > PATIENCE {
            let before = known.get(&now.processes.len());
            broken(&format!("held after a round: {now:?}; before: {before:?}"));
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// What the program has allocated and not freed, in KiB.
///
/// What it has resident tells less: an allocator keeps for later what it was given back, here as
/// much as the largest calls of each thread took.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "only C's allocator knows it")]
fn own_memory() -> Option<u64> {
    // SAFETY: it adds up what the allocator has noted, under its locks.
    let allocated = unsafe { nix::libc::mallinfo2() };
    Some((allocated.uordblks + allocated.hblkhd) as u64 >> 10)
}

#[cfg(not(target_env = "gnu"))]
fn own_memory() -> Option<u64> {
    None
}
