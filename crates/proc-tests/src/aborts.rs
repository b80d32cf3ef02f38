//! Ends of workers that say something: panics that cannot unwind, aborts, crashes under a limit.

use proc_core::{Child, Error, Limits, Pool, Process};

use crate::{Arguments, Scenario, describe, raw, signal_self};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("panic-cannot-unwind", panic_cannot_unwind),
    ("abort-after-panic", abort_after_panic),
    ("crash-under-limit", crash_under_limit),
    ("allocation-under-limit", allocation_under_limit),
];

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

/// Each way to panic where that ends the process. Not called for 0.
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
            // One that is caught comes first, and is not the reason.
            let caught = std::panic::catch_unwind(|| panic!("a harmless one"));
            assert!(caught.is_err());
            panics_in_c(way);
        }
        6 => drop(indexes_in_c(way)),
        // Far more than a line.
        7 => long_panic_in_c(),
        other => panic!("no such way: {other}"),
    }
    way
}

extern "C" fn long_panic_in_c() {
    panic!("boom {}", "x".repeat(100_000));
}

/// The error has what the panic said, and where.
fn check(what: &str, way: u32, error: &Error) {
    use std::os::unix::process::ExitStatusExt;
    let told = || format!("{what} {way}: {}", describe(error));
    assert!(error.is_death() || error.is_initializer(), "{}", told());
    let signal = error.exit_status().and_then(|status| status.signal());
    assert_eq!(signal, Some(nix::libc::SIGABRT), "{}", told());
    let message = error.panic_message().unwrap_or_else(|| panic!("no message: {}", told()));
    let boom = if way == 6 { "index out of bounds" } else { "boom" };
    assert!(message.contains(boom), "{}", told());
    let place = error.panic_location().unwrap_or_else(|| panic!("no place: {}", told()));
    let mut place = place.split(':');
    assert!(place.next().is_some_and(|file| file.ends_with("src/aborts.rs")), "{}", told());
    assert!(place.next().is_some_and(|line| line.parse::<u32>().is_ok()), "{}", told());
    assert!(told().contains(boom), "{}", told());
    assert!(!error.is_limit(), "{}", told());
}

fn panic_cannot_unwind(arguments: &Arguments) {
    let way = arguments.number() as u32;
    let context = arguments.context;
    let child = Process::new(panic_without_unwinding, way).start_method(context).start();
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
    // Fork can make no second pool.
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

/// An abort that has nothing to do with a panic before it.
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
        let child = Process::new(task, way).start_method(arguments.context).start();
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

#[expect(unconditional_recursion, reason = "it is to overflow the stack")]
fn overflow(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 128]);
    frame[1] + overflow(depth + 1) + frame[0]
}

/// Ways to end that have nothing to do with memory that ran out.
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
        // Whoever is killed from outside may have been killed for memory; that is another hint.
        let is_blamed = way != "kill" && blames.iter().any(|word| told.contains(word));
        assert!(!is_blamed, "{told}");
    };
    let child =
        Process::new(crash, way.to_owned()).limits(limits()).start_method(arguments.context);
    check("process", child.start().and_then(Child::join).expect_err("it crashes"));
    let pool =
        Pool::builder().processes(1).limits(limits()).start_method(arguments.context).build();
    let pool = pool.expect("it can be built");
    check("task", pool.apply(crash, way.to_owned()).expect_err("it crashes"));
    println!("told");
}

/// An allocation that fails in a worker and in a process whose address space is limited.
fn allocation_under_limit(arguments: &Arguments) {
    let allocate = |way: u32| match way {
        0 => vec![1_u8; 2 << 30].len(),
        1 => String::from_utf8_lossy(&[b'x'; 100]).repeat(20 << 20).len(),
        _ => std::thread::spawn(|| vec![1_u8; 2 << 30].len()).join().unwrap_or_default(),
    };
    for way in 0..3 {
        let child = Process::new(allocate, way).limits(limits()).start_method(arguments.context);
        let error = child.start().and_then(Child::join).expect_err("it is too much");
        assert!(error.is_limit() && error.is_death(), "{way}: {}", describe(&error));
    }
    let pool =
        Pool::builder().processes(1).limits(limits()).start_method(arguments.context).build();
    let pool = pool.expect("it can be built");
    for way in 0..3 {
        // One that was caught before is not blamed.
        let error = pool.apply(allocate, way).expect_err("it is too much");
        assert!(error.is_limit() && error.is_death(), "{way}: {}", describe(&error));
        assert!(error.to_string().contains("1 GiB"), "{way}: {}", describe(&error));
        let error = pool.apply(|()| raw::abort_in_c(), ()).expect_err("it aborts");
        assert!(!error.is_limit(), "{}", describe(&error));
    }
    println!("told");
}
