//! Workers are killed at random moments: each task has its result or one death, and none is lost.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{SigEvent, SigevNotify, Signal, kill};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use nix::unistd::Pid;
use proc_core::StartMethod;

use crate::support::{Arguments, describe, run};

programs![kill_from_a_thread, kill_by_timer];

tests! {
    each_task_of_killed_workers_has_one_result_or_error: forkserver spawn fork;
    killed_worker_leaves_no_caller_asleep: forkserver spawn fork;
}

/// The same random numbers in each run. The moments of the kills differ all the same.
const SEED: u64 = 4;

/// A thread kills a worker every few hundred microseconds, until there were enough tasks and kills.
fn kill_from_a_thread(arguments: &Arguments) {
    const TASKS: u32 = 20_000;
    const KILLS: u32 = 100;
    let pool = arguments.pool(2);
    let options = match arguments.word() {
        "default" => pool.options(),
        _ => pool.options().chunksize(arguments.number()),
    };
    // The worker of the last result. It was ready, so the pool does not give up its slot.
    let (worker, kills, over) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
    let mut deaths = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut dice = fastrand::Rng::with_seed(SEED);
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_micros(dice.u64(..500)));
                let pid = worker.swap(0, Ordering::Relaxed);
                if pid != 0 && kill(Pid::from_raw(pid as i32), Signal::SIGKILL).is_ok() {
                    kills.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let enough = |task: &u32| *task < TASKS || kills.load(Ordering::Relaxed) < KILLS;
        let task = |task: u32| (3 * task + 1, std::process::id());
        let results = options.imap(task, (0..).take_while(enough));
        for (task, result) in (0..).zip(results) {
            match result {
                Ok((value, pid)) => {
                    assert_eq!(value, 3 * task + 1);
                    worker.store(pid, Ordering::Relaxed);
                }
                Err(error) => {
                    let told = describe(&error);
                    assert!(error.is_death() && error.task() == Some(task as usize), "{told}");
                    deaths += 1;
                }
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    let kills = kills.into_inner();
    assert!(deaths <= kills, "{deaths} tasks failed of {kills} kills");
    println!("at least {KILLS} kills, no more deaths");
}

fn each_task_of_killed_workers_has_one_result_or_error(start_method: StartMethod) {
    for chunksize in ["1", "3", "default"] {
        let finished = run(kill_from_a_thread, start_method, &[chunksize]);
        assert_eq!(finished.succeeded(), "at least 100 kills, no more deaths\n", "{chunksize}");
    }
}

/// In each round one task sets a timer that kills its worker within some microseconds: in that task
/// or the next one, while it hands over a result, looks for work or sleeps.
///
/// No thread looks for results on its own, so a lost message about a finished ticket stops the
/// test.
fn kill_by_timer(arguments: &Arguments) {
    const ROUNDS: u32 = 300;
    const TASKS: u32 = 6;
    let pool = arguments.pool(2);
    let mut dice = fastrand::Rng::with_seed(SEED);
    for round in 0..ROUNDS {
        let (sender, results) = mpsc::channel();
        for task in 0..TASKS {
            let life = (task == 0).then(|| Duration::from_nanos(1 + dice.u64(..40_000)));
            let sender = sender.clone();
            pool.apply_async(live_for, (task, life))
                .expect("the pool is open")
                .on_done(move |result| sender.send((task, result)).expect("it is waited for"));
        }
        drop(sender);
        let mut results: Vec<_> = results.iter().collect();
        results.sort_by_key(|(task, _)| *task);
        assert!(results.iter().map(|(task, _)| *task).eq(0..TASKS), "round {round}: {results:?}");
        let failed: Vec<_> = results.iter().filter(|(_, result)| result.is_err()).collect();
        assert!(failed.len() <= 1, "round {round}: {failed:?}");
        for (task, result) in results {
            match result {
                Ok(value) => assert_eq!(value, task + 1, "round {round}"),
                Err(error) => assert!(error.is_death(), "round {round}: {}", describe(&error)),
            }
        }
    }
    println!("{ROUNDS} rounds");
}

/// Returns at once. A timer kills the process after `life`.
fn live_for((task, life): (u32, Option<Duration>)) -> u32 {
    if let Some(life) = life {
        let event =
            SigEvent::new(SigevNotify::SigevSignal { signal: Signal::SIGKILL, si_value: 0 });
        let mut timer = Timer::new(ClockId::CLOCK_MONOTONIC, event).expect("there is a timer");
        timer
            .set(Expiration::OneShot(life.into()), TimerSetTimeFlags::empty())
            .expect("it can be set");
        std::mem::forget(timer); // dropped, it would not fire
    }
    task + 1
}

fn killed_worker_leaves_no_caller_asleep(start_method: StartMethod) {
    assert_eq!(run(kill_by_timer, start_method, &[]).succeeded(), "300 rounds\n");
}
