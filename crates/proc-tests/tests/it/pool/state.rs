//! Workers' states, and what runs at a worker's end.

use std::cell::Cell;
use std::path::PathBuf;
use std::process;

use proc_core::{Pool, StartMethod};

use crate::support::marker_files::{self, MarkerFiles};
use crate::support::{Arguments, assert_snapshot, describe, print_results, run, signal_self};

programs![
    use_state,
    state_of_a_dead_worker,
    state_fails,
    state_fails_again,
    worker_exit,
    worker_exit_panics,
    state_dropped,
    worker_exit_misplaced
];

tests! {
    tasks_share_the_state_of_their_worker: forkserver spawn fork;
    state_dies_with_its_worker: forkserver spawn fork;
    failing_state_ends_the_pool: forkserver spawn fork;
    state_that_cannot_be_made_again_costs_a_worker: forkserver spawn fork;
    worker_exit_runs_in_workers_that_end_in_order: forkserver spawn fork;
    panic_in_worker_exit_is_harmless: forkserver spawn fork;
    state_is_dropped_in_its_worker: forkserver spawn fork;
    worker_exit_before_state_is_refused: forkserver;
}

/// The sum of this worker's tasks. It holds a closure, so it could not cross.
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

/// Makes the usual calls with state, and calls without. After a panic the state is made anew.
fn use_state(arguments: &Arguments) {
    let pool = arguments.pool_builder(1).state(sum, 100).build().expect("it can be built");
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
        print_results(pool.options().chunksize(chunksize).with_state().try_map(add, [1, 5, 2, 1]));
    }
    let plain = Pool::builder().processes(1).build().expect("it can be built");
    let unit = plain.with_state().map(|(): &mut (), x: u32| x, [7]);
    println!("without a state {:?}", unit.expect("it is ()"));
}

fn tasks_share_the_state_of_their_worker(start_method: StartMethod) {
    assert_snapshot("state", 1, run(use_state, start_method, &[]).succeeded());
}

/// A worker's state dies with it. The next worker makes its state from the same argument.
fn state_of_a_dead_worker(arguments: &Arguments) {
    let pool = arguments.pool_builder(1).state(sum, 100).build().expect("it can be built");
    let deadly = |sum: &mut Sum, x: u32| {
        if x == 2 {
            signal_self(nix::sys::signal::Signal::SIGKILL);
        }
        add(sum, x)
    };
    print_results(pool.options().chunksize(4).with_state().try_map(deadly, [1, 1, 2, 1]));
}

fn state_dies_with_its_worker(start_method: StartMethod) {
    assert_snapshot(
        "state_of_the_dead",
        1,
        run(state_of_a_dead_worker, start_method, &[]).succeeded(),
    );
}

/// A state that cannot be made ends the pool, like an initializer that fails.
fn state_fails(arguments: &Arguments) {
    let make = |code: i32| -> Sum {
        println!("attempt");
        if code == 0 { panic!("no licence") } else { process::exit(code) }
    };
    let code = arguments.number() as i32;
    let pool = arguments.pool_builder(2).state(make, code).build().expect("it is not waited for");
    let error = pool.with_state().map(add, 0..3).expect_err("no worker is ready");
    println!("map: {}", describe(&error));
}

fn failing_state_ends_the_pool(start_method: StartMethod) {
    for code in ["0", "4"] {
        let finished = run(state_fails, start_method, &[code]);
        assert_snapshot(&format!("state_that_fails_{code}"), 2, finished.succeeded());
    }
}

/// A state that cannot be made a second time in the same worker is made in another worker.
fn state_fails_again(arguments: &Arguments) {
    thread_local! {
        static MADE: Cell<u32> = const { Cell::new(0) };
    }
    let make = |from: u32| {
        assert!(MADE.replace(1) == 0, "one a worker");
        sum(from)
    };
    let pool = arguments.pool_builder(1).state(make, 100).build().expect("it can be built");
    let before = pool.apply(|()| process::id(), ()).expect("nothing fails");
    print_results(pool.options().chunksize(9).with_state().try_map(add, [1, 5, 2, 1]));
    let after = pool.apply(|()| process::id(), ()).expect("nothing fails");
    println!("another worker {}", before != after);
}

fn state_that_cannot_be_made_again_costs_a_worker(start_method: StartMethod) {
    assert_snapshot(
        "state_that_fails_again",
        1,
        run(state_fails_again, start_method, &[]).succeeded(),
    );
}

/// Workers end with the pool or after their maximum of tasks. Each prints its state.
fn worker_exit(arguments: &Arguments) {
    let way = arguments.word();
    let mut builder = arguments.pool_builder(1);
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

fn worker_exit_runs_in_workers_that_end_in_order(start_method: StartMethod) {
    let end = |seen: &str| format!("the end of [\"state\"{seen}]. ");
    let all = end(r#", "1", "2", "3", "4", "5""#);
    for way in ["close", "drop", "terminate"] {
        let finished = run(worker_exit, start_method, &[way]);
        assert_eq!(finished.succeeded(), format!("{all}the end of the pool\n"), "{way}");
    }
    let parts = [end(r#", "1", "2""#), end(r#", "3", "4""#), end(r#", "5""#)].concat();
    let finished = run(worker_exit, start_method, &["share"]);
    assert_eq!(finished.succeeded(), format!("{parts}the end of the pool\n"));
}

fn worker_exit_panics(arguments: &Arguments) {
    let pool = arguments
        .pool_builder(1)
        .max_tasks_per_child(1)
        .worker_exit(|()| panic!("at the very end"))
        .build()
        .expect("it can be built");
    println!("{:?}", pool.map(|x: u32| x, 0..3).expect("nothing fails"));
    pool.close();
    pool.join().expect("nothing fails");
}

fn panic_in_worker_exit_is_harmless(start_method: StartMethod) {
    let finished = run(worker_exit_panics, start_method, &[]);
    assert!(finished.status.success(), "{}", finished.stderr);
    assert_eq!(finished.stdout, "[0, 1, 2]\n");
    // The fourth worker has no task when the pool closes, or is not started any more.
    let panics = finished.stderr.matches("at the very end").count();
    assert!((3..=4).contains(&panics), "{}", finished.stderr);
}

/// Without `worker_exit`, a worker drops its state at its end.
fn state_dropped(arguments: &Arguments) {
    struct Mark(PathBuf);
    impl Drop for Mark {
        fn drop(&mut self) {
            assert!(marker_files::create(&self.0), "once");
        }
    }
    let marks = MarkerFiles::new();
    let mark = marks.path("dropped");
    let pool =
        arguments.pool_builder(1).state(Mark, mark.clone()).build().expect("it can be built");
    let told = pool.with_state().apply(|mark: &mut Mark, ()| mark.0.exists(), ());
    println!("dropped {}", told.expect("nothing fails"));
    drop(pool);
    println!("dropped {}", mark.exists());
}

fn state_is_dropped_in_its_worker(start_method: StartMethod) {
    let finished = run(state_dropped, start_method, &[]);
    assert_eq!(finished.succeeded(), "dropped false\ndropped true\n");
}

fn worker_exit_misplaced(arguments: &Arguments) {
    let pool = arguments.pool_builder(1).worker_exit(|()| ()).state(sum, 1).build();
    println!("{}", describe(&pool.expect_err("the function takes another state")));
}

fn worker_exit_before_state_is_refused(start_method: StartMethod) {
    let finished = run(worker_exit_misplaced, start_method, &[]);
    assert_snapshot("worker_exit_misplaced", 1, finished.succeeded());
}
