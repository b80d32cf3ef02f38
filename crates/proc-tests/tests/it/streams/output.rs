//! The output of tasks and processes arrives, and lines arrive whole.

use std::io::Write;
use std::process::{self, Stdio};
use std::sync::mpsc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd;
use proc_core::{Child, Process, StartMethod};

use crate::support::{Arguments, Running, command, describe, print_results, raw, run, wait_until};

programs![
    task_prints_unfinished_line,
    short_tasks_print_unfinished_lines,
    process_prints_unfinished_line,
    print_to_closed_stdout,
    print_many_lines,
    thread_holds_a_stream,
    print_without_a_thread
];

tests! {
    text_without_a_newline_arrives_from_tasks: forkserver spawn fork;
    text_without_a_newline_arrives_from_short_tasks: forkserver spawn fork;
    text_without_a_newline_arrives_from_processes: forkserver spawn fork;
    only_printing_fails_when_stdout_is_closed: forkserver spawn;
    lines_are_never_torn: forkserver spawn fork;
    thread_that_holds_stdout_holds_up_nobody: forkserver spawn fork;
    thread_that_waits_in_c_holds_up_nobody: forkserver spawn fork;
    text_arrives_after_there_was_no_thread_to_write_it: forkserver spawn fork;
}

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

fn task_prints_unfinished_line(arguments: &Arguments) {
    let pool = arguments.pool(1);
    // This process prints to stderr only: stdout is left to the task.
    let result = pool.apply(print_and, arguments.word().to_owned());
    eprintln!("{}", result.map_or_else(|error| describe(&error), |()| "returned".into()));
}

const ENDS: [(&str, &str); 3] =
    [("return", "returned\n"), ("panic", "panic task=0 "), ("exit", "death code=7 task=0 ")];

fn text_without_a_newline_arrives_from_tasks(start_method: StartMethod) {
    for (end, told) in ENDS {
        let finished = run(task_prints_unfinished_line, start_method, &[end]);
        assert!(finished.status.success(), "{}", finished.stderr);
        assert_eq!(finished.stdout, format!("printed before {end};"));
        assert!(finished.stderr.starts_with(told), "{}", finished.stderr);
        assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
    }
}

/// Very short tasks print, in workers that are replaced within a chunk.
fn short_tasks_print_unfinished_lines(arguments: &Arguments) {
    let pool = proc_core::Pool::builder()
        .processes(1)
        .start_method(arguments.start_method)
        .max_tasks_per_child(3000);
    let pool = pool.build().expect("it is built");
    let tasks: Vec<u32> = (0..arguments.number() as u32).collect();
    let print = |task: u32| {
        print!("{task} ");
        task
    };
    assert_eq!(pool.map(print, tasks.clone()).expect("nothing fails"), tasks);
}

fn text_without_a_newline_arrives_from_short_tasks(start_method: StartMethod) {
    let finished = run(short_tasks_print_unfinished_lines, start_method, &["10000"]);
    let words = finished.succeeded().split_terminator(' ');
    // Tasks may be shared out anew during the call, so their order is free.
    let mut told: Vec<u32> = words.map(|word| word.parse().expect("a number")).collect();
    told.sort_unstable();
    assert!(told.iter().copied().eq(0..10_000), "{} of them", told.len());
}

fn process_prints_unfinished_line(arguments: &Arguments) {
    let child = Process::new(print_and, arguments.word().to_owned())
        .start_method(arguments.start_method)
        .name("printer")
        .start()
        .expect("it can be started");
    let result = child.join();
    eprintln!("{}", result.map_or_else(|error| describe(&error), |()| "returned".into()));
}

fn text_without_a_newline_arrives_from_processes(start_method: StartMethod) {
    let ends = [("return", "returned"), ("panic", "panic "), ("exit", "death code=7 ")];
    for (end, told) in ends {
        let finished = run(process_prints_unfinished_line, start_method, &[end]);
        assert!(finished.status.success(), "{}", finished.stderr);
        assert_eq!(finished.stdout, format!("printed before {end};"));
        let last = finished.stderr.lines().last().expect("the parent tells the end");
        assert!(last.starts_with(told), "{}", finished.stderr);
        // A process's own panic is also printed, as in a program without a parent.
        let printed = finished.stderr.contains(concat!("panicked at ", file!(), ":"));
        assert_eq!(printed && finished.stderr.lines().count() > 1, end == "panic");
    }
}

/// All processes print to a pipe that nobody reads.
fn print_to_closed_stdout(arguments: &Arguments) {
    let pool = arguments.pool(2);
    // Without a newline, nothing is written before the worker flushes its output.
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
    let child =
        Process::new(|()| print!("unheard"), ()).start_method(arguments.start_method).start();
    child.and_then(proc_core::Child::join).expect("it returns");
    drop(pool);
    let written = writeln!(std::io::stdout(), "unheard");
    eprintln!("{}", written.expect_err("nobody reads it"));
}

fn only_printing_fails_when_stdout_is_closed(start_method: StartMethod) {
    let (reader, writer) = std::io::pipe().expect("a pipe can be made");
    drop(reader);
    let mut command = command(print_to_closed_stdout, start_method);
    command.stdout(Stdio::from(writer));
    let finished = Running::start(command).finish();
    assert_eq!(
        finished.stderr,
        "failed printing to stdout: Broken pipe (os error 32)\nBroken pipe (os error 32)\n"
    );
    assert!(finished.status.success());
}

/// Several workers print lines, each in pieces.
fn print_many_lines(arguments: &Arguments) {
    let pool = arguments.pool(4);
    let task = |task: usize| {
        print!("task {task} ");
        print!("says ");
        for _ in 0..task % 50 {
            print!("again ");
        }
        println!("{}", "and again".repeat(task % 7));
    };
    print_results(pool.try_map(task, 0..arguments.number()).into_iter().filter(Result::is_err));
}

fn lines_are_never_torn(start_method: StartMethod) {
    const LINES: usize = 4000;
    let finished = run(print_many_lines, start_method, &[&LINES.to_string()]);
    let expected = |task: usize| {
        let (again, end) = ("again ".repeat(task % 50), "and again".repeat(task % 7));
        format!("task {task} says {again}{end}")
    };
    let number = |line: &str| -> usize {
        let word = line.split(' ').nth(1).expect("a line begins with its task");
        word.parse().unwrap_or_else(|_| panic!("a torn line: {line:?}"))
    };
    let mut lines: Vec<&str> = finished.succeeded().lines().collect();
    lines.sort_by_key(|line| number(line));
    let whole: Vec<String> = (0..LINES).map(expected).collect();
    assert_eq!(lines, whole);
}

fn increment(x: u32) -> u32 {
    x + 1
}

/// A task leaves a thread behind that holds the lock of a stream forever.
fn thread_holds_a_stream(arguments: &Arguments) {
    let pool = arguments.pool(1);
    let result = match arguments.word() {
        "stdout" => pool.apply(hold_stdout, ()),
        "stdin" => pool.apply(hold_stdin, ()),
        other => panic!("no such stream: {other}"),
    };
    println!("task {}", result.expect("it returns"));
    println!("next {:?}", pool.map(increment, 0..3).expect("the pool goes on"));
    drop(pool);
    let start_method = match arguments.start_method {
        // After a pool with `Fork`, the process has the default start method.
        StartMethod::Fork => StartMethod::Forkserver,
        other => other,
    };
    let child = match arguments.word() {
        "stdout" => Process::new(hold_stdout, ()).start_method(start_method).start(),
        _ => Process::new(hold_stdin, ()).start_method(start_method).start(),
    };
    println!("process {}", child.and_then(Child::join).expect("it returns"));
}

fn hold_stdout(_: ()) -> u32 {
    let (send, held) = mpsc::channel();
    std::thread::spawn(move || {
        let _stdout = std::io::stdout().lock();
        send.send(()).expect("it is waited for");
        loop {
            std::thread::park();
        }
    });
    held.recv().expect("the thread lives");
    7
}

fn hold_stdin(_: ()) -> u32 {
    let (reader, writer) = unistd::pipe().expect("a pipe can be made");
    unistd::dup2_stdin(reader).expect("stdin can be replaced");
    std::mem::forget(writer);
    let (send, reading) = mpsc::channel();
    std::thread::spawn(move || {
        send.send(unistd::gettid()).expect("it is waited for");
        raw::read_character()
    });
    let thread = reading.recv().expect("the thread lives");
    // The thread sleeps only while it reads.
    wait_until(|| {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat"));
        stat.is_ok_and(|stat| stat.contains(") S "))
    });
    7
}

fn thread_that_holds_stdout_holds_up_nobody(start_method: StartMethod) {
    let finished = run(thread_holds_a_stream, start_method, &["stdout"]);
    assert_eq!(finished.succeeded(), "task 7\nnext [1, 2, 3]\nprocess 7\n");
}

fn thread_that_waits_in_c_holds_up_nobody(start_method: StartMethod) {
    let finished = run(thread_holds_a_stream, start_method, &["stdin"]);
    assert_eq!(finished.succeeded(), "task 7\nnext [1, 2, 3]\nprocess 7\n");
}

/// A worker has a second thread, so a third one writes its text out. After the first task, there is
/// less address space than the library requires before it starts that thread.
fn print_without_a_thread(arguments: &Arguments) {
    let park = |()| {
        drop(std::thread::spawn(|| {
            loop {
                std::thread::park()
            }
        }))
    };
    let pool = arguments.pool_builder(1).initializer(park, ()).build();
    let pool = pool.expect("the pool can be built");
    let one = |()| {
        print!("one ");
        let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc is mounted");
        let pages: u64 = statm.split(' ').next().expect("a line").parse().expect("a number");
        let (_, hard) = getrlimit(Resource::RLIMIT_AS).expect("it can be asked");
        let little_more = (pages << 12) + (512 << 10);
        setrlimit(Resource::RLIMIT_AS, little_more, hard).expect("it can be lowered");
    };
    let two = |()| {
        print!("two ");
        let (_, hard) = getrlimit(Resource::RLIMIT_AS).expect("it can be asked");
        setrlimit(Resource::RLIMIT_AS, hard, hard).expect("it can be raised");
    };
    pool.apply(one, ()).expect("it returns");
    pool.apply(two, ()).expect("it returns");
    println!("three");
}

fn text_arrives_after_there_was_no_thread_to_write_it(start_method: StartMethod) {
    let finished = run(print_without_a_thread, start_method, &[]);
    assert_eq!(finished.succeeded(), "one two three\n");
}
