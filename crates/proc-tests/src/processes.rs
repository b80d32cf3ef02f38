//! `Process` and `Child`.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use proc_core::{Child, ErrorKind, Process};

use crate::failures::{Odd, UNREADABLE, UNWRITABLE};
use crate::marks::{self, Marks};
use crate::{Arguments, Scenario, describe, signal_self, work_for_ever};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("names", names),
    ("environment-at-start", environment_at_start),
    ("ends", ends),
    ("join-timeout", join_timeout),
    ("signals", signals),
    ("dropped-child", dropped_child),
    ("stopped", stopped),
    ("overrides", overrides),
    ("fork-with-threads", fork_with_threads),
    ("fork-sees-memory", fork_sees_memory),
    ("large-and-killed", large_and_killed),
];

/// What `ps` calls this process.
fn comm(_: ()) -> String {
    std::fs::read_to_string("/proc/self/comm").expect("/proc is mounted").trim_end().to_owned()
}

fn comm_and_pid(_: ()) -> (String, u32) {
    (comm(()), process::id())
}

fn names(arguments: &Arguments) {
    let start = |name: Option<&str>| {
        let process = Process::new(comm_and_pid, ()).start_method(arguments.context);
        let process = match name {
            Some(name) => process.name(name),
            None => process,
        };
        let child = process.start().expect("it can be started");
        let (name, pid) = (child.name().to_owned(), child.pid());
        let (comm, its_own) = child.join().expect("it returns");
        assert_eq!(pid, its_own);
        println!("{:?}", (name, comm));
    };
    start(None);
    start(Some("even"));
    start(Some("a name that is long for ps"));
    start(Some("zwölf Boxkämpfer"));
    start(Some("with\0nul"));
    start(Some(""));
    start(None);
    let pool = proc_core::Pool::builder().processes(1).name("team").start_method(arguments.context);
    let pool = pool.build().expect("it can be built");
    println!("{:?}", pool.apply(comm, ()).expect("it returns"));
}

/// Working directory and environment are those of the moment in which a process is started.
fn environment_at_start(arguments: &Arguments) {
    type Seen = (PathBuf, Option<String>, Option<String>, usize);
    fn look(_: ()) -> Seen {
        let variable = |name| std::env::var(name).ok();
        (
            std::env::current_dir().expect("it exists"),
            variable("PROC_TESTS_SET"),
            variable("PROC_TESTS_INHERITED"),
            std::env::vars_os().count(),
        )
    }
    let look_in_child = || -> Seen {
        let child = Process::new(look, ()).start_method(arguments.context).start();
        child.and_then(Child::join).expect("it returns")
    };
    assert_eq!(look(()).2.as_deref(), Some("yes"), "the test sets it");
    let same = |what: &str| {
        assert_eq!(look_in_child(), look(()), "{what}");
        println!("{what}");
    };
    same("at first");
    let marks = Marks::new();
    let directory = marks.path("ü directory");
    std::fs::create_dir(&directory).expect("it is new");
    std::env::set_current_dir(&directory).expect("it exists");
    same("another directory");
    set_variable("PROC_TESTS_SET", Some("first"));
    same("a new variable");
    set_variable("PROC_TESTS_SET", Some("second = ü"));
    set_variable("PROC_TESTS_INHERITED", None);
    same("one changed, one gone");
    std::env::set_current_dir("/").expect("it exists");
    set_variable("PROC_TESTS_INHERITED", Some("again"));
    set_variable("PROC_TESTS_SET", None);
    same("and back");

    set_variable("PROC_TESTS_SET", Some("in a worker"));
    let pool = arguments.pool(1);
    assert_eq!(pool.apply(look, ()).expect("it returns"), look(()));
    println!("a worker");
}

#[expect(unsafe_code, reason = "changing the environment needs it")]
fn set_variable(name: &str, value: Option<&str>) {
    match value {
        // SAFETY: the scenario has one thread and has not made its pool yet.
        Some(value) => unsafe { std::env::set_var(name, value) },
        // SAFETY: as above.
        None => unsafe { std::env::remove_var(name) },
    }
}

/// The ways in which a process can end, told as status and as error.
fn ends(arguments: &Arguments) {
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
            Process::new(end, way.to_owned()).start_method(arguments.context).name("ender");
        let mut child = process.start().expect("it can be started");
        marks::wait_until(|| !child.is_alive());
        let status = child.exit_status().expect("it has ended");
        assert!(!child.is_alive(), "it stays so");
        assert_eq!(child.exit_status(), Some(status), "it stays so");
        // To signal what is gone is no error.
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
            Process::new(|odd: Odd| odd.0, Odd(odd)).start_method(arguments.context).start();
        println!("{name}: {}", without_pid(child.and_then(Child::join).expect_err("it fails")));
    }
    for (name, odd) in [("unreadable result", UNREADABLE), ("unwritable result", UNWRITABLE)] {
        let child = Process::new(Odd, odd).start_method(arguments.context).start();
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

/// A child that does not end in time comes back, as often as it is asked.
fn join_timeout(arguments: &Arguments) {
    let marks = Marks::new();
    let wait = |mark: PathBuf| {
        marks::wait_for(&mark);
        5
    };
    let start = || Process::new(wait, marks.path("go")).start_method(arguments.context).start();
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
    marks::leave(&marks.path("go"));
    println!("{:?}", child.join_timeout(Duration::from_secs(3600)).expect("it returns"));
    for mut taken in [child, doomed] {
        let again = taken.join_timeout(Duration::ZERO).expect_err("it was given");
        assert_eq!(again.kind(), ErrorKind::Invalid, "{again}");
        let again = taken.join().expect_err("it was given");
        println!("{}", without_pid(again));
    }
}

fn signals(arguments: &Arguments) {
    let marks = Marks::new();
    let start = || {
        Process::new(|()| work_for_ever(), ())
            .start_method(arguments.context)
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
    // One that refuses SIGTERM.
    let deaf = |(deaf, go): (PathBuf, PathBuf)| {
        nix::sys::signal::SigSet::all().thread_block().expect("signals can be blocked");
        marks::leave(&deaf);
        marks::wait_for(&go);
        3
    };
    let process = Process::new(deaf, (marks.path("deaf"), marks.path("go")));
    let mut child = process.start_method(arguments.context).start().expect("it can be started");
    marks::wait_for(&marks.path("deaf"));
    child.terminate().expect("it is alive");
    assert!(child.is_alive());
    marks::leave(&marks.path("go"));
    println!("{:?}", child.join().expect("it returns"));
}

/// `stop` gives a process that ends, one that finishes when it is told to, and one that refuses.
fn stopped(arguments: &Arguments) {
    let marks = Marks::new();
    let polite = Process::new(obey, marks.path("polite")).start_method(arguments.context).start();
    let polite = polite.expect("it can be started");
    marks::wait_for(&marks.path("polite"));
    println!("polite: {:?}", polite.stop(Duration::MAX).expect("it returns"));
    let deaf = |mark: PathBuf| {
        nix::sys::signal::SigSet::all().thread_block().expect("signals can be blocked");
        marks::leave(&mark);
        work_for_ever();
    };
    let deaf = Process::new(deaf, marks.path("deaf")).start_method(arguments.context).start();
    let deaf = deaf.expect("it can be started");
    marks::wait_for(&marks.path("deaf"));
    let grace = Duration::from_millis(100);
    let begin = Instant::now();
    println!("deaf: {}", without_pid(deaf.stop(grace).expect_err("it is killed")));
    assert!(begin.elapsed() >= grace);
    let simple = Process::new(|()| work_for_ever(), ()).start_method(arguments.context).start();
    let simple = simple.expect("it can be started");
    println!("simple: {}", without_pid(simple.stop(Duration::MAX).expect_err("it is ended")));
    let mut done =
        Process::new(|()| 8, ()).start_method(arguments.context).start().expect("it starts");
    marks::wait_until(|| !done.is_alive());
    println!("done: {:?}", done.stop(Duration::ZERO).expect("it has returned"));
}

/// Waits for SIGTERM, then returns.
fn obey(ready: PathBuf) -> u32 {
    let signals: nix::sys::signal::SigSet = [Signal::SIGTERM].into_iter().collect();
    signals.thread_block().expect("signals can be blocked");
    marks::leave(&ready);
    signals.wait().expect("it is blocked") as u32
}

/// A process can have another environment and directory than its parent.
fn overrides(arguments: &Arguments) {
    fn look(_: ()) -> (PathBuf, Vec<(String, String)>) {
        let mut variables: Vec<_> = std::env::vars().collect();
        variables.sort();
        (std::env::current_dir().expect("it exists"), variables)
    }
    // What it was started with is what it passes on.
    let look_from_below = |()| {
        let below = Process::new(look, ()).start().and_then(Child::join).expect("it returns");
        assert_eq!(below, look(()));
        below
    };
    let process = Process::new(look_from_below, ()).start_method(arguments.context);
    let seen = |process: Process<_, _>| process.start().and_then(Child::join).expect("it returns");
    let (here, inherited) = look(());
    assert_eq!(seen(process.clone()), (here.clone(), inherited.clone()));

    let changed = process.clone().env("A", "1").env("A", "2").env("B", "ü =").env_remove("PATH");
    let mut expected = inherited.clone();
    expected.retain(|(name, _)| name != "PATH");
    expected.extend([("A".into(), "2".into()), ("B".into(), "ü =".into())]);
    expected.sort();
    assert_eq!(seen(changed.clone()), (here.clone(), expected));
    println!("changed");

    let cleared = changed.env_clear().env("C", "").env_remove("D");
    assert_eq!(seen(cleared), (here.clone(), vec![("C".into(), String::new())]));
    println!("cleared");

    let marks = Marks::new();
    let directory = marks.path("below");
    std::fs::create_dir(&directory).expect("it is new");
    std::env::set_current_dir(directory.parent().expect("it has one")).expect("it exists");
    assert_eq!(seen(process.clone().current_dir(&directory)).0, directory);
    assert_eq!(seen(process.clone().current_dir("below")).0, directory);
    assert_eq!(seen(process.clone().current_dir("/")).0, PathBuf::from("/"));
    println!("elsewhere");

    let nowhere = process.clone().current_dir("/nowhere").start().expect("it exists for a moment");
    println!("{}", without_pid(nowhere.join().expect_err("there is no such directory")));
    for (name, value) in [("", "1"), ("A=B", "1"), ("A\0", "1"), ("A", "1\0")] {
        let error = process.clone().env(name, value).start().expect_err("it is refused");
        println!("{}", describe(&error));
    }
    println!("{}", describe(&process.env_remove("=").start().expect_err("it is refused")));
}

/// A child that nobody joins goes on, and leaves no zombie.
fn dropped_child(arguments: &Arguments) {
    let marks = Marks::new();
    let work = |(go, done): (PathBuf, PathBuf)| {
        marks::wait_for(&go);
        println!("done");
        marks::leave(&done);
    };
    let process = Process::new(work, (marks.path("go"), marks.path("done")));
    let child = process.start_method(arguments.context).start().expect("it can be started");
    let stat = format!("/proc/{}/stat", child.pid());
    drop(child);
    marks::leave(&marks.path("go"));
    marks::wait_for(&marks.path("done"));
    marks::wait_until(|| !std::fs::exists(&stat).expect("/proc is mounted"));
    // A daemon that never ends goes with its program.
    let daemon =
        Process::new(|()| work_for_ever(), ()).daemon(true).start_method(arguments.context);
    drop(daemon.start().expect("it can be started"));
    println!("dropped");
}

/// The context is Fork, and there is another thread.
fn fork_with_threads(_: &Arguments) {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || stopped.recv());
    let process = Process::new(comm, ()).start_method(proc_core::StartMethod::Fork);
    println!("{}", describe(&process.start().expect_err("it is refused")));
    let pool =
        proc_core::Pool::builder().processes(2).start_method(proc_core::StartMethod::Fork).build();
    println!("{}", describe(&pool.expect_err("it is refused")));
    drop(stop);
    assert!(thread.join().expect("it does not panic").is_err());
}

/// What the caller had in memory is there, only with Fork.
fn fork_sees_memory(arguments: &Arguments) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static MEMORY: AtomicU32 = AtomicU32::new(1);
    print!("unfinished ");
    MEMORY.store(2, Ordering::Relaxed);
    let read = |()| MEMORY.load(Ordering::Relaxed);
    let child = Process::new(read, ()).start_method(arguments.context).start();
    println!("process {}", child.and_then(Child::join).expect("it returns"));
    MEMORY.store(3, Ordering::Relaxed);
    let child = Process::new(read, ()).start_method(arguments.context).start();
    println!("process {}", child.and_then(Child::join).expect("it returns"));
    let pool = arguments.pool(1);
    MEMORY.store(4, Ordering::Relaxed);
    println!("worker {}", pool.apply(read, ()).expect("it returns"));
    // A worker that takes another's place sees what the first one saw.
    let die = |()| -> () { process::exit(1) };
    assert!(pool.apply(die, ()).expect_err("it exits").is_death());
    println!("next worker {}", pool.apply(read, ()).expect("it returns"));
}

/// Large arguments of processes that never look at them, and large results that nobody waits for.
fn large_and_killed(arguments: &Arguments) {
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
                .start_method(arguments.context)
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
    // Killed at any moment of sending its result.
    for round in 0..20 {
        let work = |round: u64| ByteBuf::from(vec![1; (round as usize) << 20]);
        let child = Process::new(work, round).start_method(arguments.context).start();
        let child = child.expect("it can be started");
        std::thread::sleep(Duration::from_micros(100 * round)); // not to wait for anything
        child.kill().expect("it may be alive");
        match child.join() {
            Ok(bytes) => assert!(bytes == vec![1; (round as usize) << 20]),
            Err(error) => assert!(error.is_death(), "{error}"),
        }
    }
    println!("joined");
}
