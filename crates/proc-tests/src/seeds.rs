//! What each process draws for itself, and where it may run.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use proc_core::{Child, Limits, Pool, Process};

use crate::{Arguments, Scenario, signal_self};

pub(crate) const SCENARIOS: &[(&str, Scenario)] =
    &[("seeds", seeds), ("affinity", affinity), ("affinity-of-nobody", affinity_of_nobody)];

/// Hashes of one value by many states.
///
/// States of one thread differ by one from each other, so that processes with the same seed have
/// some in common, also where one has made more of them before.
fn draw(_: ()) -> Vec<u64> {
    (0..64).map(|_| RandomState::new().hash_one(7)).collect()
}

fn draw_in_thread(_: ()) -> Vec<u64> {
    std::thread::spawn(|| draw(())).join().expect("it does not panic")
}

/// Draws in every kind of process; each is to have its own.
fn seeds(arguments: &Arguments) {
    let context = arguments.context;
    let mut drawn: Vec<(&str, Vec<u64>)> = Vec::new();
    for _ in 0..3 {
        let child = Process::new(draw, ()).start_method(context).start();
        drawn.push(("process", child.and_then(Child::join).expect("it returns")));
    }
    let nested = |()| {
        let child = Process::new(draw, ()).start().and_then(Child::join).expect("it returns");
        (draw(()), child)
    };
    for _ in 0..2 {
        let child = Process::new(nested, ()).start_method(context).start();
        let (outer, inner) = child.and_then(Child::join).expect("it returns");
        drawn.extend([("outer", outer), ("inner", inner)]);
    }
    let builder = || Pool::builder().processes(1).start_method(context);
    // Each task has a worker of its own.
    let pool = builder().max_tasks_per_child(1).build().expect("it can be built");
    let draws = pool.options().chunksize(1).map(draw, [(); 6]).expect("nothing fails");
    drawn.extend(draws.into_iter().map(|draw| ("worker", draw)));
    // Workers of one pool at a time.
    let pools: Vec<Pool> = (0..3).map(|_| builder().build().expect("it can be built")).collect();
    for pool in &pools {
        drawn.push(("pool", pool.apply(draw, ()).expect("nothing fails")));
        drawn.push(("thread", pool.apply(draw_in_thread, ()).expect("nothing fails")));
        let died = pool.apply(|()| signal_self(Signal::SIGKILL), ());
        assert!(died.is_err_and(|error| error.is_death()));
        drawn.push(("replacement", pool.apply(draw, ()).expect("nothing fails")));
    }
    let state = builder().state(draw, ()).max_tasks_per_child(1).build().expect("it can be built");
    let of_state = |drawn: &mut Vec<u64>, _: u32| drawn.clone();
    let draws = state.with_state().map(of_state, 0..3).expect("nothing fails");
    drawn.extend(draws.into_iter().map(|draw| ("state", draw)));
    let preloaded = builder().preload(|_: ()| (), ()).max_tasks_per_child(1).build();
    let preloaded = preloaded.expect("it can be built");
    let draws = preloaded.options().chunksize(1).map(draw, [(); 3]).expect("nothing fails");
    drawn.extend(draws.into_iter().map(|draw| ("preloaded", draw)));
    // The program is the last, as it may not have made one before.
    drawn.push(("program", draw(())));
    for (place, (what, mine)) in drawn.iter().enumerate() {
        let mine = BTreeSet::from_iter(mine);
        for (other, theirs) in &drawn[..place] {
            let common = theirs.iter().filter(|hash| mine.contains(hash)).count();
            assert_eq!(common, 0, "{what} and an earlier {other} have the same seed");
        }
    }
    println!("{} are apart", drawn.len());
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
fn affinity(arguments: &Arguments) {
    let all = processors(());
    let [first, .., last] = all[..] else { return println!("one processor") };
    let builder = || Pool::builder().processes(1).start_method(arguments.context);
    let alone = arguments.rest.first().is_some_and(|word| word == "process");
    // With Fork, only one of the two can be.
    let earlier = (!alone).then(|| builder().build().expect("it can be built"));
    let preloaded = (!alone && arguments.context != proc_core::StartMethod::Fork)
        .then(|| builder().preload(|_: ()| (), ()).build().expect("it can be built"));
    for chosen in [vec![last], vec![first], all.clone()] {
        run_on(&chosen);
        if alone {
            let child = Process::new(processors, ()).start_method(arguments.context).start();
            assert_eq!(child.and_then(Child::join).expect("it returns"), chosen);
            let limits = Limits::new().cpus([first]);
            let limited =
                Process::new(processors, ()).limits(limits).start_method(arguments.context);
            assert_eq!(limited.start().and_then(Child::join).expect("it returns"), [first]);
        }
        for pool in earlier.iter().chain(&preloaded) {
            let died = pool.apply(|()| signal_self(Signal::SIGKILL), ());
            assert!(died.is_err_and(|error| error.is_death()));
            let seen = pool.apply(processors, ()).expect("nothing fails");
            assert_eq!(seen, chosen, "the worker was started later");
            pool.resize(2).expect("there can be more");
            pool.resize(1).expect("there can be fewer");
            // One that is dismissed may still take a task that it has found.
            crate::marks::wait_until(|| pool.worker_pids().len() == 1);
        }
        if !alone && arguments.context != proc_core::StartMethod::Fork {
            let later = builder().build().expect("it can be built");
            assert_eq!(later.apply(processors, ()).expect("nothing fails"), chosen);
        }
    }
    println!("followed");
}

/// What was started before keeps what it had.
fn affinity_of_nobody(arguments: &Arguments) {
    let all = processors(());
    let pool = arguments.pool(1);
    assert_eq!(pool.apply(processors, ()).expect("nothing fails"), all);
    let narrow = |cpu: usize| {
        run_on(&[cpu]);
        processors(())
    };
    // A task that chooses for its worker chooses for nobody else.
    assert_eq!(pool.apply(narrow, all[0]).expect("nothing fails"), [all[0]]);
    assert_eq!(processors(()), all);
    let died = pool.apply(|()| signal_self(Signal::SIGKILL), ());
    assert!(died.is_err_and(|error| error.is_death()));
    assert_eq!(pool.apply(processors, ()).expect("nothing fails"), all);
    println!("apart");
}
