//! The end of a program, and of a process: it waits for children, at most half a second for
//! daemons, and for no task.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use proc_core::{Pool, Process, StartMethod};

use crate::support::marker_files::{self, MarkerFiles};
use crate::support::{Arguments, Finished, Program, SOON, run, start, wait_until, work_forever};

programs![
    end_with_children,
    end_with_a_stuck_child,
    end_with_daemons,
    end_with_grandchildren,
    worker_ends_with_a_child,
    return_with_a_static_pool,
    exit_with_a_pool,
    panic_with_a_pool
];

tests! {
    end_of_main_waits_for_children: forkserver spawn fork;
    interrupt_ends_the_waiting: forkserver spawn fork;
    killed_program_waits_for_nobody: forkserver spawn fork;
    daemons_are_told_to_end: forkserver spawn fork;
    process_waits_for_its_own_children: forkserver spawn fork;
    worker_waits_for_nobody: forkserver spawn fork;
    program_with_a_pool_in_a_static_ends_at_once: forkserver spawn fork;
    exit_ends_everything: forkserver spawn fork;
    panic_ends_everything: forkserver spawn fork;
}

thread_local! {
    /// Makes a marker file when the main thread's destructors run: after `main`, before exit
    /// handlers.
    static LAST: std::cell::RefCell<Option<Last>> = const { std::cell::RefCell::new(None) };
}

struct Last(PathBuf);

impl Drop for Last {
    fn drop(&mut self) {
        marker_files::create(&self.0);
    }
}

/// Returns the marker file that is made at the end of `main`. The last process that uses it removes
/// it.
fn mark_the_end() -> PathBuf {
    let mark = std::env::temp_dir().join("main is over");
    LAST.set(Some(Last(mark.clone())));
    mark
}

/// Outlives `main` for so long that a program that does not wait is noticed.
fn outlive(mark: &Path) {
    marker_files::wait_for(mark);
    std::thread::sleep(Duration::from_millis(200)); // makes the process live longer than `main`
}

/// The program ends in the way that is named, with children that nobody joins.
fn end_with_children(arguments: &Arguments) {
    let mark = mark_the_end();
    // With `Fork`, the fork server of this child is a copy of this process. It must not delay the
    // end of other processes.
    let done = Process::new(|()| (), ()).start_method(arguments.start_method).start();
    let mut done = done.expect("it can be started");
    wait_until(|| !done.is_alive());
    std::mem::forget(done);
    let work = |(mark, other): (PathBuf, Option<PathBuf>)| {
        outlive(&mark);
        match other {
            Some(other) => marker_files::wait_for(&other),
            None => return assert!(marker_files::create(&mark.with_extension("1"))),
        }
        println!("both children are done");
        for mark in [&mark, &mark.with_extension("1")] {
            std::fs::remove_file(mark).expect("it is there");
        }
    };
    let first = Process::new(work, (mark.clone(), None)).start_method(arguments.start_method);
    drop(first.start().expect("it can be started"));
    let other = Some(mark.with_extension("1"));
    let second = Process::new(work, (mark, other)).start_method(arguments.start_method);
    std::mem::forget(second.start().expect("it can be started"));
    println!("main ends");
    match arguments.word() {
        "returns" => {}
        "exits" => std::process::exit(3),
        "exits in a thread" => {
            // If another thread calls `exit`, the main thread's destructors do not run.
            let last = LAST.take();
            let thread = std::thread::spawn(|| {
                drop(last);
                std::process::exit(3)
            });
            thread.join().expect("it does not panic")
        }
        "panics" => panic!("told to"),
        other => panic!("no such end: {other}"),
    }
}

fn end_of_main_waits_for_children(start_method: StartMethod) {
    for (way, code) in [("returns", 0), ("exits", 3), ("exits in a thread", 3), ("panics", 101)] {
        let finished = run(end_with_children, start_method, &[way]);
        assert_eq!(finished.stdout, "main ends\nboth children are done\n", "{way}");
        assert_eq!(finished.status.code(), Some(code), "{way}: {}", finished.status);
        let panics = finished.stderr.matches("panicked at").count();
        assert_eq!(panics, usize::from(way == "panics"), "{}", finished.stderr);
    }
}

/// The program waits at its end for a child that never ends.
fn end_with_a_stuck_child(arguments: &Arguments) {
    let work = |mark: PathBuf| {
        marker_files::wait_for(&mark);
        std::fs::remove_file(&mark).expect("it is there");
        println!("main is over");
        work_forever();
    };
    let child = Process::new(work, mark_the_end()).start_method(arguments.start_method).start();
    drop(child.expect("it can be started"));
}

fn interrupt_ends_the_waiting(start_method: StartMethod) {
    let mut program = start(end_with_a_stuck_child, start_method, &[]);
    program.lines(1, "main is over");
    program.signal_group(Signal::SIGINT);
    program.finish().was_killed_by(Signal::SIGINT);
}

fn killed_program_waits_for_nobody(start_method: StartMethod) {
    let mut program = start(end_with_a_stuck_child, start_method, &[]);
    program.lines(1, "main is over");
    program.signal(Signal::SIGKILL);
    program.finish().was_killed_by(Signal::SIGKILL);
}

/// A plain daemon, a daemon that ends when it is told to, one that does not, and a child.
fn end_with_daemons(arguments: &Arguments) {
    let mark = mark_the_end();
    let plain =
        Process::new(|()| work_forever(), ()).daemon(true).start_method(arguments.start_method);
    drop(plain.start().expect("it can be started"));
    let polite = |ready: PathBuf| {
        let signals: SigSet = [Signal::SIGTERM].into_iter().collect();
        signals.thread_block().expect("signals can be blocked");
        marker_files::create(&ready);
        signals.wait().expect("it is blocked");
        println!("daemon was told");
        std::fs::remove_file(&ready).expect("it is there");
    };
    let told = mark.with_extension("polite");
    let polite =
        Process::new(polite, told.clone()).daemon(true).start_method(arguments.start_method);
    let polite = polite.start().expect("it can be started");
    marker_files::wait_for(&told);
    match arguments.word() {
        "dropped" => drop(polite),
        "kept" => std::mem::forget(polite),
        other => panic!("no such way: {other}"),
    }
    let deaf = |ready: PathBuf| {
        SigSet::all().thread_block().expect("signals can be blocked");
        marker_files::create(&ready);
        work_forever();
    };
    let ready = mark.with_extension("deaf");
    let deaf = Process::new(deaf, ready.clone()).daemon(true).start_method(arguments.start_method);
    drop(deaf.start().expect("it can be started"));
    marker_files::wait_for(&ready);
    std::fs::remove_file(&ready).expect("it is there");
    let work = |(mark, told): (PathBuf, PathBuf)| {
        outlive(&mark);
        wait_until(|| !told.exists());
        std::fs::remove_file(&mark).expect("it is there");
        println!("child is done");
    };
    let child =
        Process::new(work, (mark, told)).daemon(false).start_method(arguments.start_method).start();
    drop(child.expect("it can be started"));
    println!("main ends");
}

fn daemons_are_told_to_end(start_method: StartMethod) {
    for way in ["dropped", "kept"] {
        let finished = run(end_with_daemons, start_method, &[way]);
        assert_eq!(finished.succeeded(), "main ends\ndaemon was told\nchild is done\n", "{way}");
        // One daemon does not end when it is told to, so it is killed after half a second.
        assert!(finished.took >= Duration::from_millis(500), "{:?}", finished.took);
    }
}

/// A process ends when its own children have, and not before.
fn end_with_grandchildren(arguments: &Arguments) {
    let work = |(start_method, returns): (u8, PathBuf)| {
        let start_method = match start_method {
            0 => StartMethod::Forkserver,
            1 => StartMethod::Spawn,
            _ => StartMethod::Fork,
        };
        let last = |returns: PathBuf| {
            outlive(&returns);
            println!("grandchild is done");
        };
        drop(
            Process::new(last, returns.clone())
                .start_method(start_method)
                .start()
                .expect("it can be started"),
        );
        let daemon = Process::new(|()| work_forever(), ()).daemon(true).start_method(start_method);
        drop(daemon.start().expect("it can be started"));
        println!("child returns");
        marker_files::create(&returns);
    };
    let marks = MarkerFiles::new();
    let start_method = match arguments.start_method {
        StartMethod::Forkserver => 0,
        StartMethod::Spawn => 1,
        StartMethod::Fork => 2,
    };
    let argument = (start_method, marks.path("returns"));
    let child = Process::new(work, argument).start_method(arguments.start_method).start();
    child.and_then(proc_core::Child::join).expect("it returns");
    println!("joined");
}

fn process_waits_for_its_own_children(start_method: StartMethod) {
    let told = "child returns\ngrandchild is done\njoined\n";
    assert_eq!(run(end_with_grandchildren, start_method, &[]).succeeded(), told);
}

/// A worker does not wait for its children, so that the pool can end.
fn worker_ends_with_a_child(arguments: &Arguments) {
    let pool = arguments.pool(1);
    let task = |()| drop(Process::new(|()| work_forever(), ()).start().expect("it starts"));
    pool.apply(task, ()).expect("it returns");
    pool.close();
    pool.join().expect("the worker ends");
    println!("joined");
}

fn worker_waits_for_nobody(start_method: StartMethod) {
    assert_eq!(run(worker_ends_with_a_child, start_method, &[]).succeeded(), "joined\n");
}

/// A pool in a static is never dropped; the program returns from main.
fn return_with_a_static_pool(arguments: &Arguments) {
    static POOL: OnceLock<Pool> = OnceLock::new();
    let pool = POOL.get_or_init(|| arguments.pool(2));
    get_busy(pool, arguments.word() == "busy");
    println!("main returns");
}

/// Waits for the last line, and then for the end.
fn at_once(program: Program, start_method: StartMethod, busy: &str, last: &str) -> Finished {
    let mut program = start(program, start_method, &[busy]);
    program.lines(1, last);
    let said = Instant::now();
    let finished = program.finish();
    assert!(said.elapsed() < SOON, "{:?} after {last}", said.elapsed());
    finished
}

fn program_with_a_pool_in_a_static_ends_at_once(start_method: StartMethod) {
    for busy in ["idle", "busy"] {
        at_once(return_with_a_static_pool, start_method, busy, "main returns").succeeded();
    }
}

/// The program exits in a function while a pool is idle, or while tasks run.
fn exit_with_a_pool(arguments: &Arguments) {
    let pool = arguments.pool(2);
    get_busy(&pool, arguments.word() == "busy");
    let daemon = Process::new(|()| work_forever(), ()).daemon(true).start();
    println!("main exits");
    std::mem::forget(daemon.expect("it can be started"));
    std::process::exit(3);
}

fn exit_ends_everything(start_method: StartMethod) {
    for busy in ["idle", "busy"] {
        let finished = at_once(exit_with_a_pool, start_method, busy, "main exits");
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!(finished.stderr, "");
    }
}

/// The program panics while a pool is idle, or while tasks run. The panic drops the pool.
fn panic_with_a_pool(arguments: &Arguments) {
    let pool = arguments.pool(2);
    get_busy(&pool, arguments.word() == "busy");
    println!("main panics");
    panic!("told to");
}

/// Leaves both workers idle, or in tasks that never end.
fn get_busy(pool: &Pool, busy: bool) {
    pool.map(|x: u32| x, 0..10).expect("nothing fails");
    if busy {
        let marks = MarkerFiles::new();
        for name in ["a", "b"] {
            let task = |mark: PathBuf| {
                marker_files::create(&mark);
                work_forever();
            };
            std::mem::forget(pool.apply_async(task, marks.path(name)).expect("the pool is open"));
        }
        marker_files::wait_for(&marks.path("a"));
        marker_files::wait_for(&marks.path("b"));
    }
}

fn panic_ends_everything(start_method: StartMethod) {
    for busy in ["idle", "busy"] {
        let finished = at_once(panic_with_a_pool, start_method, busy, "main panics");
        assert_eq!(finished.status.code(), Some(101));
        assert_eq!(finished.stderr.matches("panicked at").count(), 1, "{}", finished.stderr);
    }
}
