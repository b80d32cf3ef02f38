//! The number of workers: after `resize`, after idle timeouts, and after too many deaths.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proc_core::{Error, ErrorKind, Pool, PoolBuilder, StartMethod, current};

use crate::support::descriptors::leave_descriptors;
use crate::support::marker_files::{self, MarkerFiles};
use crate::support::procfs::children;
use crate::support::{
    Arguments, SOON, assert_snapshot, describe, print_results, run, signal_self, wait_until,
    work_forever,
};

programs![
    resize,
    resize_at_an_exit,
    resize_busy,
    resize_under_load,
    resize_refused,
    resize_without_descriptors,
    resize_a_broken_slot,
    idle_workers_leave,
    work_comes_when_workers_leave,
    idle_worker_runs_worker_exit,
    end_without_workers,
    pass_restart_limit,
    no_worker_starts,
    restarts_that_do_not_count,
    slot_stays_empty,
    grow,
    cannot_grow,
    max_tasks_per_child,
    refused_numbers
];

tests! {
    pool_grows_and_shrinks: forkserver spawn fork;
    resize_starts_the_successors_of_workers_that_are_leaving: forkserver spawn fork;
    shrinking_waits_for_tasks: forkserver spawn fork;
    no_result_is_lost_by_resizing: forkserver spawn fork;
    senseless_sizes_are_refused: forkserver spawn fork;
    pool_that_cannot_grow_stays_as_it_was: forkserver spawn fork;
    resize_that_fails_leaves_a_broken_slot_as_it_was: forkserver spawn fork;
    idle_workers_leave_and_come_back: forkserver spawn fork;
    work_that_meets_a_leaving_worker_is_done: forkserver spawn fork;
    idle_worker_that_leaves_runs_worker_exit: forkserver spawn fork;
    pool_ends_without_workers: forkserver spawn fork;
    too_many_deaths_end_the_pool: forkserver spawn fork;
    every_call_reports_that_no_worker_starts: forkserver spawn fork;
    restart_limit_counts_only_deaths: forkserver spawn fork;
    slot_that_could_not_be_filled_is_tried_again: forkserver spawn fork;
    worker_is_replaced_after_max_tasks_per_child: forkserver spawn fork;
    refused_numbers_start_nothing: forkserver spawn;
    worker_that_has_grown_is_replaced: forkserver spawn fork;
    limit_of_memory_that_cannot_be_kept_is_an_error: forkserver spawn fork;
}

fn build(builder: PoolBuilder) -> Pool {
    builder.build().expect("it can be built")
}

fn same(x: u32) -> u32 {
    x
}

/// Makes its marker file, and waits for the other one.
fn meet((mine, other): (PathBuf, PathBuf)) -> u32 {
    marker_files::create(&mine);
    marker_files::wait_for(&other);
    std::process::id()
}

/// Waits until the pool has this number of workers.
fn wait_for_workers(pool: &Pool, count: usize) {
    wait_until(|| pool.worker_pids().len() == count);
}

/// A pool grows and shrinks, and has the new number of workers each time.
fn resize(arguments: &Arguments) {
    let pool = build(arguments.pool_builder(1));
    for size in [1, 4, 2, 6, 1, 3] {
        pool.resize(size).expect("the number is good");
        assert_eq!(pool.processes(), size);
        assert!(pool.worker_pids().len() >= size);
        // All tasks must run at the same time, or none would return.
        let marks = MarkerFiles::new();
        let all: Vec<PathBuf> = (0..size).map(|i| marks.path(&i.to_string())).collect();
        let inputs = (0..size).map(|i| (i, all.clone()));
        let meet_all = |(mine, all): (usize, Vec<PathBuf>)| {
            marker_files::create(&all[mine]);
            all.iter().for_each(|mark| marker_files::wait_for(mark));
            std::process::id()
        };
        let mut pids = pool.options().chunksize(1).map(meet_all, inputs).expect("nothing fails");
        wait_for_workers(&pool, size);
        pids.sort_unstable();
        pids.dedup();
        println!("{size}: {} workers", pids.len());
    }
}

fn pool_grows_and_shrinks(start_method: StartMethod) {
    let expected = [1, 4, 2, 6, 1, 3].map(|size| format!("{size}: {size} workers\n")).concat();
    assert_eq!(run(resize, start_method, &[]).succeeded(), expected);
}

/// A pool grows again at the moment when a worker has left.
fn resize_at_an_exit(arguments: &Arguments) {
    let pool = build(arguments.pool_builder(2));
    for _ in 0..50 {
        pool.resize(1).expect("the number is good");
        while pool.worker_pids().len() == 2 {} // without a pause, to see the exit at once
        pool.resize(2).expect("the number is good");
        assert_eq!(pool.worker_pids().len(), 2, "all new workers are started");
    }
}

fn resize_starts_the_successors_of_workers_that_are_leaving(start_method: StartMethod) {
    run(resize_at_an_exit, start_method, &[]).succeeded();
}

/// A pool shrinks while both workers have a task. They finish their tasks, then one leaves.
fn resize_busy(arguments: &Arguments) {
    let pool = build(arguments.pool_builder(2));
    let marks = MarkerFiles::new();
    let go = marks.path("go");
    let begun = [marks.path("a"), marks.path("b")];
    let pairs = begun.clone().map(|mine| (mine, go.clone()));
    let task = pool.options().chunksize(1).map_async(meet, pairs).expect("it is accepted");
    begun.iter().for_each(|mark| marker_files::wait_for(mark));
    pool.resize(1).expect("the number is good");
    println!("processes {}, workers {}", pool.processes(), pool.worker_pids().len());
    marker_files::create(&go);
    println!("results {}", task.get().expect("they are finished").len());
    wait_for_workers(&pool, 1);
    println!("afterwards {:?}", pool.map(same, 0..3).expect("the pool goes on"));
}

fn shrinking_waits_for_tasks(start_method: StartMethod) {
    let expected = "processes 1, workers 2\nresults 2\nafterwards [0, 1, 2]\n";
    assert_eq!(run(resize_busy, start_method, &[]).succeeded(), expected);
}

/// The number of workers changes all the time, and no result is lost.
fn resize_under_load(arguments: &Arguments) {
    let pool = build(arguments.pool_builder(2));
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

fn no_result_is_lost_by_resizing(start_method: StartMethod) {
    assert_eq!(run(resize_under_load, start_method, &[]).succeeded(), "maps 50\n");
}

fn resize_refused(arguments: &Arguments) {
    let pool = build(arguments.pool_builder(2));
    for size in [0, 129, usize::MAX] {
        println!("{}", describe(&pool.resize(size).expect_err("the number is bad")));
    }
    println!("{} {:?}", pool.processes(), pool.map(same, 0..3).expect("the pool goes on"));
    pool.close();
    println!("{}", describe(&pool.resize(1).expect_err("it is closed")));
}

fn senseless_sizes_are_refused(start_method: StartMethod) {
    assert_snapshot("senseless_sizes", 2, run(resize_refused, start_method, &[]).succeeded());
}

/// If a worker cannot be started, the pool keeps its number of workers.
fn resize_without_descriptors(arguments: &Arguments) {
    let pool = build(arguments.pool_builder(2));
    let files = leave_descriptors(20);
    let error = pool.resize(40).expect_err("there are no descriptors");
    drop(files);
    println!("start {}, processes {}", error.kind() == ErrorKind::Start, pool.processes());
    wait_for_workers(&pool, 2);
    println!("{:?}", pool.map(same, 0..3).expect("the pool goes on"));
}

fn pool_that_cannot_grow_stays_as_it_was(start_method: StartMethod) {
    let finished = run(resize_without_descriptors, start_method, &[]);
    assert_eq!(finished.succeeded(), "start true, processes 2\n[0, 1, 2]\n");
}

/// The initializer of worker 1, which fails while there is a file `path`. It adds a byte each time.
fn fails_in_worker_1(path: PathBuf) {
    if current().worker() == Some(1) && fs::exists(&path).expect("it can be asked") {
        let mut file = fs::File::options().append(true).open(&path).expect("it is there");
        file.write_all(b".").expect("there is space");
        panic!("worker 1 does not start");
    }
}

/// One of two workers cannot be started any more, and a `resize` cannot change that.
fn resize_a_broken_slot(arguments: &Arguments) {
    let marks = MarkerFiles::new();
    let path = marks.path("broken");
    let pool = build(arguments.pool_builder(2).initializer(fails_in_worker_1, path.clone()));
    let pids = pool.broadcast(|()| std::process::id(), ()).expect("both run");
    fs::write(&path, "").expect("the directory is there");
    kill(Pid::from_raw(pids[1].cast_signed()), Signal::SIGKILL).expect("it is a worker");
    // Three initializers fail.
    wait_until(|| fs::metadata(&path).is_ok_and(|file| file.len() == 3));
    let files = leave_descriptors(1);
    // Until the last failure is noticed, the slot has a worker, and nothing is to be started.
    wait_until(|| pool.resize(2).is_err());
    drop(files);
    println!("{:?}", pool.broadcast(|()| current().worker(), ()).map_err(|error| describe(&error)));
    println!("{:?}", pool.map(same, 0..3));
}

fn resize_that_fails_leaves_a_broken_slot_as_it_was(start_method: StartMethod) {
    let finished = run(resize_a_broken_slot, start_method, &[]);
    assert_eq!(finished.succeeded(), "Ok([Some(0)])\nOk([0, 1, 2])\n");
}

const PATIENCE: Duration = Duration::from_millis(10);

/// Workers that have nothing to do leave, and as many as needed are started again.
fn idle_workers_leave(arguments: &Arguments) {
    let pool = build(arguments.pool_builder(4).idle_timeout(PATIENCE));
    let marks = MarkerFiles::new();
    for round in 0..3 {
        wait_for_workers(&pool, 0);
        let start = Instant::now();
        pool.apply(same, 1).expect("a worker is started for it");
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
        assert!(pool.worker_pids().len() <= 1, "one was enough for one task");
        let mark = |name: &str| marks.path(&format!("{name}{round}"));
        let both = [(mark("a"), mark("b")), (mark("b"), mark("a"))];
        let pids = pool.options().chunksize(1).map(meet, both).expect("two are started");
        assert_ne!(pids[0], pids[1]);
        assert!(pool.map(same, 0..1000).expect("nothing fails").into_iter().eq(0..1000));
        println!("processes {}", pool.processes());
    }
}

fn idle_workers_leave_and_come_back(start_method: StartMethod) {
    let expected = "processes 4\n".repeat(3);
    assert_eq!(run(idle_workers_leave, start_method, &[]).succeeded(), expected);
}

/// Tasks come just when workers leave, many times.
fn work_comes_when_workers_leave(arguments: &Arguments) {
    for patience in [Duration::ZERO, Duration::from_millis(1)] {
        let pool = build(arguments.pool_builder(2).idle_timeout(patience));
        for round in 0..300 {
            assert_eq!(pool.apply(same, round).expect("nothing fails"), round);
            // Waits between nothing and longer than the idle timeout.
            let until = Instant::now() + Duration::from_micros(u64::from(round) * 10);
            while Instant::now() < until {
                std::hint::spin_loop();
            }
        }
        assert!(pool.map(same, 0..300).expect("nothing fails").into_iter().eq(0..300));
    }
    println!("nothing is lost");
}

fn work_that_meets_a_leaving_worker_is_done(start_method: StartMethod) {
    assert_eq!(
        run(work_comes_when_workers_leave, start_method, &[]).succeeded(),
        "nothing is lost\n"
    );
}

/// A worker that leaves runs `worker_exit`.
fn idle_worker_runs_worker_exit(arguments: &Arguments) {
    let pool = arguments
        .pool_builder(1)
        .idle_timeout(PATIENCE)
        .state(|from: u32| from, 5)
        .worker_exit(|from| println!("bye {from}"))
        .build()
        .expect("it can be built");
    wait_until(|| pool.worker_pids().is_empty());
    // The worker prints this, not the caller: the caller may get the result only after the worker
    // has printed `bye`.
    let count = |from: &mut u32, more: u32| {
        *from += more;
        println!("counted {from}");
    };
    pool.with_state().apply(count, 2).expect("nothing fails");
    wait_until(|| pool.worker_pids().is_empty());
}

fn idle_worker_that_leaves_runs_worker_exit(start_method: StartMethod) {
    let finished = run(idle_worker_runs_worker_exit, start_method, &[]);
    assert_eq!(finished.succeeded(), "bye 5\ncounted 7\nbye 7\n");
}

/// A pool whose workers have left is ended in each way.
fn end_without_workers(arguments: &Arguments) {
    let start_method = match arguments.start_method {
        StartMethod::Fork => None, // one round is enough
        other => Some(other),
    };
    for (round, start_method) in
        [Some(arguments.start_method), start_method, start_method].into_iter().flatten().enumerate()
    {
        let pool =
            build(Pool::builder().processes(2).start_method(start_method).idle_timeout(PATIENCE));
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

fn pool_ends_without_workers(start_method: StartMethod) {
    assert_eq!(run(end_without_workers, start_method, &[]).succeeded(), "close 9\nended\n");
}

/// Every kind of call waits when the pool ends, and its error says why.
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

/// Three deaths where two are allowed end the pool, and every call reports it.
fn pass_restart_limit(arguments: &Arguments) {
    let builder = arguments.pool_builder(1).restart_intensity(2, Duration::from_secs(3600));
    let pool = build(builder);
    let marks = MarkerFiles::new();
    let go = marks.path("go");
    let die = |go: PathBuf| -> u32 {
        marker_files::wait_for(&go);
        signal_self(Signal::SIGKILL);
        0
    };
    // Without the priority, other calls would go before the second death.
    let deaths = pool.options().chunksize(1).priority(1);
    let deaths = deaths.map_async(die, [go.clone(), go.clone(), go.clone()]);
    let deaths = deaths.expect("it is accepted");
    tell_all(&pool, || assert!(marker_files::create(&go)));
    println!("deaths: {}", describe(&deaths.get().expect_err("each died")));
    println!("join: {}", describe(&pool.join().expect_err("it has ended")));
}

fn too_many_deaths_end_the_pool(start_method: StartMethod) {
    assert_snapshot("restart_limit", 1, run(pass_restart_limit, start_method, &[]).succeeded());
}

/// The initializer fails every time. That ends a pool even without `restart_intensity`.
fn no_worker_starts(arguments: &Arguments) {
    let marks = MarkerFiles::new();
    let go = marks.path("go");
    let fail = |go: PathBuf| {
        marker_files::wait_for(&go);
        panic!("no licence");
    };
    let pool = build(arguments.pool_builder(2).initializer(fail, go.clone()));
    tell_all(&pool, || assert!(marker_files::create(&go)));
}

fn every_call_reports_that_no_worker_starts(start_method: StartMethod) {
    assert_snapshot("no_worker", 2, run(no_worker_starts, start_method, &[]).succeeded());
}

/// Workers that the pool ends, replaces or dismisses do not count as restarts.
fn restarts_that_do_not_count(arguments: &Arguments) {
    let builder = arguments
        .pool_builder(2)
        .restart_intensity(0, Duration::from_secs(3600))
        .max_tasks_per_child(1)
        .idle_timeout(PATIENCE);
    let pool = build(builder);
    pool.map(same, 0..10).expect("workers are replaced");
    let forever = |(): ()| work_forever();
    let late = pool.options().timeout(PATIENCE).try_map(forever, [()]);
    assert!(late[0].as_ref().is_err_and(Error::is_timeout), "{late:?}");
    assert!(pool.apply_async(forever, ()).expect("it is accepted").cancel());
    wait_for_workers(&pool, 0);
    pool.resize(3).expect("the number is good");
    pool.resize(1).expect("the number is good");
    println!("{:?}", pool.map(same, 0..3).expect("the pool goes on"));
    let panics = |_: u32| -> u32 { panic!("not a death") };
    print_results(pool.try_map(panics, 0..1));
    let dies = |_: u32| -> u32 { std::process::exit(3) };
    let fates = pool.options().chunksize(1).try_map(dies, 0..2);
    println!("{}", describe(fates[0].as_ref().expect_err("it died")));
    println!("{}", describe(&pool.apply(same, 0).expect_err("the last death was one too many")));
}

fn restart_limit_counts_only_deaths(start_method: StartMethod) {
    let finished = run(restarts_that_do_not_count, start_method, &[]);
    assert_snapshot("only_deaths_count", 3, finished.succeeded());
}

/// For a long time a slot could not be filled. A later call tries again to fill it.
fn slot_stays_empty(arguments: &Arguments) {
    let pool = build(arguments.pool_builder(2));
    pool.map(same, 0..100).expect("nothing fails");
    let die = |(): ()| signal_self(Signal::SIGKILL);
    let files = leave_descriptors(0);
    let before = Instant::now();
    let death = pool.apply(die, ()).expect_err("it kills its worker");
    assert!(death.is_death(), "{}", describe(&death));
    // Nothing shows that the pool has given up a slot. It does so after about a second.
    wait_until(|| before.elapsed() > Duration::from_millis(2500));
    println!("workers {}", pool.worker_pids().len());
    drop(files);
    let marks = MarkerFiles::new();
    let (a, b) = (marks.path("a"), marks.path("b"));
    let both = [(a.clone(), b.clone()), (b, a)];
    let pids = pool.options().chunksize(1).map(meet, both).expect("nothing fails");
    assert_ne!(pids[0], pids[1]);
    // A worker may have done its task before the pool knows its pid.
    wait_for_workers(&pool, 2);
    println!("workers {}", pool.worker_pids().len());
}

fn slot_that_could_not_be_filled_is_tried_again(start_method: StartMethod) {
    assert_eq!(run(slot_stays_empty, start_method, &[]).succeeded(), "workers 1\nworkers 2\n");
}

/// A hundred tasks in a pool of one worker, which is replaced after two tasks.
fn max_tasks_per_child(arguments: &Arguments) {
    let pool = Pool::builder()
        .processes(1)
        .start_method(arguments.start_method)
        .max_tasks_per_child(2)
        .build()
        .expect("the pool can be built");
    let task = |task: u32| (task, std::process::id());
    let results = match arguments.number() {
        0 => pool.map(task, 0..100),
        chunksize => pool.options().chunksize(chunksize).map(task, 0..100),
    };
    let results = results.expect("nothing fails");
    assert!(results.iter().map(|(task, _)| *task).eq(0..100));
    let mut tasks = BTreeMap::<u32, u32>::new();
    for (_, pid) in &results {
        *tasks.entry(*pid).or_default() += 1;
    }
    println!("{} processes", tasks.len());
    println!("at most {} tasks in one", tasks.values().max().expect("there are some"));
}

fn worker_is_replaced_after_max_tasks_per_child(start_method: StartMethod) {
    for chunksize in ["0", "1", "5", "100"] {
        let finished = run(max_tasks_per_child, start_method, &[chunksize]);
        assert_eq!(finished.succeeded(), "50 processes\nat most 2 tasks in one\n", "{chunksize}");
    }
}

/// Numbers with which no pool can be built.
fn refused_numbers(arguments: &Arguments) {
    let build = |processes, tasks: Option<u64>| {
        let builder = Pool::builder().processes(processes).start_method(arguments.start_method);
        let builder = match tasks {
            Some(tasks) => builder.max_tasks_per_child(tasks),
            None => builder,
        };
        println!("{}", describe(&builder.build().expect_err("it is refused")));
    };
    build(0, None);
    build(10_000, None);
    build(usize::MAX, None);
    build(2, Some(0));
    // Nothing was started: the only child is the fork server that `init` has made.
    println!("children {}", children().len());
}

fn refused_numbers_start_nothing(start_method: StartMethod) {
    assert_snapshot("refused_numbers", 0, run(refused_numbers, start_method, &[]).succeeded());
}

/// Leaks memory. Returns the pid of its worker.
fn leak(bytes: usize) -> u32 {
    vec![1_u8; bytes].leak();
    std::process::id()
}

/// Workers that have grown are replaced: after a task, or when they are idle.
fn grow(arguments: &Arguments) {
    const MIB: usize = 1 << 20;
    let pool = build(arguments.pool_builder(1).max_memory_per_child(100 << 20));
    let pids = pool.map(leak, [MIB, 200 * MIB, MIB, 200 * MIB]).expect("nothing fails");
    assert_eq!(pids[0], pids[1]);
    assert!(pids[1] != pids[2] && pids[2] == pids[3], "{pids:?}");
    let grown = pids[3];
    wait_until(|| !pool.worker_pids().contains(&grown));
    // Memory that a task has freed does not count.
    let pids = pool.map(|len: usize| (vec![1_u8; len].len(), std::process::id()), [200 * MIB; 3]);
    let pids: Vec<u32> = pids.expect("nothing fails").into_iter().map(|(_, pid)| pid).collect();
    assert_eq!(pids, [pids[0]; 3]);
}

fn worker_that_has_grown_is_replaced(start_method: StartMethod) {
    run(grow, start_method, &[]).succeeded();
}

/// A limit that no worker can keep, and limits that are senseless.
fn cannot_grow(arguments: &Arguments) {
    let builder = || arguments.pool_builder(2).max_memory_per_child(1);
    for builder in [builder(), builder().initializer(|()| (), ())] {
        let pool = build(builder);
        let error = pool.apply(same, 1).expect_err("each worker has more");
        assert_eq!(error.kind(), ErrorKind::Initializer, "{error}");
        let told = describe(&error);
        assert!(told.contains("max_memory_per_child allows 0 KiB"), "{told}");
        assert!(!told.contains("preload function failed"), "{told}");
        // The pool has ended.
        assert_eq!(pool.join().expect_err("the same").kind(), ErrorKind::Initializer);
    }
    for builder in [Pool::builder().max_memory_per_child(0), Pool::builder().max_pending(0)] {
        let error = builder.build().expect_err("it allows nothing");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}

fn limit_of_memory_that_cannot_be_kept_is_an_error(start_method: StartMethod) {
    run(cannot_grow, start_method, &[]).succeeded();
}
