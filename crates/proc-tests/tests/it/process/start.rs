//! The start of a process: its name, directory and environment, and what it inherits.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use proc_core::{Child, Pool, Process, StartMethod};

use crate::support::marker_files::MarkerFiles;
use crate::support::{Arguments, Running, assert_snapshot, command, describe, run};

programs![
    process_names,
    environment_at_start,
    override_environment,
    fork_with_threads,
    fork_sees_memory,
    large_environment,
    long_names,
    directory_name_not_utf8,
    start_beside_busy_threads
];

tests! {
    names_are_shown_by_ps: forkserver spawn fork;
    directory_and_environment_are_those_at_the_start: forkserver spawn fork;
    processes_can_have_another_environment: forkserver spawn fork;
    fork_is_refused_with_threads: fork;
    fork_alone_sees_the_callers_memory;
    large_environments_arrive: forkserver spawn fork;
    processes_and_pools_may_have_long_names: forkserver spawn fork;
    directory_name_need_not_be_utf8: forkserver spawn fork;
    processes_start_while_threads_allocate: forkserver spawn;
}

/// What `ps` calls this process.
fn comm(_: ()) -> String {
    std::fs::read_to_string("/proc/self/comm").expect("/proc is mounted").trim_end().to_owned()
}

fn comm_and_pid(_: ()) -> (String, u32) {
    (comm(()), process::id())
}

fn process_names(arguments: &Arguments) {
    let start = |name: Option<&str>| {
        let process = Process::new(comm_and_pid, ()).start_method(arguments.start_method);
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
    let pool =
        proc_core::Pool::builder().processes(1).name("team").start_method(arguments.start_method);
    let pool = pool.build().expect("it can be built");
    println!("{:?}", pool.apply(comm, ()).expect("it returns"));
}

fn names_are_shown_by_ps(start_method: StartMethod) {
    assert_snapshot("names", 1, run(process_names, start_method, &[]).succeeded());
}

/// A process has the working directory and the environment that its parent has at the moment of the
/// start.
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
        let child = Process::new(look, ()).start_method(arguments.start_method).start();
        child.and_then(Child::join).expect("it returns")
    };
    assert_eq!(look(()).2.as_deref(), Some("yes"), "the test sets it");
    let same = |what: &str| {
        assert_eq!(look_in_child(), look(()), "{what}");
        println!("{what}");
    };
    same("at first");
    let marks = MarkerFiles::new();
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
        // SAFETY: the program has one thread and has not made its pool yet.
        Some(value) => unsafe { std::env::set_var(name, value) },
        // SAFETY: as above.
        None => unsafe { std::env::remove_var(name) },
    }
}

fn directory_and_environment_are_those_at_the_start(start_method: StartMethod) {
    let mut command = command(environment_at_start, start_method);
    command.env("PROC_TESTS_INHERITED", "yes");
    assert_eq!(
        Running::start(command).finish().succeeded(),
        "at first\nanother directory\na new variable\none changed, one gone\nand back\na worker\n"
    );
}

fn without_pid(error: proc_core::Error) -> String {
    let text = describe(&error);
    match error.pid() {
        Some(pid) => text.replace(&pid.to_string(), "P"),
        None => text,
    }
}

/// A process can have another environment and directory than its parent.
fn override_environment(arguments: &Arguments) {
    fn look(_: ()) -> (PathBuf, Vec<(String, String)>) {
        let mut variables: Vec<_> = std::env::vars().collect();
        variables.sort();
        (std::env::current_dir().expect("it exists"), variables)
    }
    // A process passes on the environment that it was started with.
    let look_from_below = |()| {
        let below = Process::new(look, ()).start().and_then(Child::join).expect("it returns");
        assert_eq!(below, look(()));
        below
    };
    let process = Process::new(look_from_below, ()).start_method(arguments.start_method);
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

    let marks = MarkerFiles::new();
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

fn processes_can_have_another_environment(start_method: StartMethod) {
    assert_snapshot("overrides", 0, run(override_environment, start_method, &[]).succeeded());
}

/// `Fork` beside another thread.
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

fn fork_is_refused_with_threads(start_method: StartMethod) {
    assert_snapshot("fork_with_threads", 0, run(fork_with_threads, start_method, &[]).succeeded());
}

/// Only with `Fork` a process sees the caller's memory.
fn fork_sees_memory(arguments: &Arguments) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static MEMORY: AtomicU32 = AtomicU32::new(1);
    print!("unfinished ");
    MEMORY.store(2, Ordering::Relaxed);
    let read = |()| MEMORY.load(Ordering::Relaxed);
    let child = Process::new(read, ()).start_method(arguments.start_method).start();
    println!("process {}", child.and_then(Child::join).expect("it returns"));
    MEMORY.store(3, Ordering::Relaxed);
    let child = Process::new(read, ()).start_method(arguments.start_method).start();
    println!("process {}", child.and_then(Child::join).expect("it returns"));
    let pool = arguments.pool(1);
    MEMORY.store(4, Ordering::Relaxed);
    println!("worker {}", pool.apply(read, ()).expect("it returns"));
    // A worker that replaces another one sees the same memory.
    let die = |()| -> () { process::exit(1) };
    assert!(pool.apply(die, ()).expect_err("it exits").is_death());
    println!("next worker {}", pool.apply(read, ()).expect("it returns"));
}

fn fork_alone_sees_the_callers_memory() {
    let told = |process_1, process_2, worker| {
        format!(
            "unfinished process {process_1}\nprocess {process_2}\nworker {worker}\n\
             next worker {worker}\n"
        )
    };
    let seen = |start_method| run(fork_sees_memory, start_method, &[]).succeeded().to_owned();
    assert_eq!(seen(StartMethod::Fork), told(2, 3, 3));
    assert_eq!(seen(StartMethod::Forkserver), told(1, 1, 1));
    assert_eq!(seen(StartMethod::Spawn), told(1, 1, 1));
}

fn increment(x: u32) -> u32 {
    x + 1
}

/// The environment is larger than what ipc-channel sends in one piece. With `Forkserver`, it grows
/// after the fork server was made.
fn large_environment(arguments: &Arguments) {
    let variables = (0..10).map(|number| (format!("PROC_TESTS_{number}"), "x".repeat(100_000)));
    for (name, value) in variables {
        set_variable(&name, Some(&value));
    }
    let total = |()| {
        let ours = std::env::vars().filter(|(name, _)| name.starts_with("PROC_TESTS_"));
        ours.map(|(_, value)| value.len()).sum::<usize>()
    };
    let child = Process::new(total, ()).start_method(arguments.start_method).start();
    println!("process {}", child.and_then(Child::join).expect("it returns"));
    println!("pool {}", arguments.pool(1).apply(total, ()).expect("it returns"));
}

fn large_environments_arrive(start_method: StartMethod) {
    let finished = run(large_environment, start_method, &[]);
    assert_eq!(finished.succeeded(), "process 1000000\npool 1000000\n");
}

fn long_names(arguments: &Arguments) {
    let name = "x".repeat(1_000_000);
    let process =
        Process::new(increment, 41).start_method(arguments.start_method).name(name.clone());
    let child = process.start().expect("it can be started");
    assert_eq!(child.name(), name);
    println!("process {}", child.join().expect("it returns"));
    let pool = Pool::builder().processes(1).start_method(arguments.start_method).name(name).build();
    let result = pool.expect("it can be built").apply(increment, 0);
    println!("pool {}", result.expect("it returns"));
}

fn processes_and_pools_may_have_long_names(start_method: StartMethod) {
    assert_eq!(run(long_names, start_method, &[]).succeeded(), "process 42\npool 1\n");
}

/// The working directory has a name that is not UTF-8.
fn directory_name_not_utf8(arguments: &Arguments) {
    let marks = MarkerFiles::new();
    let directory = marks.path("x").with_file_name(OsStr::from_bytes(b"d\xff\xfe"));
    std::fs::create_dir(&directory).expect("it is new");
    std::env::set_current_dir(&directory).expect("it exists");
    let visit = |mark: String| -> OsString {
        File::create_new(mark).expect("it is new");
        std::env::current_dir().expect("it exists").into_os_string()
    };
    let child = Process::new(visit, "a".to_owned()).start_method(arguments.start_method).start();
    let seen = child.and_then(Child::join).expect("it returns");
    assert_eq!(seen, std::env::current_dir().expect("it exists"));
    assert!(seen.into_vec().ends_with(b"/d\xff\xfe"));
    assert!(directory.join("a").exists());
    let pool = arguments.pool(1);
    pool.apply(visit, "b".to_owned()).expect("it returns");
    assert!(directory.join("b").exists());
    println!("visited");
}

fn directory_name_need_not_be_utf8(start_method: StartMethod) {
    assert_eq!(run(directory_name_not_utf8, start_method, &[]).succeeded(), "visited\n");
}

/// Eight threads allocate memory and take common locks while processes start.
fn start_beside_busy_threads(arguments: &Arguments) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 1..=8_usize {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for size in [thread, 1 << 10, 1 << 18] {
                        drop(std::hint::black_box(vec![0_u8; size]));
                    }
                    let _stdout = std::io::stdout().lock();
                    std::hint::black_box(std::env::var_os("PATH"));
                    std::hint::black_box(std::thread::Builder::new().spawn(|| ()))
                        .expect("there is room for a thread")
                        .join()
                        .expect("it does nothing");
                }
            });
        }
        for number in 0..arguments.number() {
            let work = |number: usize| {
                let text = format!("{:?}{number}", std::env::var_os("HOME"));
                println!("{text}");
                text.len()
            };
            let child = Process::new(work, number).start_method(arguments.start_method).start();
            child.and_then(Child::join).expect("it returns");
        }
        stop.store(true, Ordering::Relaxed);
    });
}

fn processes_start_while_threads_allocate(start_method: StartMethod) {
    const PROCESSES: usize = 1000;
    let finished = run(start_beside_busy_threads, start_method, &[&PROCESSES.to_string()]);
    let expected = (0..PROCESSES).map(|number| format!("None{number}"));
    assert!(finished.succeeded().lines().eq(expected));
}
