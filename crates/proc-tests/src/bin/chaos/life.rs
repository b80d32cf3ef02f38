//! A life: rounds of calls under faults in one process. Between two rounds nothing may be left.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use proc_core::sync::{Event, Manager};
use proc_core::{Child, Pool, Process, StartMethod};

use crate::calls::Caller;
use crate::choice::{Choice, Fault};
use crate::faults::{Faults, ForkServers};
use crate::ledger::{FATES, Ledger};
use crate::tasks::mix;
use crate::test_pool::{Round, TestPool};
use crate::watch::{Watch, fail};
use crate::{limits, procfs};

/// The settings of a life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) start_method: StartMethod,
    pub(crate) faults: Choice,
    pub(crate) seed: u64,
    pub(crate) workers: usize,
    pub(crate) tasks: u64,
    pub(crate) time: Duration,
    /// How long a call may take.
    pub(crate) limit: Duration,
}

/// How much more memory a life may use than after its first rounds, in KiB.
const MAX_GROWTH_KIB: u64 = 8 << 10;

/// How long it may take after a round until nothing is left of it.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs rounds, then prints the counts.
pub(crate) fn live(plan: Plan) {
    limits::forbid_panics();
    let start = Instant::now();
    let ledger = Ledger::default();
    let mut rng = fastrand::Rng::with_seed(plan.seed);
    let mut known: HashMap<usize, Holdings> = HashMap::new();
    let mut memory: Option<u64> = None;
    let mut rounds = 0;
    // Make these first, so that the first round does not seem to leave something: the memory of
    // shared objects is kept for later ones, and so is a channel that the first daemon (here the
    // manager) needs.
    if let Err(error) = Event::new().and_then(|_| Manager::new()) {
        fail(&format!("before all faults: {error}"));
    }
    if plan.start_method != StartMethod::Fork {
        start_callbacks(plan.start_method);
    }
    while start.elapsed() < plan.time && ledger.total(FATES) < plan.tasks {
        // After the first kill, fork servers are executed and no longer forked. The first half of a
        // life tests the forked ones.
        let is_past_half = start.elapsed() > plan.time / 2 || ledger.total(FATES) > plan.tasks / 2;
        let is_time = is_past_half && plan.faults.has(Fault::ForkServers);
        let fork_servers = if is_time { ForkServers::Killed } else { ForkServers::Spared };
        let end = Instant::now() + Duration::from_millis(rng.u64(200..2000));
        if limits::is_chosen(plan.faults) && rng.bool() {
            limits::round(&plan, &mut rng, &ledger);
        } else {
            round(&plan, fork_servers, end.min(start + plan.time), &mut rng, &ledger);
        }
        rounds += 1;
        settle(plan.start_method, &mut known);
        let now = own_memory();
        match memory.zip(now) {
            None if rounds > 3 => memory = now,
            Some((before, now)) if now > before + MAX_GROWTH_KIB => {
                fail(&format!("{before} KiB after four rounds, {now} KiB after {rounds}"));
            }
            _ => {}
        }
    }
    ledger.add("rounds", &format!("{:?}", plan.start_method), rounds);
    ledger.print();
}

/// Starts the thread that calls callbacks. It never ends, so it must exist before threads are
/// counted.
fn start_callbacks(start_method: StartMethod) {
    let pool = Pool::builder().processes(1).start_method(start_method).build();
    let task = pool.as_ref().map(|pool| pool.apply_async(mix, 7));
    let (sender, result) = mpsc::channel();
    match task {
        Ok(Ok(task)) => task.on_done(move |result| drop(sender.send(result))),
        other => fail(&format!("before all faults: {other:?}")),
    }
    if !matches!(result.recv(), Ok(Ok(value)) if value == mix(7)) {
        fail("a callback is not called with the result");
    }
}

/// Runs one round.
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
        start_method: plan.start_method,
        workers: plan.workers,
        end,
        tasks: plan.tasks,
    };
    // A pool with `Fork` can be built only while this process has one thread.
    let count = if plan.start_method == StartMethod::Fork { 1 } else { rng.usize(1..=2) };
    let test_pools: Vec<TestPool> =
        (0..count).filter_map(|_| TestPool::build(&round, rng)).collect();
    let callers: Vec<fastrand::Rng> = (0..rng.usize(1..=4)).map(|_| rng.fork()).collect();
    let injector = rng.fork();
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch.run());
        let injecting = scope.spawn(|| round.faults.run(injector));
        std::thread::scope(|scope| {
            for rng in callers {
                scope.spawn(|| call(Caller::new(&round, rng), &test_pools));
            }
        });
        let open_call = watch.begin(u64::MAX, "end of the round's pools".to_owned());
        drop(test_pools);
        drop(open_call);
        round.faults.finish();
        injecting.thread().unpark();
        watch.finish();
        watching.thread().unpark();
    });
}

fn call(mut caller: Caller<'_>, test_pools: &[TestPool]) {
    if std::panic::catch_unwind(AssertUnwindSafe(|| caller.run(test_pools))).is_err() {
        fail("a caller panics");
    }
}

/// What this process holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    /// The names of children and grandchildren, and whether they are reaped.
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
            // All programs share this directory.
            shared_memory: shared
                .filter(|entry| entry.file_name().to_string_lossy().contains("ipc-channel"))
                .count(),
        }
    }
}

/// Waits until nothing is left of a round. `known` has what this process may hold, by the number of
/// its fork servers.
fn settle(start_method: StartMethod, known: &mut HashMap<usize, Holdings>) {
    let start = Instant::now();
    // The library notices the death of a fork server only when it needs the fork server: use each.
    let start_methods: &[StartMethod] = match start_method {
        StartMethod::Spawn => &[StartMethod::Forkserver, StartMethod::Spawn],
        _ => &[StartMethod::Forkserver],
    };
    loop {
        // The start of a process makes a fork server if there is none, and reaps ended ones.
        for start_method in start_methods {
            let child = Process::new(mix, 7).start_method(*start_method).start();
            match child.and_then(Child::join) {
                Ok(value) if value == mix(7) => {}
                other => fail(&format!("a process between rounds gives {other:?}")),
            }
        }
        let now = Holdings::now();
        let are_fork_servers = now.processes.iter().all(|name| name == "forkserver");
        // The counts are not taken at one moment. They are valid if a second look gives the same.
        if are_fork_servers && now == Holdings::now() {
            let before = known.entry(now.processes.len()).or_insert_with(|| now.clone());
            // A joined thread is counted for a moment longer, perhaps in the first count too.
            before.threads = before.threads.min(now.threads);
            if *before == now {
                return;
            }
        }
        if start.elapsed() > SETTLE_TIMEOUT {
            let before = known.get(&now.processes.len());
            fail(&format!("held after a round: {now:?}; before: {before:?}"));
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// How much memory this program has allocated and not freed, in KiB.
///
/// Resident memory tells less: an allocator keeps some of the freed memory.
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
