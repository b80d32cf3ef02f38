//! What a task may do to its worker, and what everybody else notices of it.

mod support;
use support::{Finished, assert_told, scenario};

const HINT: &str = "; if nobody sent it, the kernel ran out of memory (see `dmesg` for the \
                    out-of-memory killer)";

in_contexts! {
    killed_worker_costs_one_task: forkserver spawn fork;
    task_that_ends_its_process_is_told_by_its_exit_status: forkserver spawn fork;
    panic_costs_one_task_and_no_worker: forkserver spawn fork;
    killed_idle_workers_cost_nothing: forkserver spawn fork;
    values_that_cannot_cross_cost_one_task: forkserver spawn fork;
    failing_initializer_is_believed: forkserver spawn fork;
    initializer_may_fail_once: forkserver spawn fork;
    large_values_of_a_killed_worker_block_nobody: forkserver spawn fork;
    late_tasks_are_ended_alone: forkserver spawn fork;
}

/// Worker numbers are free; that they are in range is checked here, before they are wiped.
fn without_workers(text: &str, workers: usize) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) =
        rest.find("worker").filter(|at| rest[at + 7..].starts_with(|c: char| c.is_ascii_digit()))
    {
        let (before, number) = rest.split_at(at + 7);
        let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
        let worker: usize = number[..end].parse().expect("digits");
        assert!(worker < workers, "worker {worker} of {workers}");
        out += before;
        out += "W";
        rest = &number[end..];
    }
    out + rest
}

fn killed_worker_costs_one_task(context: &str) {
    // Alone in its chunk, in the middle of one, and in one with everything.
    for chunksize in ["1", "2", "4", "8", "1000"] {
        let finished = scenario("worker-killed", context, &[chunksize]);
        finished.succeeded();
        let pid = finished.after("doomed ");
        let expected = format!(
            "0: 0\n1: 10\n2: 20\n\
             3: death signal=9 task=3 worker=W pid={pid} | task 3: the process was killed by \
             signal 9 (SIGKILL){HINT} (worker W, pid {pid})\n\
             4: 40\n5: 50\n6: 60\n7: 70\n\
             afterwards 999000\n"
        );
        assert_eq!(without_workers(fates(&finished), 2), expected, "chunksize {chunksize}");
    }
}

/// What follows on what tasks printed.
fn fates(finished: &Finished) -> &str {
    let start = finished.stdout.find("0: ").expect("fates are printed");
    &finished.stdout[start..]
}

fn task_that_ends_its_process_is_told_by_its_exit_status(context: &str) {
    for chunksize in ["1", "3", "8"] {
        let finished = scenario("task-exits", context, &[chunksize]);
        assert!(finished.status.success(), "{}", finished.stderr);
        // Rust's runtime, which tells a stack overflow from another wild access, prepares for that
        // at the beginning of `main`. The program that is executed again never gets there.
        let is_executed = context == "spawn";
        let is_told = finished.stderr.contains("has overflowed its stack");
        assert_eq!(is_told, !is_executed, "{}", finished.stderr);
        let fates = without_workers(fates(&finished), 2);
        let lines: Vec<&str> = fates.lines().collect();
        let dead = |task: usize, status: &str, text: &str| {
            let line = lines[task];
            let (told, rest) = line.split_once(" pid=").expect(line);
            assert_eq!(told, format!("{task}: death {status} task={task} worker=W"));
            let (pid, text_told) = rest.split_once(" | ").expect(line);
            let text = format!("task {task}: the process {text} (worker W, pid {pid})");
            assert_eq!(text_told.replace(", core dumped", ""), text);
        };
        dead(1, "code=7", "exited with code 7 before it had a result");
        dead(3, "signal=6", "was killed by signal 6 (SIGABRT)");
        if is_executed {
            dead(5, "signal=11", "was killed by signal 11 (SIGSEGV)");
        } else {
            dead(5, "signal=6", "was killed by signal 6 (SIGABRT)");
        }
        dead(6, "code=0", "exited with code 0 before it had a result");
        for task in [0, 2, 4, 7] {
            assert_eq!(lines[task], format!("{task}: {task}"));
        }
        assert_eq!(lines[8..], ["afterwards [2, 3]"]);
    }
}

fn panic_costs_one_task_and_no_worker(context: &str) {
    for chunksize in ["1", "4", "9"] {
        let finished = scenario("task-panics", context, &[chunksize]);
        // A pool's panics are for whoever called: nothing is printed.
        assert_told("tasks_that_panic", 2, finished.succeeded());
    }
}

fn killed_idle_workers_cost_nothing(context: &str) {
    assert_eq!(scenario("idle-worker-killed", context, &[]).succeeded(), "killed 100\n");
}

fn values_that_cannot_cross_cost_one_task(context: &str) {
    for chunksize in ["1", "3", "8"] {
        let finished = scenario("odd-values", context, &[chunksize]);
        assert!(finished.status.success(), "{}", finished.stderr);
        // A panic that becomes an error is not printed, in the caller's own process as in workers.
        assert_eq!(finished.stderr, "");
        assert_told("values_that_cannot_cross", 2, &finished.stdout);
    }
}

fn failing_initializer_is_believed(context: &str) {
    for way in ["panics", "exits", "is killed"] {
        let finished = scenario("initializer-fails", context, &[way]);
        let name = format!("initializer_that_{}", way.replace(' ', "_"));
        assert_told(&name, 2, finished.succeeded());
    }
}

fn initializer_may_fail_once(context: &str) {
    let finished = scenario("initializer-fails-once", context, &[]);
    assert_eq!(finished.succeeded(), "[0, 1, 2, 3, 4, 5, 6, 7]\n");
}

fn large_values_of_a_killed_worker_block_nobody(context: &str) {
    // Page by page this is slow, and how a worker is born makes no difference in a chunk of all.
    let chunksizes = if context == "forkserver" { ["1", "10"].as_slice() } else { &["1"] };
    for chunksize in chunksizes {
        let finished = scenario("large-in-flight", context, &[chunksize]);
        assert_told("large_values_of_a_killed_worker", 2, finished.succeeded());
    }
}

fn late_tasks_are_ended_alone(context: &str) {
    for chunksize in ["1", "7"] {
        let finished = scenario("timeouts", context, &[chunksize]);
        assert_told("tasks_that_are_late", 2, finished.succeeded());
    }
}
