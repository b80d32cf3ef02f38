//! Pools in tasks, and processes that start processes.

use proc_core::{Child, Pool, Process, StartMethod};

use crate::support::{Arguments, describe, program_name, run};

programs![nested_pools, nested_processes, nested_death];

tests! {
    pools_work_inside_tasks: forkserver spawn fork;
    processes_start_processes: forkserver spawn fork;
    death_in_a_nested_pool_is_its_own_error: forkserver spawn fork;
}

/// Makes `depth` levels of pools of two workers. Returns one pid for each call of this
/// function, its own first.
fn leaves<const START_METHOD: u8>(depth: u32) -> Vec<u32> {
    let mut pids = vec![std::process::id()];
    if depth > 0 {
        let pool =
            Pool::builder().processes(2).start_method(start_method::<START_METHOD>()).build();
        let pool = pool.expect("a worker can build a pool");
        let below = pool.options().chunksize(1).map(leaves::<START_METHOD>, [depth - 1; 2]);
        pids.extend(below.expect("nothing fails").into_iter().flatten());
        pool.close();
        pool.join().expect("the workers end");
    }
    pids
}

/// A start method does not cross between processes, so it is part of the function.
fn start_method<const START_METHOD: u8>() -> StartMethod {
    match START_METHOD {
        0 => StartMethod::Forkserver,
        1 => StartMethod::Spawn,
        _ => StartMethod::Fork,
    }
}

fn nested_pools(arguments: &Arguments) {
    let pids = match arguments.start_method {
        StartMethod::Forkserver => leaves::<0>(3),
        StartMethod::Spawn => leaves::<1>(3),
        StartMethod::Fork => leaves::<2>(3),
    };
    // 1 + 2 + 4 + 8 answers. One worker of a pool may have given both of its pool's answers.
    assert_eq!(pids.len(), 15);
    println!("{} answers", pids.len());
}

fn pools_work_inside_tasks(start_method: StartMethod) {
    assert_eq!(run(nested_pools, start_method, &[]).succeeded(), "15 answers\n");
}

/// A process starts a process that starts a process, each with its own argument.
fn chain<const START_METHOD: u8>(depth: u32) -> Vec<(u32, String)> {
    let name = std::fs::read_to_string("/proc/self/comm").expect("/proc is mounted");
    let mut answers = vec![(depth, name.trim_end().to_owned())];
    if depth > 0 {
        let below = Process::new(chain::<START_METHOD>, depth - 1)
            .name(format!("link-{}", depth - 1))
            .start_method(start_method::<START_METHOD>())
            .start();
        answers.extend(below.and_then(Child::join).expect("a process can start one"));
    }
    answers
}

fn nested_processes(arguments: &Arguments) {
    let answers = match arguments.start_method {
        StartMethod::Forkserver => chain::<0>(5),
        StartMethod::Spawn => chain::<1>(5),
        StartMethod::Fork => chain::<2>(5),
    };
    println!("{answers:?}");
}

fn processes_start_processes(start_method: StartMethod) {
    let program = program_name();
    let expected = format!(
        "[(5, {program:?}), (4, \"link-4\"), (3, \"link-3\"), (2, \"link-2\"), \
         (1, \"link-1\"), (0, \"link-0\")]\n"
    );
    assert_eq!(run(nested_processes, start_method, &[]).succeeded(), expected);
}

/// A task in a pool in a task dies: the error names the inner task.
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

fn death_in_a_nested_pool_is_its_own_error(start_method: StartMethod) {
    let expected = "death code=9 task=0 worker=0 | task 0: the process exited with code 9 before \
                    it had a result\n";
    assert_eq!(run(nested_death, start_method, &[]).succeeded(), expected);
}
