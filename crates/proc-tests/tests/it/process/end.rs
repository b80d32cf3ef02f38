//! The end of a process: how it is reported, awaited, and caused.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use proc_core::{Child, ErrorKind, Process, StartMethod};

use crate::support::marker_files::{self, MarkerFiles};
use crate::support::odd_value::{Odd, UNREADABLE, UNWRITABLE};
use crate::support::{
    Arguments, assert_snapshot, describe, run, signal_self, wait_until, work_forever,
};

programs![
    end_in_every_way,
    join_with_timeout,
    send_signals,
    stop_children,
    drop_child,
    kill_with_large_values
];

tests! {
    every_way_to_end_is_reported: forkserver spawn fork;
    join_timeout_leaves_the_child_running: forkserver spawn fork;
    signals_end_a_child: forkserver spawn fork;
    stop_terminates_and_then_kills: forkserver spawn fork;
    dropped_child_goes_on: forkserver spawn fork;
    large_values_of_killed_processes_block_nobody: forkserver spawn fork;
}

/// Processes end in every way. Prints their exit status and their result or error.
fn end_in_every_way(arguments: &Arguments) {
    fn end(how: String) -> String {
        match how.as_str() {
            "returns" => {}
            "panics" => panic!("told to"),
            "exits 0" => process::exit(0),
            "exits 7" => process::exit(7),
            "exits 300" => process::exit(300),
            "aborts" => process::abort(),
            "SIGTERM" => signal_self(Signal::SIGTERM),
            "SIGKILL" => signal_self(Signal::SIGKILL),
            "SIGINT" => signal_self(Signal::SIGINT),
            "SIGUSR1" => signal_self(Signal::SIGUSR1),
            other => panic!("no such end: {other}"),
        }
        how
    }
    let ways = "returns,panics,exits 0,exits 7,exits 300,aborts,SIGTERM,SIGKILL,SIGINT,SIGUSR1";
    for way in ways.split(',') {
        let process =
            Process::new(end, way.to_owned()).start_method(arguments.start_method).name("ender");
        let mut child = process.start().expect("it can be started");
        wait_until(|| !child.is_alive());
        let status = child.exit_status().expect("it has ended");
        assert!(!child.is_alive(), "it stays so");
        assert_eq!(child.exit_status(), Some(status), "it stays so");
        // To signal a process that has ended is no error.
        child.terminate().and_then(|()| child.kill()).expect("nothing is done");
        let pid = child.pid();
        let joined = match child.join() {
            Ok(value) => value,
            Err(error) => {
                assert_eq!(error.pid(), Some(pid));
                describe(&error)
                    .replace(&format!("pid={pid}"), "pid=P")
                    .replace(&format!("pid {pid}"), "pid P")
            }
        };
        println!("{way}: {:?} {:?}: {joined}", status.code(), status.signal());
    }
    for (name, odd) in [("unreadable argument", UNREADABLE), ("unwritable argument", UNWRITABLE)] {
        let child =
            Process::new(|odd: Odd| odd.0, Odd(odd)).start_method(arguments.start_method).start();
        println!("{name}: {}", without_pid(child.and_then(Child::join).expect_err("it fails")));
    }
    for (name, odd) in [("unreadable result", UNREADABLE), ("unwritable result", UNWRITABLE)] {
        let child = Process::new(Odd, odd).start_method(arguments.start_method).start();
        let error = child.and_then(Child::join).map(|odd| odd.0).expect_err("it fails");
        println!("{name}: {}", without_pid(error));
    }
}

fn without_pid(error: proc_core::Error) -> String {
    let text = describe(&error);
    match error.pid() {
        Some(pid) => text.replace(&pid.to_string(), "P"),
        None => text,
    }
}

fn every_way_to_end_is_reported(start_method: StartMethod) {
    let finished = run(end_in_every_way, start_method, &[]);
    assert!(finished.status.success(), "{}", finished.stderr);
    assert_snapshot("ends", 0, &finished.stdout);
    // The one panic is printed, as in a program of its own.
    assert_eq!(finished.stderr.matches("panicked at").count(), 1, "{}", finished.stderr);
}

/// `join_timeout` returns `None` for a child that has not ended, however often it is called.
fn join_with_timeout(arguments: &Arguments) {
    let marks = MarkerFiles::new();
    let wait = |mark: PathBuf| {
        marker_files::wait_for(&mark);
        5
    };
    let start =
        || Process::new(wait, marks.path("go")).start_method(arguments.start_method).start();
    let (mut child, mut doomed) = (start().expect("it starts"), start().expect("it starts"));
    let pid = child.pid();
    for timeout in [0, 1, 50] {
        let begin = Instant::now();
        let timeout = Duration::from_millis(timeout);
        assert_eq!(child.join_timeout(timeout).expect("it runs"), None, "it waits for the mark");
        assert!(begin.elapsed() >= timeout);
        assert_eq!(child.pid(), pid);
        assert!(child.is_alive());
        assert_eq!(child.exit_status(), None);
    }
    assert_eq!(doomed.join_timeout(Duration::from_millis(1)).expect("it runs"), None);
    doomed.kill().expect("it is alive");
    let killed = doomed.join_timeout(Duration::MAX);
    println!("{}", without_pid(killed.expect_err("it was killed")));
    marker_files::create(&marks.path("go"));
    println!("{:?}", child.join_timeout(Duration::from_secs(3600)).expect("it returns"));
    for mut taken in [child, doomed] {
        let again = taken.join_timeout(Duration::ZERO).expect_err("it was given");
        assert_eq!(again.kind(), ErrorKind::Invalid, "{again}");
        let again = taken.join().expect_err("it was given");
        println!("{}", without_pid(again));
    }
}

fn join_timeout_leaves_the_child_running(start_method: StartMethod) {
    assert_snapshot("join_timeout", 0, run(join_with_timeout, start_method, &[]).succeeded());
}

fn send_signals(arguments: &Arguments) {
    let marks = MarkerFiles::new();
    let start = || {
        Process::new(|()| work_forever(), ())
            .start_method(arguments.start_method)
            .name("worker bee")
            .start()
    };
    let mut child = start().expect("it can be started");
    assert!(child.is_alive());
    assert_eq!(child.exit_status(), None);
    child.terminate().expect("it is alive");
    println!("{}", without_pid(child.join().expect_err("it was terminated")));
    let child = start().expect("it can be started");
    child.kill().expect("it is alive");
    println!("{}", without_pid(child.join().expect_err("it was killed")));
    // A child that blocks SIGTERM.
    let deaf = |(deaf, go): (PathBuf, PathBuf)| {
        nix::sys::signal::SigSet::all().thread_block().expect("signals can be blocked");
        marker_files::create(&deaf);
        marker_files::wait_for(&go);
        3
    };
    let process = Process::new(deaf, (marks.path("deaf"), marks.path("go")));
    let mut child =
        process.start_method(arguments.start_method).start().expect("it can be started");
    marker_files::wait_for(&marks.path("deaf"));
    child.terminate().expect("it is alive");
    assert!(child.is_alive());
    marker_files::create(&marks.path("go"));
    println!("{:?}", child.join().expect("it returns"));
}

fn signals_end_a_child(start_method: StartMethod) {
    assert_snapshot("signals", 0, run(send_signals, start_method, &[]).succeeded());
}

/// Stops a child that ends in its own way, one that blocks SIGTERM, one that does nothing, and one
/// that has ended.
fn stop_children(arguments: &Arguments) {
    let marks = MarkerFiles::new();
    let polite =
        Process::new(obey, marks.path("polite")).start_method(arguments.start_method).start();
    let polite = polite.expect("it can be started");
    marker_files::wait_for(&marks.path("polite"));
    println!("polite: {:?}", polite.stop(Duration::MAX).expect("it returns"));
    let deaf = |mark: PathBuf| {
        nix::sys::signal::SigSet::all().thread_block().expect("signals can be blocked");
        marker_files::create(&mark);
        work_forever();
    };
    let deaf = Process::new(deaf, marks.path("deaf")).start_method(arguments.start_method).start();
    let deaf = deaf.expect("it can be started");
    marker_files::wait_for(&marks.path("deaf"));
    let grace = Duration::from_millis(100);
    let begin = Instant::now();
    println!("deaf: {}", without_pid(deaf.stop(grace).expect_err("it is killed")));
    assert!(begin.elapsed() >= grace);
    let simple = Process::new(|()| work_forever(), ()).start_method(arguments.start_method).start();
    let simple = simple.expect("it can be started");
    println!("simple: {}", without_pid(simple.stop(Duration::MAX).expect_err("it is ended")));
    let mut done =
        Process::new(|()| 8, ()).start_method(arguments.start_method).start().expect("it starts");
    wait_until(|| !done.is_alive());
    println!("done: {:?}", done.stop(Duration::ZERO).expect("it has returned"));
}

/// Waits for SIGTERM, then returns.
fn obey(ready: PathBuf) -> u32 {
    let signals: nix::sys::signal::SigSet = [Signal::SIGTERM].into_iter().collect();
    signals.thread_block().expect("signals can be blocked");
    marker_files::create(&ready);
    signals.wait().expect("it is blocked") as u32
}

fn stop_terminates_and_then_kills(start_method: StartMethod) {
    assert_snapshot("stopped", 0, run(stop_children, start_method, &[]).succeeded());
}

/// A child that nobody joins goes on, and leaves no zombie.
fn drop_child(arguments: &Arguments) {
    let marks = MarkerFiles::new();
    let work = |(go, done): (PathBuf, PathBuf)| {
        marker_files::wait_for(&go);
        println!("done");
        marker_files::create(&done);
    };
    let process = Process::new(work, (marks.path("go"), marks.path("done")));
    let child = process.start_method(arguments.start_method).start().expect("it can be started");
    let stat = format!("/proc/{}/stat", child.pid());
    drop(child);
    marker_files::create(&marks.path("go"));
    marker_files::wait_for(&marks.path("done"));
    wait_until(|| !std::fs::exists(&stat).expect("/proc is mounted"));
    // A daemon that never ends is ended with its program.
    let daemon =
        Process::new(|()| work_forever(), ()).daemon(true).start_method(arguments.start_method);
    drop(daemon.start().expect("it can be started"));
    println!("dropped");
}

fn dropped_child_goes_on(start_method: StartMethod) {
    assert_eq!(run(drop_child, start_method, &[]).succeeded(), "done\ndropped\n");
}

/// Processes with large arguments and results are killed.
fn kill_with_large_values(arguments: &Arguments) {
    use serde_bytes::ByteBuf;
    const LARGE: usize = 8 << 20;
    let large = |byte| ByteBuf::from(vec![byte; LARGE]);
    let children: Vec<_> = (0..10)
        .map(|byte| {
            let work = |bytes: ByteBuf| {
                if bytes[0] == 3 {
                    signal_self(Signal::SIGKILL);
                }
                let _ = std::io::stdout().flush();
                ByteBuf::from(vec![bytes[0] + 100; LARGE])
            };
            Process::new(work, large(byte))
                .start_method(arguments.start_method)
                .start()
                .expect("it starts")
        })
        .collect();
    for (child, byte) in children.into_iter().zip(0..) {
        match child.join() {
            Ok(bytes) => assert!(byte != 3 && bytes == vec![byte + 100; LARGE]),
            Err(error) => println!("{byte}: {}", without_pid(error)),
        }
    }
    // A process is killed at many moments of sending its result.
    for round in 0..20 {
        let work = |round: u64| ByteBuf::from(vec![1; (round as usize) << 20]);
        let child = Process::new(work, round).start_method(arguments.start_method).start();
        let child = child.expect("it can be started");
        std::thread::sleep(Duration::from_micros(100 * round)); // another moment in each round
        child.kill().expect("it may be alive");
        match child.join() {
            Ok(bytes) => assert!(bytes == vec![1; (round as usize) << 20]),
            Err(error) => assert!(error.is_death(), "{error}"),
        }
    }
    println!("joined");
}

fn large_values_of_killed_processes_block_nobody(start_method: StartMethod) {
    assert_snapshot(
        "large_and_killed",
        0,
        run(kill_with_large_values, start_method, &[]).succeeded(),
    );
}
