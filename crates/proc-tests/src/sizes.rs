//! How many workers there are: asked for, away for want of work, or dying too often.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use proc_core::{Error, Pool, PoolBuilder, StartMethod};

use crate::hardships::leave_descriptors;
use crate::marks::{self, Marks};
use crate::{Arguments, Scenario, describe, print_fates, signal_self};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("resize", resize),
    ("resize-busy", resize_busy),
    ("resize-under-load", resize_under_load),
    ("resize-refused", resize_refused),
    ("resize-without-descriptors", resize_without_descriptors),
    ("idle", idle),
    ("idle-races", idle_races),
    ("idle-exit", idle_exit),
    ("idle-end", idle_end),
    ("restart-limit", restart_limit),
    ("no-worker", no_worker),
    ("restarts-that-do-not-count", restarts_that_do_not_count),
    ("retired", retired),
];

fn builder(arguments: &Arguments, processes: usize) -> PoolBuilder {
    Pool::builder().processes(processes).start_method(arguments.context)
}

fn build(builder: PoolBuilder) -> Pool {
    builder.build().expect("it can be built")
}

fn same(x: u32) -> u32 {
    x
}

/// Tells that it runs, and waits until it may return.
fn meet((mine, other): (PathBuf, PathBuf)) -> u32 {
    marks::leave(&mine);
    marks::wait_for(&other);
    std::process::id()
}

/// Waits until the pool has so many workers.
fn wait_for_workers(pool: &Pool, count: usize) {
    marks::wait_until(|| pool.worker_pids().len() == count);
}

/// Grows and shrinks; each number of workers is really there.
fn resize(arguments: &Arguments) {
    let pool = build(builder(arguments, 1));
    for size in [1, 4, 2, 6, 1, 3] {
        pool.resize(size).expect("the number is good");
        assert_eq!(pool.processes(), size);
        assert!(pool.worker_pids().len() >= size);
        // All at once, or none would return.
        let marks = Marks::new();
        let all: Vec<PathBuf> = (0..size).map(|i| marks.path(&i.to_string())).collect();
        let inputs = (0..size).map(|i| (i, all.clone()));
        let meet_all = |(mine, all): (usize, Vec<PathBuf>)| {
            marks::leave(&all[mine]);
            all.iter().for_each(|mark| marks::wait_for(mark));
            std::process::id()
        };
        let mut pids = pool.options().chunksize(1).map(meet_all, inputs).expect("nothing fails");
        wait_for_workers(&pool, size);
        pids.sort_unstable();
        pids.dedup();
        println!("{size}: {} workers", pids.len());
    }
}

/// Shrinks while both workers are at a task each: these are finished, then one is too many.
fn resize_busy(arguments: &Arguments) {
    let pool = build(builder(arguments, 2));
    let marks = Marks::new();
    let go = marks.path("go");
    let begun = [marks.path("a"), marks.path("b")];
    let pairs = begun.clone().map(|mine| (mine, go.clone()));
    let task = pool.options().chunksize(1).map_async(meet, pairs).expect("it is accepted");
    begun.iter().for_each(|mark| marks::wait_for(mark));
    pool.resize(1).expect("the number is good");
    println!("processes {}, workers {}", pool.processes(), pool.worker_pids().len());
    marks::leave(&go);
    println!("results {}", task.get().expect("they are finished").len());
    wait_for_workers(&pool, 1);
    println!("afterwards {:?}", pool.map(same, 0..3).expect("the pool goes on"));
}

/// The number changes all the time, and no result is lost.
fn resize_under_load(arguments: &Arguments) {
    let pool = build(builder(arguments, 2));
    let results = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let tasks = (0..50).map(|_| pool.map(same, 0..500));
            tasks.collect::<Result<Vec<_>, Error>>().expect("nothing fails")
        });
        let mut sizes = [5, 1, 3, 2, 8].into_iter().cycle();
        while !load.is_finished() {
            pool.resize(sizes.next().expect("it is endless")).expect("the number is good");
        }
        load.join().expect("it does not panic")
    });
    assert!(results.iter().all(|result| result.iter().copied().eq(0..500)));
    pool.resize(2).expect("the number is good");
    wait_for_workers(&pool, 2);
    println!("maps {}", results.len());
}

fn resize_refused(arguments: &Arguments) {
    let pool = build(builder(arguments, 2));
    for size in [0, 129, usize::MAX] {
        println!("{}", describe(&pool.resize(size).expect_err("the number is bad")));
    }
    println!("{} {:?}", pool.processes(), pool.map(same, 0..3).expect("the pool goes on"));
    pool.close();
    println!("{}", describe(&pool.resize(1).expect_err("it is closed")));
}

/// Where a worker cannot be started the pool stays as it was.
fn resize_without_descriptors(arguments: &Arguments) {
    let pool = build(builder(arguments, 2));
    let files = leave_descriptors(20);
    let error = pool.resize(40).expect_err("there are no descriptors");
    drop(files);
    println!("start {}, processes {}", error.is_start(), pool.processes());
    wait_for_workers(&pool, 2);
    println!("{:?}", pool.map(same, 0..3).expect("the pool goes on"));
}

const PATIENCE: Duration = Duration::from_millis(10);

/// Workers that have nothing to do leave, and as many as are needed come back.
fn idle(arguments: &Arguments) {
    let pool = build(builder(arguments, 4).idle_timeout(PATIENCE));
    let marks = Marks::new();
    for round in 0..3 {
        wait_for_workers(&pool, 0);
        let start = Instant::now();
        pool.apply(same, 1).expect("a worker is started for it");
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert!(pool.worker_pids().len() <= 1, "one was enough for one task");
        let mark = |name: &str| marks.path(&format!("{name}{round}"));
        let both = [(mark("a"), mark("b")), (mark("b"), mark("a"))];
        let pids = pool.options().chunksize(1).map(meet, both).expect("two are started");
        assert_ne!(pids[0], pids[1]);
        assert!(pool.map(same, 0..1000).expect("nothing fails").into_iter().eq(0..1000));
        println!("processes {}", pool.processes());
    }
}

/// Work comes just when workers leave, over and over.
fn idle_races(arguments: &Arguments) {
    for patience in [Duration::ZERO, Duration::from_millis(1)] {
        let pool = build(builder(arguments, 2).idle_timeout(patience));
        for round in 0..300 {
            assert_eq!(pool.apply(same, round).expect("nothing fails"), round);
            // From nothing to the time that a worker waits.
            let until = Instant::now() + Duration::from_micros(u64::from(round) * 10);
            while Instant::now() < until {
                std::hint::spin_loop();
            }
        }
        assert!(pool.map(same, 0..300).expect("nothing fails").into_iter().eq(0..300));
    }
    println!("nothing is lost");
}

/// A worker that leaves ends in order.
fn idle_exit(arguments: &Arguments) {
    let pool = builder(arguments, 1)
        .idle_timeout(PATIENCE)
        .state(|from: u32| from, 5)
        .worker_exit(|from| println!("bye {from}"))
        .build()
        .expect("it can be built");
    marks::wait_until(|| pool.worker_pids().is_empty());
    // Said by the worker, as what it says at its end: the caller may hear of it later than that.
    let count = |from: &mut u32, more: u32| {
        *from += more;
        println!("counted {from}");
    };
    pool.with_state().apply(count, 2).expect("nothing fails");
    marks::wait_until(|| pool.worker_pids().is_empty());
}

/// A pool whose workers have left is ended in each way.
fn idle_end(arguments: &Arguments) {
    let context = match arguments.context {
        StartMethod::Fork => None, // the threads of the first pool would be in the way
        other => Some(other),
    };
    for (round, context) in
        [Some(arguments.context), context, context].into_iter().flatten().enumerate()
    {
        let pool = build(Pool::builder().processes(2).start_method(context).idle_timeout(PATIENCE));
        wait_for_workers(&pool, 0);
        match round {
            0 => {
                let task = pool.map_async(same, 0..9).expect("it is accepted");
                pool.close();
                pool.join().expect("what was accepted is done");
                println!("close {:?}", task.get().expect("nothing fails").len());
            }
            1 => pool.terminate(),
            _ => drop(pool),
        }
    }
    println!("ended");
}

/// Every kind of call waits when the pool ends, and says why it did.
fn tell_all(pool: &Pool, end: impl FnOnce()) {
    let future = pool.apply_async(same, 1).expect("it is accepted");
    let handle = pool.apply_async(same, 2).expect("it is accepted");
    let many = pool.map_async(same, [3, 4]).expect("it is accepted");
    let callback = pool.apply_async(same, 5).expect("it is accepted");
    let (sender, called) = std::sync::mpsc::channel();
    callback.on_done(move |result| sender.send(result).expect("somebody listens"));
    let tell = |what: &str, result: Result<u32, Error>| {
        println!("{what}: {}", describe(&result.expect_err("there is no worker")));
    };
    std::thread::scope(|scope| {
        let future = scope.spawn(|| pollster::block_on(future));
        let map = scope.spawn(|| pool.map(same, [6, 7]));
        let try_map = scope.spawn(|| pool.try_map(same, [8, 9]));
        let imap = scope.spawn(|| pool.imap(same, 0..).next().expect("it is endless"));
        let apply = scope.spawn(|| pool.apply(same, 10));
        end();
        tell("future", future.join().expect("it does not panic"));
        tell("map", map.join().expect("it does not panic").map(|_| 0));
        for result in try_map.join().expect("it does not panic") {
            tell("try_map", result);
        }
        tell("imap", imap.join().expect("it does not panic"));
        tell("apply", apply.join().expect("it does not panic"));
    });
    tell("apply_async", handle.get());
    tell("map_async", many.get().map(|_| 0));
    tell("callback", called.recv().expect("it is called"));
    tell("afterwards", pool.apply(same, 11));
}

/// Three deaths where two are allowed: the pool ends, and tells everybody.
fn restart_limit(arguments: &Arguments) {
    let builder = builder(arguments, 1).restart_intensity(2, Duration::from_secs(3600));
    let pool = build(builder);
    let marks = Marks::new();
    let go = marks.path("go");
    let die = |go: PathBuf| -> u32 {
        marks::wait_for(&go);
        signal_self(Signal::SIGKILL);
        0
    };
    let deaths = pool.options().chunksize(1).map_async(die, [go.clone(), go.clone(), go.clone()]);
    let deaths = deaths.expect("it is accepted");
    tell_all(&pool, || assert!(marks::leave(&go)));
    println!("deaths: {}", describe(&deaths.get().expect_err("each died")));
    println!("join: {}", describe(&pool.join().expect_err("it has ended")));
}

/// The initializer fails every time: without restart_intensity that ends a pool as well.
fn no_worker(arguments: &Arguments) {
    let marks = Marks::new();
    let go = marks.path("go");
    let fail = |go: PathBuf| {
        marks::wait_for(&go);
        panic!("no licence");
    };
    let pool = build(builder(arguments, 2).initializer(fail, go.clone()));
    tell_all(&pool, || assert!(marks::leave(&go)));
}

/// Workers that are ended, replaced or sent away may be any number.
fn restarts_that_do_not_count(arguments: &Arguments) {
    let builder = builder(arguments, 2)
        .restart_intensity(0, Duration::from_secs(3600))
        .max_tasks_per_child(1)
        .idle_timeout(PATIENCE);
    let pool = build(builder);
    pool.map(same, 0..10).expect("workers are replaced");
    let forever = |(): ()| crate::work_for_ever();
    let late = pool.options().timeout(PATIENCE).try_map(forever, [()]);
    assert!(late[0].as_ref().is_err_and(Error::is_timeout), "{late:?}");
    assert!(pool.apply_async(forever, ()).expect("it is accepted").cancel());
    wait_for_workers(&pool, 0);
    pool.resize(3).expect("the number is good");
    pool.resize(1).expect("the number is good");
    println!("{:?}", pool.map(same, 0..3).expect("the pool goes on"));
    let panics = |_: u32| -> u32 { panic!("not a death") };
    print_fates(pool.try_map(panics, 0..1));
    let dies = |_: u32| -> u32 { std::process::exit(3) };
    let fates = pool.options().chunksize(1).try_map(dies, 0..2);
    println!("{}", describe(fates[0].as_ref().expect_err("it died")));
    println!("{}", describe(&pool.apply(same, 0).expect_err("one was too much")));
}

/// A slot that could not be filled for long is tried again by a later call.
fn retired(arguments: &Arguments) {
    let pool = build(builder(arguments, 2));
    pool.map(same, 0..100).expect("nothing fails");
    let die = |(): ()| signal_self(Signal::SIGKILL);
    let files = leave_descriptors(0);
    let before = Instant::now();
    let death = pool.apply(die, ()).expect_err("it kills its worker");
    assert!(death.is_death(), "{}", describe(&death));
    // What is given up is only known by its time: some more than a second.
    marks::wait_until(|| before.elapsed() > Duration::from_millis(2500));
    println!("workers {}", pool.worker_pids().len());
    drop(files);
    let marks = Marks::new();
    let (a, b) = (marks.path("a"), marks.path("b"));
    let both = [(a.clone(), b.clone()), (b, a)];
    let pids = pool.options().chunksize(1).map(meet, both).expect("nothing fails");
    assert_ne!(pids[0], pids[1]);
    // A worker may have done its task before the pool knows its pid.
    wait_for_workers(&pool, 2);
    println!("workers {}", pool.worker_pids().len());
}
