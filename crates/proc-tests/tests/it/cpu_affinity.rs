//! Processes and workers run where their program runs.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use proc_core::{Child, Limits, Pool, Process, StartMethod};

use crate::support::{Arguments, run, signal_self, wait_until};

programs![change_affinity, change_affinity_in_a_task];

tests! {
    affinity_of_the_program_reaches_processes: forkserver spawn fork;
    affinity_of_the_program_reaches_workers: forkserver spawn fork;
    affinity_set_by_a_task_stays_in_its_worker: forkserver spawn fork;
}

/// The processors on which this process may run.
fn processors(_: ()) -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).expect("it can be asked");
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).expect("it is in range")).collect()
}

fn run_on(processors: &[usize]) {
    let mut set = CpuSet::new();
    processors.iter().for_each(|cpu| set.set(*cpu).expect("it is in range"));
    sched_setaffinity(Pid::from_raw(0), &set).expect("they were allowed before");
}

/// The program chooses other processors after `init`, again and again.
fn change_affinity(arguments: &Arguments) {
    let all = processors(());
    let [first, .., last] = all[..] else { return println!("one processor") };
    let builder = || Pool::builder().processes(1).start_method(arguments.start_method);
    let alone = arguments.rest.first().is_some_and(|word| word == "process");
    // With `Fork` a program can have only one of both pools.
    let earlier = (!alone).then(|| builder().build().expect("it can be built"));
    let preloaded = (!alone && arguments.start_method != proc_core::StartMethod::Fork)
        .then(|| builder().preload(|_: ()| (), ()).build().expect("it can be built"));
    for chosen in [vec![last], vec![first], all.clone()] {
        run_on(&chosen);
        if alone {
            let child = Process::new(processors, ()).start_method(arguments.start_method).start();
            assert_eq!(child.and_then(Child::join).expect("it returns"), chosen);
            let limits = Limits::new().cpus([first]);
            let limited =
                Process::new(processors, ()).limits(limits).start_method(arguments.start_method);
            assert_eq!(limited.start().and_then(Child::join).expect("it returns"), [first]);
        }
        for pool in earlier.iter().chain(&preloaded) {
            let died = pool.apply(|()| signal_self(Signal::SIGKILL), ());
            assert!(died.is_err_and(|error| error.is_death()));
            let seen = pool.apply(processors, ()).expect("nothing fails");
            assert_eq!(seen, chosen, "the worker was started later");
            pool.resize(2).expect("there can be more");
            pool.resize(1).expect("there can be fewer");
            // A worker that is told to leave may still do a task that it has found.
            wait_until(|| pool.worker_pids().len() == 1);
        }
        if !alone && arguments.start_method != proc_core::StartMethod::Fork {
            let later = builder().build().expect("it can be built");
            assert_eq!(later.apply(processors, ()).expect("nothing fails"), chosen);
        }
    }
    println!("followed");
}

/// On a machine with one processor there is nothing to choose.
fn expect_followed(start_method: StartMethod, what: &str) {
    let finished = run(change_affinity, start_method, &[what]);
    assert!(["followed\n", "one processor\n"].contains(&finished.succeeded()));
}

fn affinity_of_the_program_reaches_processes(start_method: StartMethod) {
    expect_followed(start_method, "process");
}

fn affinity_of_the_program_reaches_workers(start_method: StartMethod) {
    expect_followed(start_method, "pool");
}

/// A worker that changes its own affinity changes that of no other process.
fn change_affinity_in_a_task(arguments: &Arguments) {
    let all = processors(());
    let pool = arguments.pool(1);
    assert_eq!(pool.apply(processors, ()).expect("nothing fails"), all);
    let narrow = |cpu: usize| {
        run_on(&[cpu]);
        processors(())
    };
    // A task that changes the affinity of its worker changes no other process.
    assert_eq!(pool.apply(narrow, all[0]).expect("nothing fails"), [all[0]]);
    assert_eq!(processors(()), all);
    let died = pool.apply(|()| signal_self(Signal::SIGKILL), ());
    assert!(died.is_err_and(|error| error.is_death()));
    assert_eq!(pool.apply(processors, ()).expect("nothing fails"), all);
    println!("apart");
}

fn affinity_set_by_a_task_stays_in_its_worker(start_method: StartMethod) {
    assert_eq!(run(change_affinity_in_a_task, start_method, &[]).succeeded(), "apart\n");
}
