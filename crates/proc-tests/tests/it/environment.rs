//! A program in a system that lacks something: it works all the same, or the error says what
//! is missing and what to do.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use proc_core::{Child, Pool, Process, Shared, StartMethod};

use crate::support::{
    Arguments, Finished, Running, assert_fine_or_contains, describe, machine, own_arguments,
    own_file, print_result, raw, run, start_through_env, word,
};

programs![
    use_all,
    change_program_file,
    no_temporary_directory,
    #[without_init]
    hide_directory,
    #[without_init]
    refuse_system_call
];

tests! {
    temporary_directories_are_not_needed: forkserver spawn fork;
    missing_proc_is_named: forkserver spawn fork;
    missing_dev_is_named: forkserver spawn fork;
    refused_memfd_is_named: forkserver spawn fork;
    refused_signalfd_is_no_harm: forkserver spawn fork;
    other_refused_calls_are_named: forkserver spawn fork;
    only_execution_refuses_a_changed_program_file;
    temporary_directory_is_not_needed;
}

fn increment(x: u32) -> u32 {
    x + 1
}

/// A process, a pool, and shared memory.
pub(crate) fn use_all(arguments: &Arguments) {
    let child = Process::new(increment, 41).start_method(arguments.start_method).start();
    print_result("process", child.and_then(Child::join));
    let pool = Pool::builder().processes(2).start_method(arguments.start_method).build();
    print_result("pool", pool.and_then(|pool| pool.map(increment, 0..3)));
    print_result("shared", Shared::from_slice(&[1, 2, 3]));
}

const FINE: &str = "process: fine\npool: fine\nshared: fine\n";

fn temporary_directories_are_not_needed(start_method: StartMethod) {
    // A missing directory, one in which even root cannot write, and a file that is no directory.
    for directory in ["/nonexistent", "/proc", "/dev/null"] {
        let option = format!("TMPDIR={directory}");
        let program = start_through_env(&option, use_all, start_method);
        assert_eq!(program.finish().succeeded(), FINE, "{directory}");
    }
}

/// A directory is empty: from the start of the program, or since `init`.
fn hide_directory(arguments: &Arguments) {
    let [directory, order] = &arguments.rest[..] else { panic!("two words") };
    if order == "before" {
        raw::own_mounts();
        raw::hide(directory);
        proc_core::init();
    } else {
        // The program has a mount namespace of its own before `init`. Only the directory is hidden
        // later.
        raw::own_mounts();
        proc_core::init();
        raw::hide(directory);
    }
    use_all(arguments);
}

fn lacks_root() -> bool {
    machine::or_skip(machine::root()).is_none()
}

fn missing_proc_is_named(start_method: StartMethod) {
    if !lacks_root() {
        for order in ["after", "before"] {
            let finished = run(hide_directory, start_method, &["/proc", order]);
            assert_fine_or_contains(&finished, &["/proc", "mount"]);
        }
    }
}

fn missing_dev_is_named(start_method: StartMethod) {
    if !lacks_root() {
        for order in ["after", "before"] {
            let finished = run(hide_directory, start_method, &["/dev", order]);
            assert_fine_or_contains(&finished, &["/dev/null"]);
        }
    }
}

/// The kernel refuses a system call: from the start of the program, or since `init`.
fn refuse_system_call(arguments: &Arguments) {
    let [call, errno, order] = &arguments.rest[..] else { panic!("three words") };
    let errno = match errno.as_str() {
        "EPERM" => Errno::EPERM,
        "ENOSYS" => Errno::ENOSYS,
        other => panic!("no such error: {other}"),
    };
    if order == "before" {
        raw::refuse(raw::number_of(call), errno);
        proc_core::init();
    } else {
        proc_core::init();
        raw::refuse(raw::number_of(call), errno);
    }
    use_all(arguments);
}

fn run_with_refused_call(start_method: StartMethod, call: &str) -> Vec<Finished> {
    let orders = ["after", "before"].into_iter();
    let cases = orders.flat_map(|order| ["EPERM", "ENOSYS"].map(|errno| (order, errno)));
    cases
        .map(|(order, errno)| run(refuse_system_call, start_method, &[call, errno, order]))
        .collect()
}

fn refused_memfd_is_named(start_method: StartMethod) {
    if !lacks_root() {
        for finished in run_with_refused_call(start_method, "memfd_create") {
            assert_fine_or_contains(&finished, &["memfd_create", "seccomp"]);
        }
    }
}

fn refused_signalfd_is_no_harm(start_method: StartMethod) {
    if !lacks_root() {
        for finished in run_with_refused_call(start_method, "signalfd") {
            assert_eq!(finished.succeeded(), FINE);
        }
    }
}

fn other_refused_calls_are_named(start_method: StartMethod) {
    if !lacks_root() {
        for call in ["pidfd_open", "eventfd", "close_range"] {
            for finished in run_with_refused_call(start_method, call) {
                assert_fine_or_contains(&finished, &[call, "seccomp"]);
            }
        }
    }
}

/// Changes the date of the program's file, as if it were built anew. The test runs a copy of the
/// file.
fn change_program_file(arguments: &Arguments) {
    let path = std::env::current_exe().expect("/proc is mounted");
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::open(path).and_then(|file| file.set_modified(date)).expect("it is ours");
    let child = Process::new(increment, 41).start_method(arguments.start_method).start();
    match child.and_then(Child::join) {
        Ok(result) => println!("process {result}"),
        Err(error) => println!("process {}", describe(&error)),
    }
    let pool = Pool::builder().processes(1).start_method(arguments.start_method).build();
    match pool.and_then(|pool| pool.apply(increment, 0)) {
        Ok(result) => println!("pool {result}"),
        Err(error) => println!("pool {}", describe(&error)),
    }
}

/// The output for a process and a pool that cannot be started.
fn not_started(why: &str) -> String {
    format!(
        "process start | {why} (process \"Process-1\")\npool start worker=0 | {why} (worker 0)\n"
    )
}

/// A fork is the same program, even if the file has changed. An executed file is not.
fn only_execution_refuses_a_changed_program_file() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let changed = |start_method: StartMethod| {
        let copy = directory.path().join(word(start_method));
        // Another process copies the file: a process that this test starts meanwhile must not
        // inherit a file that is open for writing.
        let copied = Command::new("cp").arg(own_file()).arg(&copy).status();
        assert!(copied.expect("there is a cp").success());
        let mut command = Command::new(copy);
        command.env_clear().args(own_arguments(change_program_file, start_method));
        command.stdout(Stdio::piped());
        Running::start(command).finish().succeeded().to_owned()
    };
    assert_eq!(changed(StartMethod::Forkserver), "process 42\npool 1\n");
    assert_eq!(changed(StartMethod::Fork), "process 42\npool 1\n");
    let why = "cannot start a fork server: the program was executed again, but its file has \
               changed since this process was started: start the program again";
    assert_eq!(changed(StartMethod::Spawn), not_started(why));
}

/// There is no directory for temporary files.
fn no_temporary_directory(arguments: &Arguments) {
    let child = Process::new(increment, 41).start_method(arguments.start_method).start();
    match child.and_then(Child::join) {
        Ok(result) => println!("process {result}"),
        Err(error) => println!("process {}", describe(&error)),
    }
    let pool = Pool::builder().processes(1).start_method(arguments.start_method).build();
    match pool.and_then(|pool| pool.apply(increment, 0)) {
        Ok(result) => println!("pool {result}"),
        Err(error) => println!("pool {}", describe(&error)),
    }
}

fn temporary_directory_is_not_needed() {
    for start_method in [StartMethod::Forkserver, StartMethod::Fork, StartMethod::Spawn] {
        let program =
            start_through_env("TMPDIR=/nonexistent", no_temporary_directory, start_method);
        assert_eq!(program.finish().succeeded(), "process 42\npool 1\n", "{start_method:?}");
    }
}
