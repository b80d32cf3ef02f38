//! Tasks that are fetched later: cancelled, awaited, or told to a callback.

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use proc_core::{Pool, Task};

use crate::marks::{self, Marks};
use crate::{Arguments, Scenario, describe, print_fates, work_for_ever};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("callbacks-that-panic", callbacks_that_panic),
    ("cancel-queued", cancel_queued),
    ("cancel-running", cancel_running),
    ("cancel-some", cancel_some),
    ("cancel-done", cancel_done),
    ("cancel-at-start", cancel_at_start),
    ("futures", futures),
];

fn same(x: u32) -> u32 {
    x
}

/// Leaves its mark, and never returns.
fn begin(mark: PathBuf) {
    marks::leave(&mark);
    work_for_ever();
}

/// A task that is known to run.
fn begun(pool: &Pool, mark: PathBuf) -> Task<()> {
    let task = pool.apply_async(begin, mark.clone()).expect("it is accepted");
    marks::wait_for(&mark);
    task
}

/// Every third callback panics; all are called, and everything else goes on.
fn callbacks_that_panic(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let (told, results) = mpsc::channel();
    for x in 0..21 {
        let told = told.clone();
        let task = pool.apply_async(same, x).expect("it is accepted");
        task.on_done(move |result| {
            told.send(result.expect("it returns")).expect("somebody listens");
            assert!(x % 3 != 0, "a callback's own trouble");
        });
    }
    let all = pool.map_async(same, 0..100).expect("it is accepted");
    println!("map {:?}", pool.map(same, 0..4).expect("nothing fails"));
    println!("map_async {}", all.get().expect("nothing fails").len());
    drop(told);
    let mut results: Vec<u32> = results.into_iter().collect();
    results.sort_unstable();
    assert!(results.into_iter().eq(0..21));
    println!("all are called");
}

/// A task that waits behind another never runs.
fn cancel_queued(arguments: &Arguments) {
    let pool = arguments.pool(1);
    let marks = Marks::new();
    let blocker = begun(&pool, marks.path("blocker"));
    let mark = marks.path("queued");
    let queued = pool.apply_async(begin, mark.clone()).expect("it is accepted");
    let many = pool.map_async(begin, vec![mark.clone(); 100]).expect("it is accepted");
    println!("{} {}", queued.cancel(), many.cancel());
    println!("{}", describe(&queued.get().expect_err("it is cancelled")));
    println!("{}", describe(&many.get().expect_err("it is cancelled")));
    assert!(blocker.cancel(), "it runs");
    println!("afterwards {:?}", pool.map(same, 0..3).expect("the worker is replaced"));
    println!("has run {}", mark.exists());
}

/// A task that runs is stopped, its worker replaced, its neighbour untouched.
fn cancel_running(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let marks = Marks::new();
    let go = marks.path("go");
    let neighbour = |(mine, go): (PathBuf, PathBuf)| {
        marks::leave(&mine);
        marks::wait_for(&go);
        std::process::id()
    };
    let mine = marks.path("neighbour");
    let neighbour = pool.apply_async(neighbour, (mine.clone(), go.clone()));
    let neighbour = neighbour.expect("it is accepted");
    marks::wait_for(&mine);
    let before = pool.worker_pids();
    let task = begun(&pool, marks.path("task"));
    println!("{}", task.cancel());
    println!("{}", describe(&task.get().expect_err("it is cancelled")));
    // One that is not there any more, and one that was not there before.
    marks::wait_until(|| {
        let now = pool.worker_pids();
        now.len() == 2 && now != before
    });
    marks::leave(&go);
    let pid = neighbour.get().expect("nothing fails");
    let kept = before.iter().filter(|pid| pool.worker_pids().contains(pid));
    println!("kept {}", kept.eq([&pid]));
    let mut others = before.iter().filter(|other| **other != pid);
    println!("ended {}", others.all(|other| !marks::lives(*other)));
}

/// Part of a call is done, part runs, part waits when it is cancelled.
fn cancel_some(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let marks = Marks::new();
    let mark = marks.path("running");
    let some = |(x, mark): (u32, PathBuf)| {
        if x == 5 {
            begin(mark);
        }
        x
    };
    let inputs = (0..100).map(|x| (x, mark.clone()));
    let task = pool.options().chunksize(1).map_async(some, inputs).expect("it is accepted");
    marks::wait_for(&mark);
    let other = pool.apply_async(same, 7).expect("it is accepted");
    println!("{}", task.cancel());
    println!("{}", task.cancel());
    println!("{}", describe(&task.get().expect_err("it is cancelled")));
    println!("other {}", other.get().expect("nothing fails"));
    print_fates(pool.try_map(same, 0..3));
}

/// A task is cancelled when a worker that is only beginning may have claimed it, at many moments.
fn cancel_at_start(arguments: &Arguments) {
    let pool = Pool::builder().processes(1).start_method(arguments.context).max_tasks_per_child(1);
    let pool = pool.build().expect("it can be built");
    let for_ever = |_: ()| work_for_ever();
    for microseconds in 0..1500 {
        pool.apply(same, 1).expect("its worker does one task and is replaced");
        let task = pool.apply_async(for_ever, ()).expect("it is accepted");
        let due = Instant::now() + Duration::from_micros(microseconds);
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        assert!(task.cancel(), "it never ends by itself");
    }
    println!("afterwards {:?}", pool.map(same, 0..3).expect("there is a worker"));
}

fn cancel_done(arguments: &Arguments) {
    let pool = arguments.pool(1);
    let before = pool.worker_pids();
    let mut task = pool.apply_async(same, 7).expect("it is accepted");
    marks::wait_until(|| task.is_ready());
    println!("fetched {}", task.cancel());
    println!("{}", task.get().expect("it is done"));
    // Nobody has looked for its result, which has come all the same.
    let task = pool.apply_async(same, 8).expect("it is accepted");
    pool.apply(same, 9).expect("it comes after the other");
    println!("unfetched {}", task.cancel());
    println!("{}", task.get().expect("it is done"));
    println!("same worker {}", pool.worker_pids() == before);
}

/// Tasks are awaited under the executor that is named.
fn futures(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let marks = Marks::new();
    match arguments.word() {
        "bare" => pollster::block_on(await_all(&pool, &marks)),
        "current-thread" => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let runtime = runtime.expect("it can be built");
            runtime.block_on(await_all(&pool, &marks));
            runtime.block_on(give_up_waiting(&pool, &marks));
        }
        "multi-thread" => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_time()
                .build()
                .expect("it can be built");
            runtime.block_on(await_all(&pool, &marks));
            runtime.block_on(give_up_waiting(&pool, &marks));
            runtime.block_on(await_elsewhere(&pool));
        }
        other => panic!("no executor: {other}"),
    }
    println!("{:?}", pool.map(same, 0..3).expect("the pool goes on"));
}

async fn await_all(pool: &Pool, marks: &Marks) {
    let tasks: Vec<_> =
        (0..100).map(|x| pool.apply_async(same, x).expect("it is accepted")).collect();
    // Dropped at once: it disturbs nobody.
    drop(pool.apply_async(same, 1).expect("it is accepted"));
    let running = begun(pool, marks.path("running"));
    let mut sum = 0;
    for task in tasks {
        sum += task.await.expect("it returns");
    }
    println!("sum {sum}");
    let all = pool.map_async(same, 0..1000).expect("it is accepted").await;
    println!("all {}", all.expect("nothing fails").len());
    let panics = |x: u32| -> u32 { panic!("{x} is too much") };
    let panicked = pool.apply_async(panics, 3).expect("it is accepted").await;
    println!("{}", describe(&panicked.expect_err("it panics")));
    assert!(running.cancel(), "it runs");
    println!("{}", describe(&running.await.expect_err("it is cancelled")));
}

/// A future that is dropped while somebody waits for it.
async fn give_up_waiting(pool: &Pool, marks: &Marks) {
    let mark = marks.path("given up");
    let go = marks.path("go");
    let meet = |(mine, go): (PathBuf, PathBuf)| {
        marks::leave(&mine);
        marks::wait_for(&go);
        marks::leave(&go.with_extension("end"));
    };
    let task = pool.apply_async(meet, (mark.clone(), go.clone())).expect("it is accepted");
    marks::wait_for(&mark);
    let waited = tokio::time::timeout(Duration::from_millis(5), task).await;
    println!("given up {}", waited.is_err());
    marks::leave(&go);
    // It goes on to its end, with nobody to tell.
    marks::wait_for(&go.with_extension("end"));
}

/// Tasks move to threads of the runtime, and are awaited by several at a time.
async fn await_elsewhere(pool: &Pool) {
    let spawned: Vec<_> =
        (0..20).map(|x| tokio::spawn(pool.apply_async(same, x).expect("it is accepted"))).collect();
    let mut results = Vec::new();
    for task in spawned {
        results.push(task.await.expect("it does not panic").expect("it returns"));
    }
    assert!(results.into_iter().eq(0..20));
    println!("elsewhere");
}
