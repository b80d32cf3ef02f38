//! The progress bar: what a person sees on a terminal, and that nothing is printed elsewhere.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::Duration;

use proc_core::{Executor, InProcess, StartMethod, current, progress_bar};

use crate::support::terminal::{run_on_terminal, screen};
use crate::support::{Arguments, Finished, assert_snapshot, command};

programs![show_bars, show_many_results, leave_bar, leave_spinner];

tests! {
    bar_is_one_line_that_stays: forkserver spawn fork;
    narrow_terminal_cuts_off_the_line: forkserver;
    nothing_is_printed_without_a_terminal: forkserver;
    bar_is_drawn_at_most_ten_times_a_second: forkserver;
    running_call_shows_what_remains: forkserver;
    call_with_an_unknown_number_of_tasks_has_a_spinner: forkserver;
}

/// The columns of a usual terminal.
const COLUMNS: u16 = 80;

/// Makes calls of all kinds, and prints a line before each.
fn show_bars(arguments: &Arguments) {
    let pool = arguments.pool(2);
    let here = InProcess::new(); // does one task after another, so it is known how many are done
    let double = |x: u32| 2 * x;
    let fails_at_five = |x: u32| {
        assert_ne!(x, 5, "five fails");
        x
    };
    eprintln!("map");
    let calls = pool.options().progress(progress_bar());
    assert!(calls.map(double, 0..1000).is_ok());
    eprintln!("the same options again");
    assert!(calls.map(double, 0..2000).is_ok());
    eprintln!("failures and retries");
    let odd_once = |x: u32| {
        assert!(x != 13, "thirteen always fails");
        assert!(x.is_multiple_of(2) || current().attempt() > 0, "odd ones fail once");
        x
    };
    let calls = pool.options().retries(1).chunksize(1).progress(progress_bar());
    assert_eq!(calls.try_map(odd_once, 0..20).len(), 20);
    eprintln!("a function that borrows data");
    let calls = pool.options().progress(progress_bar()).with(3);
    assert!(calls.map(|factor, x: u32| factor * x, 0..10).is_ok());
    eprintln!("imap");
    assert_eq!(pool.options().progress(progress_bar()).imap(double, 0..100).count(), 100);
    eprintln!("imap_unordered, of an unknown number of inputs");
    let odd = (0..200).filter(|x| x % 2 == 1);
    assert_eq!(pool.options().progress(progress_bar()).imap_unordered(double, odd).count(), 100);
    eprintln!("an iterator that is kept after its end");
    let mut results = pool.options().progress(progress_bar()).imap(double, 0..10);
    assert_eq!(results.by_ref().count(), 10);
    eprintln!("an iterator that is dropped before its end");
    drop(results);
    assert_eq!(in_caller(&here, 100).len(), 3);
    eprintln!("an iterator without an end");
    assert_eq!(here.options().progress(progress_bar()).imap(double, 0..).take(3).count(), 3);
    eprintln!("a call that fails");
    let calls = here.options().fail_fast().progress(progress_bar());
    assert!(calls.map(fails_at_five, 0..100).is_err());
    eprintln!("inputs that panic");
    let inputs = (0..10).map(|x: u32| if x < 5 { x } else { std::panic::panic_any(x) });
    std::panic::set_hook(Box::new(|_| {})); // prints nothing
    let calls = here.options().progress(progress_bar());
    assert!(catch_unwind(AssertUnwindSafe(|| calls.map(double, inputs))).is_err());
    drop(calls);
    eprintln!("no tasks");
    assert!(pool.options().progress(progress_bar()).map(double, []).is_ok());
    eprintln!("calls without progress");
    let calls = pool.options().progress(progress_bar());
    assert!(calls.apply(double, 1).is_ok());
    assert!(calls.map_async(double, 0..10).and_then(|task| task.get()).is_ok());
    eprintln!("the end");
}

/// Takes the first three results of a call of any executor.
fn in_caller(on: &impl Executor, inputs: u32) -> Vec<u32> {
    let results = on.options().progress(progress_bar()).imap(|x: u32| x, 0..inputs);
    results.take(3).flatten().collect()
}

/// What `show_bars` itself prints.
const HEADINGS: &str = "\
map
the same options again
failures and retries
a function that borrows data
imap
imap_unordered, of an unknown number of inputs
an iterator that is kept after its end
an iterator that is dropped before its end
an iterator without an end
a call that fails
inputs that panic
no tasks
calls without progress
the end
";

/// Runs `command`, which must succeed, and returns what it writes to a terminal.
fn written(command: Command, columns: u16) -> Finished {
    let finished = run_on_terminal(command, columns);
    assert!(finished.status.success(), "{}\n{}", finished.status, finished.stderr);
    finished
}

fn bar_is_one_line_that_stays(start_method: StartMethod) {
    let written = written(command(show_bars, start_method), COLUMNS);
    assert_snapshot("progress_bars", 2, &screen(&written.stderr, COLUMNS));
}

fn narrow_terminal_cuts_off_the_line(start_method: StartMethod) {
    let rows = |columns| {
        let written = written(command(show_bars, start_method), columns);
        screen(&written.stderr, columns).lines().filter(|row| row.starts_with('[')).count()
    };
    assert_eq!(rows(48), rows(COLUMNS));
}

fn nothing_is_printed_without_a_terminal(start_method: StartMethod) {
    let pipe = crate::support::run(show_bars, start_method, &[]);
    assert_eq!((pipe.status.success(), &*pipe.stderr), (true, HEADINGS));
    let mut on_dumb_terminal = command(show_bars, start_method);
    on_dumb_terminal.env("TERM", "dumb");
    let written = written(on_dumb_terminal, COLUMNS);
    assert_eq!(written.stderr, HEADINGS.replace('\n', "\r\n"));
}

/// Makes a call whose results arrive one by one.
fn show_many_results(arguments: &Arguments) {
    let calls = arguments.pool(2);
    let calls = calls.options().chunksize(1).progress(progress_bar());
    assert_eq!(calls.imap(|x: u32| x, 0..20_000).count(), 20_000);
}

fn bar_is_drawn_at_most_ten_times_a_second(start_method: StartMethod) {
    let written = written(command(show_many_results, start_method), COLUMNS);
    let drawings = written.stderr.matches("/20000").count();
    // The first one, and at the end two.
    let expected = written.took.as_millis() / 100 + 3;
    assert!((3..=expected as usize).contains(&drawings), "{drawings} in {:?}", written.took);
}

/// A task that takes longer than the time between two drawings.
fn slow(x: u32) -> u32 {
    std::thread::sleep(Duration::from_millis(150));
    x
}

/// Ends the program while a call is half done. One task of it has failed.
fn leave_bar(_: &Arguments) {
    let here = InProcess::new();
    let even = |x: u32| {
        assert!(x.is_multiple_of(2), "an odd number");
        slow(x)
    };
    let calls = here.options().retries(1).progress(progress_bar());
    let mut results = calls.imap(even, (0..6).rev());
    for _ in results.by_ref().take(2) {}
    std::process::exit(0);
}

fn running_call_shows_what_remains(start_method: StartMethod) {
    let written = written(command(leave_bar, start_method), COLUMNS);
    assert_snapshot("progress_bar_half_done", 1, &screen(&written.stderr, COLUMNS));
}

/// Ends the program while a call is going on whose number of tasks is not known.
fn leave_spinner(_: &Arguments) {
    let here = InProcess::new();
    let mut results = here.options().progress(progress_bar()).imap(slow, 0..);
    for _ in results.by_ref().take(2) {}
    std::process::exit(0);
}

fn call_with_an_unknown_number_of_tasks_has_a_spinner(start_method: StartMethod) {
    let written = written(command(leave_spinner, start_method), COLUMNS);
    assert_snapshot("progress_spinner", 1, &screen(&written.stderr, COLUMNS));
}
