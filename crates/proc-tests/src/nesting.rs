//! Pools in tasks, and processes that start processes.

use proc_core::{Child, Pool, Process, StartMethod};

use crate::{Arguments, Scenario, describe};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("nested-pools", nested_pools),
    ("nested-processes", nested_processes),
    ("nested-death", nested_death),
];

/// The number of processes, each with its pid, that `depth` levels of pools of two have.
fn leaves<const CONTEXT: u8>(depth: u32) -> Vec<u32> {
    let mut pids = vec![std::process::id()];
    if depth > 0 {
        let pool = Pool::builder().processes(2).start_method(context::<CONTEXT>()).build();
        let pool = pool.expect("a worker can build a pool");
        let below = pool.options().chunksize(1).map(leaves::<CONTEXT>, [depth - 1; 2]);
        pids.extend(below.expect("nothing fails").into_iter().flatten());
        pool.close();
        pool.join().expect("the workers end");
    }
    pids
}

/// A context does not cross between processes, so it is part of the function.
fn context<const CONTEXT: u8>() -> StartMethod {
    match CONTEXT {
        0 => StartMethod::Forkserver,
        1 => StartMethod::Spawn,
        _ => StartMethod::Fork,
    }
}

fn nested_pools(arguments: &Arguments) {
    let pids = match arguments.context {
        StartMethod::Forkserver => leaves::<0>(3),
        StartMethod::Spawn => leaves::<1>(3),
        StartMethod::Fork => leaves::<2>(3),
    };
    // 1 + 2 + 4 + 8 answers, where one worker of a pool may have given both of its.
    assert_eq!(pids.len(), 15);
    println!("{} answers", pids.len());
}

/// A process starts one that starts one, each with its own argument.
fn chain<const CONTEXT: u8>(depth: u32) -> Vec<(u32, String)> {
    let name = std::fs::read_to_string("/proc/self/comm").expect("/proc is mounted");
    let mut answers = vec![(depth, name.trim_end().to_owned())];
    if depth > 0 {
        let below = Process::new(chain::<CONTEXT>, depth - 1)
            .name(format!("link-{}", depth - 1))
            .start_method(context::<CONTEXT>())
            .start();
        answers.extend(below.and_then(Child::join).expect("a process can start one"));
    }
    answers
}

fn nested_processes(arguments: &Arguments) {
    let answers = match arguments.context {
        StartMethod::Forkserver => chain::<0>(5),
        StartMethod::Spawn => chain::<1>(5),
        StartMethod::Fork => chain::<2>(5),
    };
    println!("{answers:?}");
}

/// The error of a task inside a task is that task's own.
fn nested_death(arguments: &Arguments) {
    let pool = arguments.pool(1);
    let task = |(): ()| {
        let pool = Pool::builder().processes(1).build().expect("a worker can build a pool");
        let error = pool.apply(|()| std::process::exit(9), ()).map(|(): ()| ());
        let error = error.expect_err("it exits");
        assert_ne!(error.pid(), Some(std::process::id()));
        let line = describe(&error);
        let (data, text) = (line.split(" pid=").next(), line.split(" | ").nth(1));
        format!(
            "{} | {}",
            data.expect("data"),
            text.and_then(|t| t.split(" (").next()).expect("text")
        )
    };
    println!("{}", pool.apply(task, ()).expect("the outer worker lives"));
}
