//! Tasks whose results are fetched later: cancelled, awaited, or given to a callback.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use proc_core::{ErrorKind, Pool, StartMethod, Task};

use crate::support::marker_files::{self, MarkerFiles};
use crate::support::{
    Arguments, assert_snapshot, describe, print_results, procfs, run, wait_until, work_forever,
};

programs![
    fetch_results_later,
    callbacks_that_panic,
    cancel_queued,
    cancel_running,
    cancel_some,
    cancel_at_start,
    cancel_done,
    ask_while_results_arrive,
    await_tasks
];

tests! {
    results_are_fetched_later: forkserver spawn fork;
    callback_that_panics_is_harmless: forkserver spawn fork;
    cancelled_task_that_waits_never_runs: forkserver spawn fork;
    cancelled_task_that_runs_is_stopped: forkserver spawn fork;
    call_is_cancelled_as_a_whole: forkserver spawn fork;
    task_of_a_worker_that_is_only_starting_is_cancelled: forkserver spawn fork;
    task_that_is_done_is_not_cancelled: forkserver spawn fork;
    task_whose_results_keep_arriving_answers_at_once: forkserver spawn fork;
    tasks_are_futures: forkserver spawn fork;
}

/// Asks whether a task is ready while its results arrive faster than they can be taken in.
fn ask_while_results_arrive(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let mut task = pool.map_async(|x: u64| x + 1, 0..1_000_000).expect("the pool is open");
    let mut refusals = 0;
    while !task.is_ready() {
        refusals += 1;
    }
    assert!(refusals > 5, "{refusals}");
    assert_eq!(task.get().expect("nothing fails")[999_999], 1_000_000);
    // A future lets other futures of its thread run: it wakes itself, from within `poll`. If
    // this thread gets little time, each `poll` may find few results. Then another call follows.
    let wakes = Arc::new(Wakes::default());
    for _ in 0..20 {
        await_many_results(&pool, &wakes);
        if wakes.by_itself.load(Ordering::SeqCst) > 0 {
            return;
        }
    }
    panic!("the future never wakes itself");
}

fn await_many_results(pool: &Pool, wakes: &Arc<Wakes>) {
    let waker = Waker::from(Arc::clone(wakes));
    let mut task = pool.map_async(|x: u64| x + 1, 0..1_000_000).expect("the pool is open");
    let result = loop {
        match Pin::new(&mut task).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => break result,
            Poll::Pending => wait_until(|| wakes.any.swap(false, Ordering::SeqCst)),
        }
    };
    assert_eq!(result.expect("nothing fails")[999_999], 1_000_000);
}

/// Notes wakes, and counts those that come from the main thread.
#[derive(Default)]
struct Wakes {
    any: AtomicBool,
    by_itself: AtomicUsize,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        let is_main = std::thread::current().name() == Some("main");
        self.by_itself.fetch_add(usize::from(is_main), Ordering::SeqCst);
        self.any.store(true, Ordering::SeqCst);
    }
}

fn task_whose_results_keep_arriving_answers_at_once(start_method: StartMethod) {
    run(ask_while_results_arrive, start_method, &[]).succeeded();
}

/// Results that are fetched later.
fn fetch_results_later(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let marks = MarkerFiles::new();
    let wait = |mark: PathBuf| {
        marker_files::wait_for(&mark);
        5
    };
    let mut task = pool.apply_async(wait, marks.path("go")).expect("the pool is open");
    assert!(!task.is_ready());
    let start = Instant::now();
    let early = task.get_timeout(Duration::from_millis(50)).expect("it runs");
    assert_eq!(early, None, "it waits for the mark");
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert!(!task.is_ready());
    let mut task = pool.apply_async(wait, marks.path("go")).expect("the pool is open");
    marker_files::create(&marks.path("go"));
    let result = task.get_timeout(Duration::from_secs(30)).expect("it returns");
    println!("{:?}", result.expect("the mark is there"));
    assert!(task.is_ready() && !task.cancel());
    let again = task.get_timeout(Duration::from_secs(30)).expect_err("it was given");
    assert_eq!(again.kind(), ErrorKind::Invalid, "{again}");
    println!("{}", describe(&pollster::block_on(task).expect_err("it was given")));
    let mut task = pool.apply_async(|x: u32| x, 1).expect("the pool is open");
    wait_until(|| task.is_ready());
    println!("{:?}", task.get().expect("it returns"));
    // Nobody waits for these; they run all the same.
    for number in 0..20 {
        let leave = |mark: PathBuf| assert!(marker_files::create(&mark));
        drop(pool.apply_async(leave, marks.path(&number.to_string())).expect("the pool is open"));
    }
    (0..20).for_each(|number| marker_files::wait_for(&marks.path(&number.to_string())));
    let stuck = pool.apply_async(|()| work_forever(), ()).expect("the pool is open");
    drop(pool);
    println!("{}", describe(&stuck.get().expect_err("the pool was dropped")));
}

fn results_are_fetched_later(start_method: StartMethod) {
    assert_snapshot(
        "results_fetched_later",
        2,
        run(fetch_results_later, start_method, &[]).succeeded(),
    );
}

fn same(x: u32) -> u32 {
    x
}

/// Makes its marker file, and never returns.
fn begin(mark: PathBuf) {
    marker_files::create(&mark);
    work_forever();
}

/// A task that is known to run.
fn begun(pool: &Pool, mark: PathBuf) -> Task<()> {
    let task = pool.apply_async(begin, mark.clone()).expect("it is accepted");
    marker_files::wait_for(&mark);
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

fn callback_that_panics_is_harmless(start_method: StartMethod) {
    let finished = run(callbacks_that_panic, start_method, &[]);
    assert!(finished.status.success(), "{}", finished.stderr);
    assert_eq!(finished.stdout, "map [0, 1, 2, 3]\nmap_async 100\nall are called\n");
    let panics = finished.stderr.matches("a callback's own trouble").count();
    assert!((6..=7).contains(&panics), "{}", finished.stderr);
}

/// A task that is cancelled while it waits behind another never runs.
fn cancel_queued(arguments: &Arguments) {
    let pool = arguments.pool(1);
    let marks = MarkerFiles::new();
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

fn cancelled_task_that_waits_never_runs(start_method: StartMethod) {
    assert_snapshot("cancel_queued", 1, run(cancel_queued, start_method, &[]).succeeded());
}

/// A running task is cancelled. Its worker is replaced; the other worker is not.
fn cancel_running(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let marks = MarkerFiles::new();
    let go = marks.path("go");
    let neighbour = |(mine, go): (PathBuf, PathBuf)| {
        marker_files::create(&mine);
        marker_files::wait_for(&go);
        std::process::id()
    };
    let mine = marks.path("neighbour");
    let neighbour = pool.apply_async(neighbour, (mine.clone(), go.clone()));
    let neighbour = neighbour.expect("it is accepted");
    marker_files::wait_for(&mine);
    let before = pool.worker_pids();
    let task = begun(&pool, marks.path("task"));
    println!("{}", task.cancel());
    println!("{}", describe(&task.get().expect_err("it is cancelled")));
    // One worker is gone, and a new one is there.
    wait_until(|| {
        let now = pool.worker_pids();
        now.len() == 2 && now != before
    });
    marker_files::create(&go);
    let pid = neighbour.get().expect("nothing fails");
    let kept = before.iter().filter(|pid| pool.worker_pids().contains(pid));
    println!("kept {}", kept.eq([&pid]));
    let mut others = before.iter().filter(|other| **other != pid);
    println!("ended {}", others.all(|other| !procfs::exists(*other)));
}

fn cancelled_task_that_runs_is_stopped(start_method: StartMethod) {
    assert_snapshot("cancel_running", 2, run(cancel_running, start_method, &[]).succeeded());
}

/// Part of a call is done, part runs, part waits when it is cancelled.
fn cancel_some(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let marks = MarkerFiles::new();
    let mark = marks.path("running");
    let some = |(x, mark): (u32, PathBuf)| {
        if x == 5 {
            begin(mark);
        }
        x
    };
    let inputs = (0..100).map(|x| (x, mark.clone()));
    let task = pool.options().chunksize(1).map_async(some, inputs).expect("it is accepted");
    marker_files::wait_for(&mark);
    let other = pool.apply_async(same, 7).expect("it is accepted");
    println!("{}", task.cancel());
    println!("{}", task.cancel());
    println!("{}", describe(&task.get().expect_err("it is cancelled")));
    println!("other {}", other.get().expect("nothing fails"));
    print_results(pool.try_map(same, 0..3));
}

fn call_is_cancelled_as_a_whole(start_method: StartMethod) {
    assert_snapshot("cancel_some", 2, run(cancel_some, start_method, &[]).succeeded());
}

/// A task is cancelled at many moments of the start of the worker that may have claimed it.
fn cancel_at_start(arguments: &Arguments) {
    let pool =
        Pool::builder().processes(1).start_method(arguments.start_method).max_tasks_per_child(1);
    let pool = pool.build().expect("it can be built");
    let never_returns = |_: ()| work_forever();
    for microseconds in 0..1500 {
        pool.apply(same, 1).expect("its worker does one task and is replaced");
        let task = pool.apply_async(never_returns, ()).expect("it is accepted");
        let due = Instant::now() + Duration::from_micros(microseconds);
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        assert!(task.cancel(), "it never ends by itself");
    }
    println!("afterwards {:?}", pool.map(same, 0..3).expect("there is a worker"));
}

fn task_of_a_worker_that_is_only_starting_is_cancelled(start_method: StartMethod) {
    let finished = run(cancel_at_start, start_method, &[]);
    assert_eq!(finished.succeeded(), "afterwards [0, 1, 2]\n");
}

fn cancel_done(arguments: &Arguments) {
    let pool = arguments.pool(1);
    let before = pool.worker_pids();
    let mut task = pool.apply_async(same, 7).expect("it is accepted");
    wait_until(|| task.is_ready());
    println!("fetched {}", task.cancel());
    println!("{}", task.get().expect("it is done"));
    // Its result has come, but nobody has fetched it.
    let task = pool.apply_async(same, 8).expect("it is accepted");
    pool.apply(same, 9).expect("it comes after the other");
    println!("unfetched {}", task.cancel());
    println!("{}", task.get().expect("it is done"));
    println!("same worker {}", pool.worker_pids() == before);
}

fn task_that_is_done_is_not_cancelled(start_method: StartMethod) {
    let finished = run(cancel_done, start_method, &[]);
    assert_eq!(finished.succeeded(), "fetched false\n7\nunfetched false\n8\nsame worker true\n");
}

/// Tasks are awaited under the async runtime that is named.
fn await_tasks(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let marks = MarkerFiles::new();
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
        other => panic!("no such runtime: {other}"),
    }
    println!("{:?}", pool.map(same, 0..3).expect("the pool goes on"));
}

async fn await_all(pool: &Pool, marks: &MarkerFiles) {
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
async fn give_up_waiting(pool: &Pool, marks: &MarkerFiles) {
    let mark = marks.path("given up");
    let go = marks.path("go");
    let meet = |(mine, go): (PathBuf, PathBuf)| {
        marker_files::create(&mine);
        marker_files::wait_for(&go);
        marker_files::create(&go.with_extension("end"));
    };
    let task = pool.apply_async(meet, (mark.clone(), go.clone())).expect("it is accepted");
    marker_files::wait_for(&mark);
    let waited = tokio::time::timeout(Duration::from_millis(5), task).await;
    println!("given up {}", waited.is_err());
    marker_files::create(&go);
    // The task runs to its end, though nobody waits for it.
    marker_files::wait_for(&go.with_extension("end"));
}

/// Tasks move to threads of the runtime, and several of them are awaited at a time.
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

fn tasks_are_futures(start_method: StartMethod) {
    for executor in ["bare", "current-thread", "multi-thread"] {
        let finished = run(await_tasks, start_method, &[executor]);
        assert_snapshot(&format!("futures_{executor}"), 2, finished.succeeded());
    }
}
