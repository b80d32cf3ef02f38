//! Panic hooks of the program's own, set in every place where one can be set.

use proc_core::{Child, Error, Pool, Process};

use crate::{Arguments, Scenario, describe};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[("hooks", hooks), ("hook-twice", hook_twice)];

/// Replaces whatever hook there is.
fn set_hook(_: ()) {
    std::panic::set_hook(Box::new(|info| {
        println!("hook: {}", info.payload_as_str().unwrap_or("no text"));
    }));
}

fn panics(x: u32) -> u32 {
    panic!("task {x} panics")
}

/// A thread of a task panics, which is no error of the task.
fn thread_panics(x: u32) -> u32 {
    assert!(std::thread::spawn(|| panic!("a thread panics")).join().is_err());
    x
}

/// The error has all three: message, place, and a backtrace, which the test asks for.
fn check(what: &str, error: &Error) {
    let told = || format!("{what}: {}", describe(error));
    assert!(error.is_panic(), "{}", told());
    assert!(error.panic_message().is_some_and(|text| text.ends_with("panics")), "{}", told());
    let place = error.panic_location().unwrap_or_else(|| panic!("no place in {}", told()));
    assert!(place.contains("src/hooks.rs:"), "{}", told());
    let backtrace = error.backtrace().unwrap_or_else(|| panic!("no backtrace in {}", told()));
    assert!(backtrace.contains("hooks::panics"), "{}\n{backtrace}", told());
}

fn hooks(arguments: &Arguments) {
    let place = arguments.word();
    if place == "before-init" {
        set_hook(());
    }
    proc_core::init();
    let builder = || Pool::builder().processes(1).start_method(arguments.context);
    if place == "process" {
        let both = |x: u32| {
            set_hook(());
            thread_panics(x);
            panics(x)
        };
        let child = Process::new(both, 1).start_method(arguments.context).start();
        // A hook that is set within the call itself has the place to itself; the message arrives.
        let error = child.and_then(Child::join).expect_err("it panics");
        assert!(error.is_panic(), "{}", describe(&error));
        assert_eq!(error.panic_message(), Some("task 1 panics"));
        return;
    }
    if place == "state" {
        let pool = builder().state(set_hook, ()).build().expect("it can be built");
        return use_all(&pool);
    }
    let pool = match place {
        "initializer" => builder().initializer(set_hook, ()).build(),
        "preload" => builder().preload(set_hook, ()).build(),
        _ => builder().build(),
    };
    let pool = pool.expect("it can be built");
    if place == "task" {
        pool.apply(set_hook, ()).expect("it returns");
    }
    use_all(&pool);
}

/// Panics that are errors, and one that is not.
fn use_all<S: 'static>(pool: &Pool<S>) {
    check("apply", &pool.apply(panics, 1).expect_err("it panics"));
    for result in pool.try_map(panics, 0..3) {
        check("try_map", &result.expect_err("it panics"));
    }
    println!("between");
    assert_eq!(pool.apply(thread_panics, 7).expect("its thread panicked, not it"), 7);
    check("again", &pool.apply(panics, 1).expect_err("it panics"));
}

/// A hook that calls the one before it, as loggers set it, and one that is set and taken in a task.
fn hook_twice(arguments: &Arguments) {
    let chain = |()| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            println!("second: {}", info.payload_as_str().unwrap_or("no text"));
            previous(info);
        }));
    };
    let pool = Pool::builder().processes(1).start_method(arguments.context);
    let pool = pool.initializer(chain, ()).build().expect("it can be built");
    let passing = |x: u32| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let caught = std::panic::catch_unwind(|| panic!("caught, and no word of it"));
        assert!(caught.is_err());
        std::panic::set_hook(previous);
        panics(x)
    };
    for _ in 0..3 {
        check("chain", &pool.apply(panics, 1).expect_err("it panics"));
        check("passing", &pool.apply(passing, 1).expect_err("it panics"));
    }
    println!("told");
}
