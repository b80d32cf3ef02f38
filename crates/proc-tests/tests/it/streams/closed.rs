//! Standard streams that are closed: what the library opens does not take their places.

use std::process::Command;

use proc_core::{Child, Pool, Process, Shared, StartMethod};

use crate::support::{
    Arguments, Program, closed_streams, machine, own_arguments, own_file, raw, run,
};

programs![
    #[without_init]
    use_with_closed_streams,
    #[without_init]
    close_streams_and_use,
    close_streams_without_devices
];

tests! {
    closed_streams_are_no_hindrance: forkserver spawn fork;
    closed_streams_without_init_are_no_hindrance: forkserver spawn fork;
    streams_that_main_closes_are_no_hindrance: forkserver spawn fork;
    closed_streams_are_opened_without_dev_null: fork;
}

/// Prints to closed streams. The text must not end up in channels of the library.
fn work(values: Vec<u64>) -> Vec<u64> {
    println!("{} values", values.len());
    eprintln!("{} values", values.len());
    values.into_iter().map(|value| value + 1).collect()
}

/// The test has closed some streams. It sees only the exit code.
fn use_with_closed_streams(arguments: &Arguments) {
    init_if_asked(arguments);
    use_all(arguments);
}

fn init_if_asked(arguments: &Arguments) {
    match arguments.word() {
        "init" => proc_core::init(),
        "no-init" => {}
        other => panic!("no such way: {other}"),
    }
}

fn use_all(arguments: &Arguments) {
    let values = |length| vec![7_u64; length];
    for length in [0, 1, 1000] {
        let child = Process::new(work, values(length)).start_method(arguments.start_method).start();
        let result = child.and_then(Child::join).expect("it returns");
        assert!(result == vec![8; length]);
    }
    let executed = Process::new(|()| execute(), ()).start_method(arguments.start_method).start();
    assert!(executed.and_then(Child::join).expect("it returns"), "it had a closed stream");
    let build = || Pool::builder().processes(2).start_method(arguments.start_method).build();
    let pool = build().expect("it can be built");
    for _ in 0..5 {
        // The largest value has a region of shared memory of its own.
        let lengths = [0, 1, 1000, 30_000];
        let results = pool.try_map(work, lengths.map(values));
        for (result, length) in results.into_iter().zip(lengths) {
            assert!(result.expect("nothing fails") == vec![8; length]);
        }
        let shared = Shared::from_slice(&[1_u64, 2, 3]).expect("there is memory");
        let sum = |shared: Shared<u64>| {
            println!("{shared:?}");
            shared.iter().sum::<u64>()
        };
        assert_eq!(pool.map(sum, [shared.clone(), shared]).expect("nothing fails"), [6, 6]);
    }
    let error = pool.apply(|()| std::process::exit(7), ()).map(|(): ()| ());
    assert!(error.expect_err("it exits").is_death());
    assert_eq!(pool.apply(work, vec![1]).expect("it was replaced"), [2]);
}

/// Whether a program that this process executes has all standard streams.
fn execute() -> bool {
    let look = "for stream in 0 1 2; do test -e /proc/$$/fd/$stream || exit 1; done";
    Command::new("sh").args(["-c", look]).status().expect("there is a shell").success()
}

#[track_caller]
fn expect_success(program: Program, start_method: StartMethod, rest: &[&str], closing: &str) {
    let arguments = [&own_arguments(program, start_method), rest].concat();
    closed_streams::expect_success(&own_file(), &arguments, closing);
}

fn closed_streams_are_no_hindrance(start_method: StartMethod) {
    for (closing, _) in closed_streams::choices() {
        expect_success(use_with_closed_streams, start_method, &["init"], &closing);
    }
}

fn closed_streams_without_init_are_no_hindrance(start_method: StartMethod) {
    for (closing, _) in closed_streams::choices() {
        expect_success(use_with_closed_streams, start_method, &["no-init"], &closing);
    }
}

/// The program has closed its streams itself, as daemons do, after init or without it.
fn close_streams_and_use(arguments: &Arguments) {
    init_if_asked(arguments);
    for stream in 0..3 {
        if arguments.rest[1].contains(&stream.to_string()) {
            nix::unistd::close(stream).expect("it was open");
        }
    }
    use_all(arguments);
}

fn streams_that_main_closes_are_no_hindrance(start_method: StartMethod) {
    for init in ["init", "no-init"] {
        for (_, numbers) in closed_streams::choices().skip(1) {
            expect_success(close_streams_and_use, start_method, &[init, &numbers], "");
        }
    }
}

/// The program sees no devices, and closes stdin and stdout.
fn close_streams_without_devices(arguments: &Arguments) {
    raw::own_mounts();
    raw::hide("/dev");
    for stream in 0..2 {
        nix::unistd::close(stream).expect("it was open");
    }
    let print = |()| println!("nobody reads this");
    let child = Process::new(print, ()).start_method(arguments.start_method).start();
    child.and_then(Child::join).expect("it returns");
    // The number of a closed stream would be the next to be given.
    let next = std::os::fd::AsRawFd::as_raw_fd(&std::io::pipe().expect("there are descriptors").0);
    assert!(next > 2, "{next} was free");
}

fn closed_streams_are_opened_without_dev_null(start_method: StartMethod) {
    if machine::or_skip(machine::root()).is_some() {
        run(close_streams_without_devices, start_method, &[]).succeeded();
    }
}
