//! A program's own panic hook takes nothing from errors, and is still called for other panics.

use proc_core::{Child, Error, Pool, Process, StartMethod};

use crate::support::{Arguments, Finished, Program, Running, command, describe};

programs![
    change_hooks,
    #[without_init]
    set_hook_somewhere
];

tests! {
    hook_of_an_initializer_takes_nothing_from_errors: forkserver spawn fork;
    hook_of_a_state_takes_nothing_from_errors: forkserver spawn fork;
    hook_of_a_preload_takes_nothing_from_errors: forkserver spawn fork;
    hook_of_main_takes_nothing_from_errors: forkserver spawn fork;
    hook_of_a_task_takes_nothing_from_errors: forkserver spawn fork;
    hook_of_a_process_takes_nothing_from_its_error: forkserver spawn fork;
    hooks_that_change_take_nothing_from_errors: forkserver spawn fork;
}

/// Replaces whatever hook there is.
fn set_hook(_: ()) {
    std::panic::set_hook(Box::new(|info| {
        println!("hook: {}", info.payload_as_str().unwrap_or("no text"));
    }));
}

fn panics(x: u32) -> u32 {
    panic!("task {x} panics")
}

/// A thread of a task panics. That is no error of the task.
fn thread_panics(x: u32) -> u32 {
    assert!(std::thread::spawn(|| panic!("a thread panics")).join().is_err());
    x
}

/// Asserts that the error has the message, the location, and a backtrace, which the test asks for.
fn check(what: &str, error: &Error) {
    let told = || format!("{what}: {}", describe(error));
    assert!(error.is_panic(), "{}", told());
    assert!(error.panic_message().is_some_and(|text| text.ends_with("panics")), "{}", told());
    let place = error.panic_location().unwrap_or_else(|| panic!("no place in {}", told()));
    assert!(place.starts_with(concat!(file!(), ":")), "{}", told());
    let backtrace = error.backtrace().unwrap_or_else(|| panic!("no backtrace in {}", told()));
    assert!(backtrace.contains("panic_hooks::panics"), "{}\n{backtrace}", told());
}

fn set_hook_somewhere(arguments: &Arguments) {
    let place = arguments.word();
    if place == "before-init" {
        set_hook(());
    }
    proc_core::init();
    let builder = || Pool::builder().processes(1).start_method(arguments.start_method);
    if place == "process" {
        let both = |x: u32| {
            set_hook(());
            thread_panics(x);
            panics(x)
        };
        let child = Process::new(both, 1).start_method(arguments.start_method).start();
        // A hook that is set within the call replaces the library's. The message still arrives.
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

fn run_with_backtrace(program: Program, start_method: StartMethod, place: &str) -> Finished {
    let mut command = command(program, start_method);
    command.arg(place).env("RUST_BACKTRACE", "1");
    let finished = Running::start(command).finish();
    let told = format!("{}\n{}\n{}", finished.status, finished.stdout, finished.stderr);
    assert!(finished.status.success(), "{told}");
    finished
}

/// Asserts that the hook was called for the panic of the thread.
#[track_caller]
fn expect_hook_called(start_method: StartMethod, place: &str) {
    let finished = run_with_backtrace(set_hook_somewhere, start_method, place);
    let hook = finished.stdout.lines().filter(|line| *line == "hook: a thread panics").count();
    assert_eq!(hook, 1, "{}\n{}", finished.stdout, finished.stderr);
}

fn hook_of_an_initializer_takes_nothing_from_errors(start_method: StartMethod) {
    expect_hook_called(start_method, "initializer");
}

fn hook_of_a_state_takes_nothing_from_errors(start_method: StartMethod) {
    expect_hook_called(start_method, "state");
}

fn hook_of_a_preload_takes_nothing_from_errors(start_method: StartMethod) {
    expect_hook_called(start_method, "preload");
}

fn hook_of_main_takes_nothing_from_errors(start_method: StartMethod) {
    match start_method {
        // An executed fork server does not do what `main` does before `init`.
        StartMethod::Spawn => {
            drop(run_with_backtrace(set_hook_somewhere, start_method, "before-init"))
        }
        _ => expect_hook_called(start_method, "before-init"),
    }
}

fn hook_of_a_task_takes_nothing_from_errors(start_method: StartMethod) {
    expect_hook_called(start_method, "task");
}

fn hook_of_a_process_takes_nothing_from_its_error(start_method: StartMethod) {
    expect_hook_called(start_method, "process");
}

/// A hook that calls the one before it, as loggers set it, and one that is set and taken in a task.
fn change_hooks(arguments: &Arguments) {
    let chain = |()| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            println!("second: {}", info.payload_as_str().unwrap_or("no text"));
            previous(info);
        }));
    };
    let pool = Pool::builder().processes(1).start_method(arguments.start_method);
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

fn hooks_that_change_take_nothing_from_errors(start_method: StartMethod) {
    assert!(run_with_backtrace(change_hooks, start_method, "").stdout.ends_with("told\n"));
}
