//! Limits of processes and of workers: set, passed, and refused.

use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::Pid;
use proc_core::{Child, Limits, Pool, Process};

use crate::{Arguments, Scenario, describe, print_fates};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("limits-set", limits_set),
    ("limits-passed", limits_passed),
    ("limits-refused", limits_refused),
];

/// What holds in this process.
fn look(_: ()) -> String {
    let limit = |resource| getrlimit(resource).expect("it can be asked");
    let set = sched_getaffinity(Pid::from_raw(0)).expect("it can be asked");
    let cpus: Vec<usize> =
        (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).expect("it is in range")).collect();
    let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc is mounted");
    // Field 19, where the one after the name in brackets is field 3.
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

fn limits_set(arguments: &Arguments) {
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
        let process = Process::new(look, ()).limits(limits).start_method(arguments.context);
        process.start().and_then(Child::join).expect("it returns")
    };
    tell("process", &start(limits.clone()));
    assert_eq!(start(Limits::new()), look(()), "none is set where none was asked for");
    let pool = Pool::builder().processes(1).limits(limits).start_method(arguments.context);
    let pool = pool.build().expect("it can be built");
    tell("worker", &pool.apply(look, ()).expect("it returns"));
    assert!(pool.apply(|()| std::process::exit(1), ()).map(|(): ()| ()).is_err());
    tell("next worker", &pool.apply(look, ()).expect("it returns"));
}

/// Memory and time run out in one task of several, and in a process.
fn limits_passed(arguments: &Arguments) {
    let limits = Limits::new().address_space(1 << 30).cpu_time(Duration::from_secs(1));
    let limits = limits.no_core_dumps();
    let work = |task: u32| match task {
        2 => vec![1_u8; 2 << 30].len(),
        4 => loop {
            std::hint::spin_loop();
        },
        task => task as usize,
    };
    // Before there are threads.
    let process = |task| {
        let process =
            Process::new(work, task).limits(limits.clone()).start_method(arguments.context);
        let error = process.start().and_then(Child::join).expect_err("it passes a limit");
        assert!(error.is_limit() && error.is_death(), "{error}");
        println!("{}", describe(&error).replace("Process-1", "P").replace("Process-2", "P"));
    };
    process(2);
    process(4);
    let pool = Pool::builder().processes(2).limits(limits.clone()).start_method(arguments.context);
    let pool = pool.build().expect("it can be built");
    print_fates(pool.options().chunksize(3).try_map(work, 0..6));
    let error = pool.apply(work, 2).expect_err("the replacements are limited too");
    assert!(error.is_limit(), "{error}");
}

/// Limits that cannot be set.
fn limits_refused(arguments: &Arguments) {
    let refused = [
        Limits::new().open_files(u64::MAX - 1),
        Limits::new().cpus([]),
        Limits::new().cpus([1_000_000]),
    ];
    for limits in refused.clone() {
        let process =
            Process::new(look, ()).limits(limits).start_method(arguments.context).name("p");
        println!(
            "{}",
            describe(&process.start().and_then(Child::join).expect_err("it is refused"))
        );
    }
    let [limits, ..] = refused;
    let pool = Pool::builder().processes(1).limits(limits).start_method(arguments.context).build();
    let error = pool.and_then(|pool| pool.apply(look, ())).expect_err("it is refused");
    println!("{}", describe(&error));
}
