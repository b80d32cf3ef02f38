//! What becomes of processes when the one that started them comes to its end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use proc_core::{Process, StartMethod};

use crate::marks::{self, Marks};
use crate::{Arguments, Scenario, work_for_ever};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("children-at-the-end", children_at_the_end),
    ("stuck-at-the-end", stuck_at_the_end),
    ("daemons-at-the-end", daemons_at_the_end),
    ("grandchildren", grandchildren),
    ("children-of-workers", children_of_workers),
];

thread_local! {
    /// Leaves a mark when the main thread's destructors run: after `main`, before exit handlers.
    static LAST: std::cell::RefCell<Option<Last>> = const { std::cell::RefCell::new(None) };
}

struct Last(PathBuf);

impl Drop for Last {
    fn drop(&mut self) {
        marks::leave(&self.0);
    }
}

/// The mark that tells of the end of `main`; its directory is removed by whoever sees it last.
fn mark_the_end() -> PathBuf {
    let mark = std::env::temp_dir().join("main is over");
    LAST.set(Some(Last(mark.clone())));
    mark
}

/// Outlives who leaves the mark, for long enough that nobody could think it was not waited for.
fn outlive(mark: &Path) {
    marks::wait_for(mark);
    std::thread::sleep(Duration::from_millis(200)); // not to wait for anything
}

/// The program ends in the way that is named, with children that nobody joins.
fn children_at_the_end(arguments: &Arguments) {
    let mark = mark_the_end();
    // That its fork server is a copy of this process must hold up nobody.
    let done = Process::new(|()| (), ()).start_method(arguments.context).start();
    let mut done = done.expect("it can be started");
    marks::wait_until(|| !done.is_alive());
    std::mem::forget(done);
    let work = |(mark, other): (PathBuf, Option<PathBuf>)| {
        outlive(&mark);
        match other {
            Some(other) => marks::wait_for(&other),
            None => return assert!(marks::leave(&mark.with_extension("1"))),
        }
        println!("both children are done");
        for mark in [&mark, &mark.with_extension("1")] {
            std::fs::remove_file(mark).expect("it is there");
        }
    };
    let first = Process::new(work, (mark.clone(), None)).start_method(arguments.context);
    drop(first.start().expect("it can be started"));
    let other = Some(mark.with_extension("1"));
    let second = Process::new(work, (mark, other)).start_method(arguments.context);
    std::mem::forget(second.start().expect("it can be started"));
    println!("main ends");
    match arguments.word() {
        "returns" => {}
        "exits" => std::process::exit(3),
        "exits in a thread" => {
            // The main thread's destructors do not run where another one exits.
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

/// The program waits at its end for a child that never ends.
fn stuck_at_the_end(arguments: &Arguments) {
    let work = |mark: PathBuf| {
        marks::wait_for(&mark);
        std::fs::remove_file(&mark).expect("it is there");
        println!("main is over");
        work_for_ever();
    };
    let child = Process::new(work, mark_the_end()).start_method(arguments.context).start();
    drop(child.expect("it can be started"));
}

/// Daemons that end when they are told to, in their own way, and one that does not; and a child.
fn daemons_at_the_end(arguments: &Arguments) {
    let mark = mark_the_end();
    let plain = Process::new(|()| work_for_ever(), ()).daemon(true).start_method(arguments.context);
    drop(plain.start().expect("it can be started"));
    let polite = |ready: PathBuf| {
        let signals: SigSet = [Signal::SIGTERM].into_iter().collect();
        signals.thread_block().expect("signals can be blocked");
        marks::leave(&ready);
        signals.wait().expect("it is blocked");
        println!("daemon was told");
        std::fs::remove_file(&ready).expect("it is there");
    };
    let told = mark.with_extension("polite");
    let polite = Process::new(polite, told.clone()).daemon(true).start_method(arguments.context);
    let polite = polite.start().expect("it can be started");
    marks::wait_for(&told);
    match arguments.word() {
        "dropped" => drop(polite),
        "kept" => std::mem::forget(polite),
        other => panic!("no such way: {other}"),
    }
    let deaf = |ready: PathBuf| {
        SigSet::all().thread_block().expect("signals can be blocked");
        marks::leave(&ready);
        work_for_ever();
    };
    let ready = mark.with_extension("deaf");
    let deaf = Process::new(deaf, ready.clone()).daemon(true).start_method(arguments.context);
    drop(deaf.start().expect("it can be started"));
    marks::wait_for(&ready);
    std::fs::remove_file(&ready).expect("it is there");
    let work = |(mark, told): (PathBuf, PathBuf)| {
        outlive(&mark);
        marks::wait_until(|| !told.exists());
        std::fs::remove_file(&mark).expect("it is there");
        println!("child is done");
    };
    let child =
        Process::new(work, (mark, told)).daemon(false).start_method(arguments.context).start();
    drop(child.expect("it can be started"));
    println!("main ends");
}

/// A process ends when its own children have, and not before.
fn grandchildren(arguments: &Arguments) {
    let work = |(context, returns): (u8, PathBuf)| {
        let context = match context {
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
                .start_method(context)
                .start()
                .expect("it can be started"),
        );
        let daemon = Process::new(|()| work_for_ever(), ()).daemon(true).start_method(context);
        drop(daemon.start().expect("it can be started"));
        println!("child returns");
        marks::leave(&returns);
    };
    let marks = Marks::new();
    let context = match arguments.context {
        StartMethod::Forkserver => 0,
        StartMethod::Spawn => 1,
        StartMethod::Fork => 2,
    };
    let argument = (context, marks.path("returns"));
    let child = Process::new(work, argument).start_method(arguments.context).start();
    child.and_then(proc_core::Child::join).expect("it returns");
    println!("joined");
}

/// A worker waits for nobody: the pool can end.
fn children_of_workers(arguments: &Arguments) {
    let pool = arguments.pool(1);
    let task = |()| drop(Process::new(|()| work_for_ever(), ()).start().expect("it starts"));
    pool.apply(task, ()).expect("it returns");
    pool.close();
    pool.join().expect("the worker ends");
    println!("joined");
}
