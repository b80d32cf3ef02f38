//! `Limits`: set, reached, and refused.

use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use proc_core::{Child, Error, Limits, Pool, Process, StartMethod};

use crate::support::{Arguments, assert_snapshot, describe, print_results, raw, run, signal_self};

programs![set_limits, pass_limits, survive_sigxcpu, set_refused_limits];

tests! {
    limits_hold_for_processes_and_workers: forkserver spawn fork;
    error_names_the_limit_that_was_passed: forkserver spawn fork;
    error_names_the_limit_that_a_process_has_survived: forkserver spawn fork;
    limits_that_cannot_be_set_are_errors: forkserver spawn fork;
}

/// The limits of this process.
fn look(_: ()) -> String {
    let limit = |resource| getrlimit(resource).expect("it can be asked");
    let set = sched_getaffinity(Pid::from_raw(0)).expect("it can be asked");
    let cpus: Vec<usize> =
        (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).expect("it is in range")).collect();
    let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc is mounted");
    // Field 19. The field after the name in brackets is field 3.
    let nice = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(16));
    format!(
        "memory {:?}, time {:?}, files {:?}, core {:?}, nice {}, cpus {cpus:?}",
        limit(Resource::RLIMIT_AS),
        limit(Resource::RLIMIT_CPU),
        limit(Resource::RLIMIT_NOFILE),
        limit(Resource::RLIMIT_CORE),
        nice.expect("there are as many fields"),
    )
}

fn set_limits(arguments: &Arguments) {
    let first = sched_getaffinity(Pid::from_raw(0)).expect("it can be asked");
    let cpu = (0..CpuSet::count()).find(|cpu| first.is_set(*cpu).expect("it is in range"));
    let cpu = cpu.expect("this runs on one");
    let limits = Limits::new()
        .address_space(3 << 30)
        .cpu_time(Duration::from_millis(59_001))
        .open_files(100)
        .no_core_dumps()
        .niceness(7)
        .cpus([cpu]);
    let tell = |what: &str, text: &str| {
        println!("{what}: {}", text.replace(&format!("cpus [{cpu}]"), "cpus [C]"));
    };
    let start = |limits: Limits| {
        let process = Process::new(look, ()).limits(limits).start_method(arguments.start_method);
        process.start().and_then(Child::join).expect("it returns")
    };
    tell("process", &start(limits.clone()));
    assert_eq!(start(Limits::new()), look(()), "none is set where none was asked for");
    let pool = Pool::builder().processes(1).limits(limits).start_method(arguments.start_method);
    let pool = pool.build().expect("it can be built");
    tell("worker", &pool.apply(look, ()).expect("it returns"));
    assert!(pool.apply(|()| std::process::exit(1), ()).map(|(): ()| ()).is_err());
    tell("next worker", &pool.apply(look, ()).expect("it returns"));
}

fn limits_hold_for_processes_and_workers(start_method: StartMethod) {
    assert_snapshot("limits_set", 1, run(set_limits, start_method, &[]).succeeded());
}

/// Memory and time run out in one task of several, and in a process.
fn pass_limits(arguments: &Arguments) {
    let limits = Limits::new().address_space(1 << 30).cpu_time(Duration::from_secs(1));
    let limits = limits.no_core_dumps();
    let work = |task: u32| match task {
        2 => vec![1_u8; 2 << 30].len(),
        4 => loop {
            std::hint::spin_loop();
        },
        task => task as usize,
    };
    // Processes come first: `Fork` needs a program without threads.
    let process = |task| {
        let process =
            Process::new(work, task).limits(limits.clone()).start_method(arguments.start_method);
        let error = process.start().and_then(Child::join).expect_err("it passes a limit");
        assert!(error.is_limit() && error.is_death(), "{error}");
        println!("{}", describe(&error).replace("Process-1", "P").replace("Process-2", "P"));
    };
    process(2);
    process(4);
    let pool =
        Pool::builder().processes(2).limits(limits.clone()).start_method(arguments.start_method);
    let pool = pool.build().expect("it can be built");
    print_results(pool.options().chunksize(3).try_map(work, 0..6));
    let error = pool.apply(work, 2).expect_err("the replacements are limited too");
    assert!(error.is_limit(), "{error}");
}

fn error_names_the_limit_that_was_passed(start_method: StartMethod) {
    let finished = run(pass_limits, start_method, &[]);
    assert!(finished.status.success(), "{}\n{}", finished.stdout, finished.stderr);
    // Rust prints one line for each allocation that failed.
    let failed = finished.stderr.matches("memory allocation of 2147483648 bytes failed").count();
    assert_eq!(failed, 3, "{}", finished.stderr);
    assert_snapshot("limits_passed", 2, &finished.stdout);
}

/// A process handles SIGXCPU, so the kernel kills it a second later. Another one is killed before.
fn survive_sigxcpu(arguments: &Arguments) {
    let limits = Limits::new().cpu_time(Duration::from_secs(1));
    let work = |is_busy: bool| {
        raw::count_signal(Signal::SIGXCPU);
        match is_busy {
            true => loop {
                std::hint::spin_loop();
            },
            false => signal_self(Signal::SIGKILL),
        }
    };
    let tell = |error: Error| {
        assert!(error.is_death() && error.to_string().contains("SIGKILL"), "{error}");
        let blames = |what| error.to_string().contains(what);
        println!("{} {} {}", error.is_limit(), blames("limited to 1 s"), blames("out-of-memory"));
    };
    for is_busy in [true, false] {
        let process = Process::new(work, is_busy).limits(limits.clone());
        let process = process.start_method(arguments.start_method).start();
        tell(process.and_then(Child::join).expect_err("it is killed"));
    }
    let pool = arguments.pool_builder(1).limits(limits).build().expect("it can be built");
    for is_busy in [true, false] {
        tell(pool.apply(work, is_busy).expect_err("its worker is killed"));
    }
}

fn error_names_the_limit_that_a_process_has_survived(start_method: StartMethod) {
    let finished = run(survive_sigxcpu, start_method, &[]);
    assert_eq!(finished.succeeded(), "true true false\nfalse false true\n".repeat(2));
}

/// Limits that cannot be set.
fn set_refused_limits(arguments: &Arguments) {
    let refused = [
        Limits::new().open_files(u64::MAX - 1),
        Limits::new().cpus([]),
        Limits::new().cpus([1_000_000]),
    ];
    for limits in refused.clone() {
        let process =
            Process::new(look, ()).limits(limits).start_method(arguments.start_method).name("p");
        println!(
            "{}",
            describe(&process.start().and_then(Child::join).expect_err("it is refused"))
        );
    }
    let [limits, ..] = refused;
    let pool =
        Pool::builder().processes(1).limits(limits).start_method(arguments.start_method).build();
    let error = pool.and_then(|pool| pool.apply(look, ())).expect_err("it is refused");
    println!("{}", describe(&error));
}

fn limits_that_cannot_be_set_are_errors(start_method: StartMethod) {
    assert_snapshot("limits_refused", 1, run(set_refused_limits, start_method, &[]).succeeded());
}
