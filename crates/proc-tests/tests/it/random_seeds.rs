//! Each process draws random numbers of its own.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};

use nix::sys::signal::Signal;
use proc_core::{Child, Pool, Process, StartMethod};

use crate::support::{Arguments, run, signal_self};

programs![draw_everywhere, draw_in_preload];

tests! {
    each_process_has_a_seed_of_its_own: forkserver spawn;
    workers_have_the_seed_that_preload_has_drawn: forkserver spawn fork;
}

/// Hashes of one value by many states.
///
/// The states of a thread differ by one from each other. So two processes with the same seed have
/// hashes in common, even if one of them has made more states before.
fn draw(_: ()) -> Vec<u64> {
    (0..64).map(|_| RandomState::new().hash_one(7)).collect()
}

fn draw_in_thread(_: ()) -> Vec<u64> {
    std::thread::spawn(|| draw(())).join().expect("it does not panic")
}

/// Draws in every kind of process. No two processes may have a hash in common.
fn draw_everywhere(arguments: &Arguments) {
    let start_method = arguments.start_method;
    let mut drawn: Vec<(&str, Vec<u64>)> = Vec::new();
    for _ in 0..3 {
        let child = Process::new(draw, ()).start_method(start_method).start();
        drawn.push(("process", child.and_then(Child::join).expect("it returns")));
    }
    let nested = |()| {
        let child = Process::new(draw, ()).start().and_then(Child::join).expect("it returns");
        (draw(()), child)
    };
    for _ in 0..2 {
        let child = Process::new(nested, ()).start_method(start_method).start();
        let (outer, inner) = child.and_then(Child::join).expect("it returns");
        drawn.extend([("outer", outer), ("inner", inner)]);
    }
    let builder = || Pool::builder().processes(1).start_method(start_method);
    // Each task has a worker of its own.
    let pool = builder().max_tasks_per_child(1).build().expect("it can be built");
    let draws = pool.options().chunksize(1).map(draw, [(); 6]).expect("nothing fails");
    drawn.extend(draws.into_iter().map(|draw| ("worker", draw)));
    // Workers of several pools, one pool after the other.
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
    // The program draws last, because its children must not inherit a seed that was drawn.
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

fn each_process_has_a_seed_of_its_own(start_method: StartMethod) {
    assert_eq!(run(draw_everywhere, start_method, &[]).succeeded(), "29 are apart\n");
}

/// The function of `preload` draws a seed, which all workers of the pool inherit.
fn draw_in_preload(arguments: &Arguments) {
    let builder = arguments.pool_builder(1).preload(|()| drop(draw(())), ());
    let pool = builder.max_tasks_per_child(1).build().expect("it can be built");
    let draws = pool.options().chunksize(1).map(draw, [(); 3]).expect("nothing fails");
    assert_eq!(draws, vec![draws[0].clone(); 3]);
}

fn workers_have_the_seed_that_preload_has_drawn(start_method: StartMethod) {
    run(draw_in_preload, start_method, &[]).succeeded();
}
