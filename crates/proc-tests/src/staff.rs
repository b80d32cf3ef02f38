//! Workers' states and ends, and how many there are: what a pool does with its staff.

use std::cell::Cell;
use std::path::PathBuf;
use std::process;

use proc_core::{Pool, PoolBuilder};

use crate::marks::{self, Marks};
use crate::{Arguments, Scenario, describe, print_fates, signal_self};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("state", state),
    ("state-of-a-dead-worker", state_of_a_dead_worker),
    ("state-fails", state_fails),
    ("state-fails-again", state_fails_again),
    ("worker-exit", worker_exit),
    ("worker-exit-panics", worker_exit_panics),
    ("state-dropped", state_dropped),
    ("worker-exit-misplaced", worker_exit_misplaced),
];

/// What this worker's tasks have added up, and since when: not a value that could cross.
struct Sum {
    from: Box<dyn Fn() -> u32>,
    sum: Cell<u32>,
}

fn sum(from: u32) -> Sum {
    Sum { from: Box::new(move || from), sum: Cell::new(from) }
}

fn add(sum: &mut Sum, more: u32) -> u32 {
    sum.sum.set(sum.sum.get() + more);
    assert!(more != 5, "five is too much");
    sum.sum.get() - (sum.from)()
}

fn builder(arguments: &Arguments, processes: usize) -> PoolBuilder {
    Pool::builder().processes(processes).start_method(arguments.context)
}

/// Every call with state, beside calls without; a panic makes the state anew.
fn state(arguments: &Arguments) {
    let pool = builder(arguments, 1).state(sum, 100).build().expect("it can be built");
    let calls = pool.with_state();
    println!("map {:?}", calls.map(add, [1, 2, 3]).expect("nothing fails"));
    println!("apply {:?}", calls.apply(add, 4).expect("nothing fails"));
    println!("without {:?}", pool.map(|x: u32| x + 1, [1, 2]).expect("nothing fails"));
    let task = calls.apply_async(add, 1).expect("it is accepted");
    println!("apply_async {:?}", task.get().expect("nothing fails"));
    let task = calls.map_async(add, [1, 1]).expect("it is accepted");
    println!("map_async {:?}", task.get().expect("nothing fails"));
    let results: Result<Vec<u32>, _> = calls.imap(add, [1, 1]).collect();
    println!("imap {:?}", results.expect("nothing fails"));
    let results: Result<Vec<u32>, _> = calls.imap_unordered(add, [1, 1]).collect();
    println!("imap_unordered {:?}", results.expect("nothing fails"));
    for chunksize in [1, 9] {
        print_fates(pool.options().chunksize(chunksize).with_state().try_map(add, [1, 5, 2, 1]));
    }
    let plain = Pool::builder().processes(1).build().expect("it can be built");
    let unit = plain.with_state().map(|(): &mut (), x: u32| x, [7]);
    println!("without a state {:?}", unit.expect("it is ()"));
}

/// A worker's state dies with it; the next worker's is made from the same argument.
fn state_of_a_dead_worker(arguments: &Arguments) {
    let pool = builder(arguments, 1).state(sum, 100).build().expect("it can be built");
    let deadly = |sum: &mut Sum, x: u32| {
        if x == 2 {
            signal_self(nix::sys::signal::Signal::SIGKILL);
        }
        add(sum, x)
    };
    print_fates(pool.options().chunksize(4).with_state().try_map(deadly, [1, 1, 2, 1]));
}

/// A state that cannot be made is like an initializer that fails.
fn state_fails(arguments: &Arguments) {
    let make = |code: i32| -> Sum {
        println!("attempt");
        if code == 0 { panic!("no licence") } else { process::exit(code) }
    };
    let code = arguments.number() as i32;
    let pool = builder(arguments, 2).state(make, code).build().expect("it is not waited for");
    let error = pool.with_state().map(add, 0..3).expect_err("no worker is ready");
    println!("map: {}", describe(&error));
}

/// A state that cannot be made a second time in the same worker: another worker can.
fn state_fails_again(arguments: &Arguments) {
    thread_local! {
        static MADE: Cell<u32> = const { Cell::new(0) };
    }
    let make = |from: u32| {
        assert!(MADE.replace(1) == 0, "one a worker");
        sum(from)
    };
    let pool = builder(arguments, 1).state(make, 100).build().expect("it can be built");
    let before = pool.apply(|()| process::id(), ()).expect("nothing fails");
    print_fates(pool.options().chunksize(9).with_state().try_map(add, [1, 5, 2, 1]));
    let after = pool.apply(|()| process::id(), ()).expect("nothing fails");
    println!("another worker {}", before != after);
}

/// Workers end because the pool does, or their share is done; each says what it has seen.
fn worker_exit(arguments: &Arguments) {
    let way = arguments.word();
    let mut builder = builder(arguments, 1);
    if way == "share" {
        builder = builder.max_tasks_per_child(2);
    }
    let pool = builder
        .state(|word: String| vec![word], "state".into())
        .worker_exit(|seen| print!("the end of {seen:?}. "))
        .build()
        .expect("it can be built");
    let see = |seen: &mut Vec<String>, x: u32| seen.push(x.to_string());
    pool.with_state().map(see, 1..=5).expect("nothing fails");
    match way {
        "drop" => drop(pool),
        "terminate" => pool.terminate(),
        _ => {
            pool.close();
            pool.join().expect("nothing fails");
        }
    }
    println!("the end of the pool");
}

fn worker_exit_panics(arguments: &Arguments) {
    let pool = builder(arguments, 1)
        .max_tasks_per_child(1)
        .worker_exit(|()| panic!("at the very end"))
        .build()
        .expect("it can be built");
    println!("{:?}", pool.map(|x: u32| x, 0..3).expect("nothing fails"));
    pool.close();
    pool.join().expect("nothing fails");
}

/// Without a function for the end, the state is dropped there.
fn state_dropped(arguments: &Arguments) {
    struct Mark(PathBuf);
    impl Drop for Mark {
        fn drop(&mut self) {
            assert!(marks::leave(&self.0), "once");
        }
    }
    let marks = Marks::new();
    let mark = marks.path("dropped");
    let pool = builder(arguments, 1).state(Mark, mark.clone()).build().expect("it can be built");
    let told = pool.with_state().apply(|mark: &mut Mark, ()| mark.0.exists(), ());
    println!("dropped {}", told.expect("nothing fails"));
    drop(pool);
    println!("dropped {}", mark.exists());
}

fn worker_exit_misplaced(arguments: &Arguments) {
    let pool = builder(arguments, 1).worker_exit(|()| ()).state(sum, 1).build();
    println!("{}", describe(&pool.expect_err("the function takes another state")));
}
