//! Pools in tasks, and processes that start processes.

use proc_core::{Child, InProcess, Pool, Process, StartMethod, current};

use crate::support::{Arguments, describe, program_name, run};

programs![nested_pools, nested_processes, nested_death, nested_current];

tests! {
    pools_work_inside_tasks: forkserver spawn fork;
    processes_start_processes: forkserver spawn fork;
    death_in_a_nested_pool_is_its_own_error: forkserver spawn fork;
    current_tells_of_the_innermost_pool: forkserver spawn fork;
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

/// What [`current`] tells: the pool, and the index of the task.
type Here = (Option<String>, Option<usize>);

fn here() -> Here {
    let current = current();
    assert_eq!(current.pool().is_some(), current.worker().is_some());
    (current.pool().map(str::to_owned), current.task())
}

/// Returns what is told here, in a process, and in the second task of a pool with one worker.
fn heres<const START_METHOD: u8>(_: u32) -> [Here; 3] {
    let start_method = start_method::<START_METHOD>();
    let process = Process::new(|()| here(), ()).start_method(start_method).start();
    let pool = Pool::builder().processes(1).name("inner").start_method(start_method).build();
    let tasks = pool.and_then(|pool| pool.map(|_: u32| here(), 0..2));
    let process = process.and_then(Child::join).expect("it returns");
    [here(), process, tasks.expect("nothing fails").remove(1)]
}

fn nested_current(arguments: &Arguments) {
    match arguments.start_method {
        StartMethod::Forkserver => print_heres::<0>(arguments),
        StartMethod::Spawn => print_heres::<1>(arguments),
        StartMethod::Fork => print_heres::<2>(arguments),
    }
}

fn print_heres<const START_METHOD: u8>(arguments: &Arguments) {
    let in_process = InProcess::new().map(heres::<START_METHOD>, [0]);
    println!("{:?}", in_process.expect("nothing fails"));
    // The index of the last of eight tasks is none of the inner pool's.
    let in_pool = arguments.pool(1).map(heres::<START_METHOD>, 0..8);
    println!("{:?}", in_pool.expect("nothing fails").pop());
}

fn current_tells_of_the_innermost_pool(start_method: StartMethod) {
    let below = "(None, None), (Some(\"inner\"), Some(1))";
    let expected =
        format!("[[(None, Some(0)), {below}]]\nSome([(Some(\"worker\"), Some(7)), {below}])\n");
    assert_eq!(run(nested_current, start_method, &[]).succeeded(), expected);
}
