//! Errors of workers that abort, that crash, or whose panic cannot unwind.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use proc_core::{Child, Error, ErrorKind, Limits, Pool, Process, StartMethod};

use crate::support::{Arguments, Program, Running, describe, raw, run, signal_self, word};

programs![
    panic_without_unwinding_everywhere,
    abort_after_panic,
    crash_under_limit,
    allocation_under_limit
];

tests! {
    panics_that_cannot_unwind_are_told: forkserver spawn fork;
    abort_does_not_carry_an_earlier_panic: forkserver spawn fork;
    crash_is_not_called_a_limit: forkserver spawn fork;
    failed_allocation_is_called_a_limit: forkserver spawn fork;
    panics_of_a_program_that_aborts_are_told: forkserver spawn fork;
}

extern "C" fn panics_in_c(way: u32) {
    panic!("boom {way}");
}

extern "C" fn fails_assertion_in_c(way: u32) {
    assert_eq!(way, 0, "boom {way}");
}

extern "C" fn indexes_in_c(way: u32) -> u32 {
    let boom = [1, 2, 3];
    boom[std::hint::black_box(way as usize + 10)]
}

struct Bomb(u32);

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("boom {} once more", self.0);
    }
}

/// Panics in a way that ends the process. Way 0 does not panic.
fn panic_without_unwinding(way: u32) -> u32 {
    match way {
        0 => {}
        1 => panics_in_c(way),
        2 => {
            let _bomb = Bomb(way);
            panic!("boom {way}");
        }
        3 => {
            let thread = std::thread::spawn(|| panics_in_c(3));
            let _ = thread.join();
        }
        4 => fails_assertion_in_c(way),
        5 => {
            // The first panic is caught, so it is not the reason.
            let caught = std::panic::catch_unwind(|| panic!("a harmless one"));
            assert!(caught.is_err());
            panics_in_c(way);
        }
        6 => drop(indexes_in_c(way)),
        // The message is far longer than a line.
        7 => long_panic_in_c(),
        other => panic!("no such way: {other}"),
    }
    way
}

extern "C" fn long_panic_in_c() {
    panic!("boom {}", "x".repeat(100_000));
}

/// Asserts that the error has the message and the location of the panic.
fn check(what: &str, way: u32, error: &Error) {
    use std::os::unix::process::ExitStatusExt;
    let told = || format!("{what} {way}: {}", describe(error));
    assert!(error.is_death() || error.kind() == ErrorKind::Initializer, "{}", told());
    let signal = error.exit_status().and_then(|status| status.signal());
    assert_eq!(signal, Some(nix::libc::SIGABRT), "{}", told());
    let message = error.panic_message().unwrap_or_else(|| panic!("no message: {}", told()));
    let boom = if way == 6 { "index out of bounds" } else { "boom" };
    assert!(message.contains(boom), "{}", told());
    let place = error.panic_location().unwrap_or_else(|| panic!("no place: {}", told()));
    let mut place = place.split(':');
    assert_eq!(place.next(), Some(file!()), "{}", told());
    assert!(place.next().is_some_and(|line| line.parse::<u32>().is_ok()), "{}", told());
    assert!(told().contains(boom), "{}", told());
    assert!(!error.is_limit(), "{}", told());
}

fn panic_without_unwinding_everywhere(arguments: &Arguments) {
    let way = arguments.number() as u32;
    let start_method = arguments.start_method;
    let child = Process::new(panic_without_unwinding, way).start_method(start_method).start();
    let error = child.and_then(Child::join).expect_err("it aborts");
    check("process", way, &error);
    let pool = arguments.pool(2);
    let error = pool.apply(panic_without_unwinding, way).expect_err("it aborts");
    check("task", way, &error);
    let results = pool.options().chunksize(3).try_map(panic_without_unwinding, [0, 0, way, 0, 0]);
    for (result, task) in results.iter().zip(0..) {
        match result {
            Ok(value) => assert_eq!((*value, task == 2), (0, false)),
            Err(error) => {
                assert_eq!(task, 2, "{}", describe(error));
                check("map", way, error);
            }
        }
    }
    assert_eq!(pool.map(|x: u32| x + 1, 0..3).expect("the pool goes on"), [1, 2, 3]);
    // `Fork` can build no second pool, so these use the default start method.
    let others = || Pool::builder().processes(1);
    let panics = |way: u32| {
        panic_without_unwinding(way);
    };
    let initialized = others().initializer(panics, way).build();
    let error = initialized.and_then(|pool| pool.apply(|x: u32| x, 0)).expect_err("it aborts");
    check("initializer", way, &error);
    let state = others().state(panic_without_unwinding, way).build();
    let error = state.and_then(|pool| pool.apply(|x: u32| x, 0)).expect_err("it aborts");
    check("state", way, &error);
    let preload = others().preload(panics, way).build();
    let error = preload.and_then(|pool| pool.apply(|x: u32| x, 0)).expect_err("it aborts");
    check("preload", way, &error);
    println!("told");
}

/// Runs a program that prints "told" if all is right. Its stderr is not checked, because workers
/// that abort print to it.
#[track_caller]
fn told(program: Program, start_method: StartMethod, rest: &[&str]) {
    let finished = run(program, start_method, rest);
    assert_eq!(finished.stdout, "told\n", "{rest:?} {}\n{}", finished.status, finished.stderr);
    assert!(finished.status.success());
}

fn panics_that_cannot_unwind_are_told(start_method: StartMethod) {
    for way in 1..=7 {
        told(panic_without_unwinding_everywhere, start_method, &[&way.to_string()]);
    }
}

/// A process aborts after a panic that has nothing to do with the abort.
fn abort_after_panic(arguments: &Arguments) {
    let task = |way: u32| {
        match way {
            0 => panic!("reported"),
            1 => {
                let caught = std::panic::catch_unwind(|| panic!("caught by the task"));
                assert!(caught.is_err());
                std::process::abort();
            }
            2 => {
                let thread = std::thread::spawn(|| panic!("in a thread"));
                assert!(thread.join().is_err());
                raw::abort_in_c();
            }
            _ => std::process::abort(),
        }
        way
    };
    let check = |error: Error| {
        let told = describe(&error);
        assert!(error.is_death(), "{told}");
        assert_eq!((error.panic_message(), error.panic_location()), (None, None), "{told}");
        let words = ["reported", "caught by", "in a thread"];
        assert!(!words.iter().any(|word| told.contains(word)), "{told}");
    };
    for way in 1..=3 {
        let child = Process::new(task, way).start_method(arguments.start_method).start();
        check(child.and_then(Child::join).expect_err("it aborts"));
    }
    let pool = arguments.pool(1);
    for way in 1..=3 {
        // The same worker has panicked and lived on.
        assert!(pool.apply(task, 0).expect_err("it panics").is_panic());
        check(pool.apply(task, way).expect_err("it aborts"));
    }
    println!("told");
}

fn abort_does_not_carry_an_earlier_panic(start_method: StartMethod) {
    told(abort_after_panic, start_method, &[]);
}

#[expect(unconditional_recursion, reason = "it is to overflow the stack")]
fn overflow(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 128]);
    frame[1] + overflow(depth + 1) + frame[0]
}

/// Ends the process in ways that have nothing to do with a lack of memory.
fn crash(way: String) -> u64 {
    match way.as_str() {
        "null" => raw::write_to_null(),
        "abort" => std::process::abort(),
        "c-abort" => raw::abort_in_c(),
        "bus" => drop(raw::read_behind_the_end()),
        "stack" => return overflow(0),
        "illegal" => signal_self(nix::sys::signal::Signal::SIGILL),
        "segv" => {
            // Rust's own handler makes the first one harmless, unless it is a real fault.
            loop {
                signal_self(nix::sys::signal::Signal::SIGSEGV);
            }
        }
        "kill" => signal_self(nix::sys::signal::Signal::SIGKILL),
        "panic" => panics_in_c(1),
        other => panic!("no such way: {other}"),
    }
    0
}

fn limits() -> Limits {
    Limits::new().address_space(1 << 30).no_core_dumps()
}

/// A crash in a worker and in a process whose address space is limited.
fn crash_under_limit(arguments: &Arguments) {
    let way = arguments.word();
    let check = |what: &str, error: Error| {
        let told = format!("{what} {way}: {}", describe(&error));
        assert!(error.is_death() && !error.is_limit(), "{told}");
        let blames = ["memory", "address space", "allocation", "limited"];
        // The error of a killed process mentions memory for another reason: the out-of-memory
        // killer.
        let is_blamed = way != "kill" && blames.iter().any(|word| told.contains(word));
        assert!(!is_blamed, "{told}");
    };
    let child =
        Process::new(crash, way.to_owned()).limits(limits()).start_method(arguments.start_method);
    check("process", child.start().and_then(Child::join).expect_err("it crashes"));
    let pool =
        Pool::builder().processes(1).limits(limits()).start_method(arguments.start_method).build();
    let pool = pool.expect("it can be built");
    check("task", pool.apply(crash, way.to_owned()).expect_err("it crashes"));
    println!("told");
}

fn crash_is_not_called_a_limit(start_method: StartMethod) {
    for way in ["null", "abort", "c-abort", "bus", "stack", "illegal", "segv", "kill", "panic"] {
        told(crash_under_limit, start_method, &[way]);
    }
}

/// An allocation that fails in a worker and in a process whose address space is limited.
fn allocation_under_limit(arguments: &Arguments) {
    let allocate = |way: u32| match way {
        0 => vec![1_u8; 2 << 30].len(),
        1 => String::from_utf8_lossy(&[b'x'; 100]).repeat(20 << 20).len(),
        _ => std::thread::spawn(|| vec![1_u8; 2 << 30].len()).join().unwrap_or_default(),
    };
    for way in 0..3 {
        let child =
            Process::new(allocate, way).limits(limits()).start_method(arguments.start_method);
        let error = child.start().and_then(Child::join).expect_err("the memory is not enough");
        assert!(error.is_limit() && error.is_death(), "{way}: {}", describe(&error));
    }
    let pool =
        Pool::builder().processes(1).limits(limits()).start_method(arguments.start_method).build();
    let pool = pool.expect("it can be built");
    for way in 0..3 {
        let error = pool.apply(allocate, way).expect_err("the memory is not enough");
        assert!(error.is_limit() && error.is_death(), "{way}: {}", describe(&error));
        assert!(error.to_string().contains("1 GiB"), "{way}: {}", describe(&error));
        // The allocation that failed in the worker before is not the reason of this error.
        let error = pool.apply(|()| raw::abort_in_c(), ()).expect_err("it aborts");
        assert!(!error.is_limit(), "{}", describe(&error));
    }
    println!("told");
}

fn failed_allocation_is_called_a_limit(start_method: StartMethod) {
    told(allocation_under_limit, start_method, &[]);
}

/// Builds `src/bin/aborting.rs` so that its panics abort; only that one crate is compiled anew.
fn aborting() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = Path::new(env!("CARGO_BIN_EXE_aborting"));
        let profile = program.parent().expect("it lies in the directory of its profile");
        let target = profile.parent().expect("that lies in the target directory");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["rustc", "--quiet", "--offline", "--locked", "--package", "proc-tests"]);
        cargo.args(["--bin", "aborting"]).arg("--target-dir").arg(target);
        if profile.file_name().is_some_and(|name| name == "release") {
            cargo.arg("--release");
        }
        cargo.args(["--", "-C", "panic=abort"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = cargo.output().expect("cargo runs the tests, so it is there");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        program.to_owned()
    })
}

fn panics_of_a_program_that_aborts_are_told(start_method: StartMethod) {
    let mut command = Command::new(aborting());
    command.env_clear().arg(word(start_method)).stdout(Stdio::piped());
    let finished = Running::start(command).finish();
    assert!(finished.status.success(), "{}\n{}", finished.status, finished.stderr);
    let panicked = "true Some(6) Some(\"boom 3\") Some(\"aborting.rs\") true";
    let aborted = "true Some(6) None None true";
    assert_eq!(
        finished.stdout,
        format!(
            "process: {panicked}\nprocess: {aborted}\n\
             task: 0\ntask: 1\ntask: 2\ntask: {panicked}\ntask: {aborted}\ntask: 5\n[0, 1, 2]\n"
        )
    );
}
