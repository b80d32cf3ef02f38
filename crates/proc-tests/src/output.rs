//! What tasks and processes print.

use std::io::Write;
use std::process;

use proc_core::Process;

use crate::{Arguments, Scenario, describe, print_fates};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("unfinished-line-pool", unfinished_line_pool),
    ("unfinished-line-process", unfinished_line_process),
    ("unfinished-line-brisk", unfinished_line_brisk),
    ("closed-stdout", closed_stdout),
    ("many-lines", many_lines),
];

/// Prints without a newline, then ends as told.
fn print_and(end: String) {
    print!("printed before {end};");
    match end.as_str() {
        "return" => {}
        "panic" => panic!("told to"),
        "exit" => process::exit(7),
        other => panic!("no such end: {other}"),
    }
}

fn unfinished_line_pool(arguments: &Arguments) {
    let pool = arguments.pool(1);
    // Nothing is printed here before the end: stdout is the task's alone.
    let result = pool.apply(print_and, arguments.word().to_owned());
    eprintln!("{}", result.map_or_else(|error| describe(&error), |()| "returned".into()));
}

/// Tasks that take less than a look at what they have printed, in workers that end amid a chunk.
fn unfinished_line_brisk(arguments: &Arguments) {
    let pool = proc_core::Pool::builder()
        .processes(1)
        .start_method(arguments.context)
        .max_tasks_per_child(3000);
    let pool = pool.build().expect("it is built");
    let tasks: Vec<u32> = (0..arguments.number() as u32).collect();
    let print = |task: u32| {
        print!("{task} ");
        task
    };
    assert_eq!(pool.map(print, tasks.clone()).expect("nothing fails"), tasks);
}

fn unfinished_line_process(arguments: &Arguments) {
    let child = Process::new(print_and, arguments.word().to_owned())
        .start_method(arguments.context)
        .name("printer")
        .start()
        .expect("it can be started");
    let result = child.join();
    eprintln!("{}", result.map_or_else(|error| describe(&error), |()| "returned".into()));
}

/// Everybody prints to a pipe that nobody reads.
fn closed_stdout(arguments: &Arguments) {
    let pool = arguments.pool(2);
    // Not a newline, so nothing is noticed before the worker flushes.
    let results = pool.try_map(
        |x: u32| {
            print!("unheard");
            x
        },
        0..4,
    );
    assert!(results.into_iter().map(|r| r.expect("it returns")).eq(0..4));
    let error = pool.apply(|()| println!("unheard"), ()).expect_err("println panics");
    eprintln!("{}", error.panic_message().expect("it is a panic"));
    let child = Process::new(|()| print!("unheard"), ()).start_method(arguments.context).start();
    child.and_then(proc_core::Child::join).expect("it returns");
    drop(pool);
    let written = writeln!(std::io::stdout(), "unheard");
    eprintln!("{}", written.expect_err("nobody reads it"));
}

/// Several workers print lines, each in pieces.
fn many_lines(arguments: &Arguments) {
    let pool = arguments.pool(4);
    let task = |task: usize| {
        print!("task {task} ");
        print!("says ");
        for _ in 0..task % 50 {
            print!("again ");
        }
        println!("{}", "and again".repeat(task % 7));
    };
    print_fates(pool.try_map(task, 0..arguments.number()).into_iter().filter(Result::is_err));
}
