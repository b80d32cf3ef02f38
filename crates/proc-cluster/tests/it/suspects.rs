//! Suspects: work of machines that may be lost. A task that takes machines down fails alone, and
//! costs three machines at most.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{self, LEASE, Server, begun, mark, marks, wait_for_workers, wait_until};

/// Task 17 kills the machine on which it runs: the agent, its fork server and all workers.
fn poison(directory: &str, task: u32) -> u32 {
    if task == 17 {
        mark(directory, &format!("poisoned-{}", std::process::id()));
        nix::sys::signal::killpg(nix::unistd::getpgrp(), Signal::SIGKILL).expect("it is ours");
    }
    task
}

#[test]
fn a_task_that_kills_machines_fails_alone() {
    kill_machines_with_one_of(40, 10);
}

#[test]
fn a_task_in_a_long_chunk_that_kills_machines_fails_alone() {
    kill_machines_with_one_of(5000, 5000);
}

fn kill_machines_with_one_of(tasks: u32, chunksize: usize) {
    let Some(server) = Server::start() else { return };
    let directory = marks(&server);
    let (cluster, mut agents) = server.fleet(1);
    let options = cluster.options().chunksize(chunksize);
    let mut fates = Vec::new();
    std::thread::scope(|scope| {
        let map = scope.spawn(|| {
            options
                .with(directory.clone())
                .try_map(|directory, task| poison(directory, task), 0..tasks)
        });
        // Like a process supervisor, this starts another machine for each that was killed.
        while !map.is_finished() {
            let fallen = || begun(&directory) == agents.len();
            wait_until("it fell, or all is done", || fallen() || map.is_finished());
            agents.push(server.agent(2));
        }
        fates = map.join().expect("it does not panic");
    });
    for (task, fate) in (0..tasks).zip(&fates) {
        match fate {
            Ok(value) => assert_eq!(*value, task),
            Err(error) => {
                assert!(error.is_death() && task == 17, "{task}: {error}");
                assert!(error.to_string().contains("3 machines in turn"), "{error}");
            }
        }
    }
    assert!(fates[17].is_err());
    assert!(begun(&directory) <= 3, "it killed {} machines", begun(&directory));
}

/// Kills the machine on which it runs after `delay`, unless that is a safe one. There it waits for
/// the file `word`.
fn poison_elsewhere((directory, delay): (String, Duration)) -> u32 {
    if std::env::var_os("SAFE").is_none() {
        std::thread::sleep(delay);
        mark(&directory, &format!("fell-{}", std::process::id()));
        nix::sys::signal::killpg(nix::unistd::getpgrp(), Signal::SIGKILL).expect("it is ours");
    }
    mark(&directory, "alone");
    support::wait_until("it may end", || fs::exists(format!("{directory}/word")).expect("a file"));
    17
}

#[test]
fn a_machine_that_runs_a_suspect_alone_takes_no_other_work() {
    takes_no_other_work_beside_a_suspect(LEASE, Duration::ZERO);
}

/// An agent sends heartbeats every 500 ms and renews a lease of 1200 ms every 400 ms. So the work
/// of a machine that falls after 550 ms is redelivered when the machine has been silent for
/// 1100 ms. That is too short for the driver to know that the machine is lost.
#[test]
fn a_machine_that_was_heard_just_before_its_work_is_redelivered_counts_as_lost() {
    let lease = Duration::from_millis(1200);
    takes_no_other_work_beside_a_suspect(lease, Duration::from_millis(550));
}

/// Two machines fall after `delay`. Then the third runs the suspect, and nothing beside it.
fn takes_no_other_work_beside_a_suspect(lease: Duration, delay: Duration) {
    let Some(server) = Server::start() else { return };
    let directory = marks(&server);
    let cluster = server.builder().lease(lease).connect().expect("the server is there");
    let task = (directory.clone(), delay);
    let suspect = cluster.apply_async(poison_elsewhere, task).expect("it is sent");
    for fallen in 1..=2 {
        let _doomed = server.agent(1);
        wait_until("it fell", || begun(&directory) == fallen);
    }
    // The safe machine asks for as many chunks as it has workers.
    let mut safe = server.agent_command(30);
    let _safe = support::Group::start(safe.env("SAFE", "1"));
    wait_until("the suspect runs alone", || begun(&directory) == 3);
    let is_safe = |()| std::env::var_os("SAFE").is_some();
    let innocent = cluster.apply_async(is_safe, ()).expect("it is sent");
    // The safe machine has 29 idle workers. If it took this task, it would run it before the next
    // machine is there.
    let _other = server.agent(1);
    assert!(!innocent.get().expect("it waited for a machine"));
    mark(&directory, "word");
    assert_eq!(suspect.get().expect("it was not lost a third time"), 17);
}

/// Waits for the file `word` on the first machine. On others it waits for a file that nobody makes.
fn ends_on_the_first_machine(directory: String) -> u32 {
    let is_first = std::env::var_os("FIRST").is_some();
    mark(&directory, if is_first { "first" } else { "other" });
    let file = if is_first { "word" } else { "none" };
    let is_there = || fs::exists(format!("{directory}/{file}")).expect("a file");
    support::wait_until("it may end", is_there);
    17
}

/// The first machine stands still until the driver has been told that its work was redelivered. That
/// is not long enough to count as lost. So the result comes while the driver waits until it knows
/// whether a machine was lost. (On a busy machine, the other machine may have the work by then. Its
/// task never ends, so the call needs the first result all the same.)
#[test]
fn the_result_of_a_machine_that_stood_still_is_taken() {
    let Some(server) = Server::start() else { return };
    let directory = marks(&server);
    let cluster = server.builder().lease(Duration::from_millis(300)).connect();
    let cluster = cluster.expect("the server is there");
    let first = support::Group::start(server.agent_command(1).env("FIRST", "1"));
    let task = cluster.apply_async(ends_on_the_first_machine, directory.clone());
    let task = task.expect("it is sent");
    wait_until("it runs", || begun(&directory) == 1);
    let _other = server.agent(1);
    wait_for_workers(&cluster, 2);
    first.signal(Signal::SIGSTOP);
    let is_told = || server.count_messages().0 == 0 || begun(&directory) == 2;
    wait_until("the driver is told that the work was redelivered", is_told);
    mark(&directory, "word");
    first.signal(Signal::SIGCONT);
    assert_eq!(task.get().expect("the first machine has a result"), 17);
}
