//! What a task may do to its worker, and what everybody else notices of it.

mod support;
use support::{Finished, scenario, without};

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
        assert!(finished.stderr.contains("has overflowed its stack"), "{}", finished.stderr);
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
        dead(5, "signal=6", "was killed by signal 6 (SIGABRT)");
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
        let told = without_workers(finished.succeeded(), 2);
        let lines: Vec<&str> = told.lines().collect();
        let panicked = |line: &str, task: usize, message: &str, has_place: bool| {
            let (kind, rest) = line.split_once(" pid=").expect(line);
            assert_eq!(kind, format!("panic task={task} worker=W"));
            let (pid, rest) = rest.split_once(' ').expect(line);
            let (data, text) = rest.split_once(" | ").expect(line);
            let data = match data.split_once(" location=") {
                Some((data, place)) => {
                    let (file, at) = place.split_once(':').expect(place);
                    assert!(file.ends_with("src/failures.rs"), "{place}");
                    let (row, column) = at.split_once(':').expect(place);
                    assert!(row.parse::<u32>().is_ok() && column.parse::<u32>().is_ok());
                    let expected = format!(
                        "task {task}: panicked at {place}: {message} (worker W, pid {pid})"
                    );
                    assert_eq!(text, expected);
                    assert!(has_place, "{line}");
                    data
                }
                None => {
                    let expected =
                        format!("task {task}: panicked: {message} (worker W, pid {pid})");
                    assert_eq!(text, expected);
                    assert!(!has_place, "{line}");
                    data
                }
            };
            assert_eq!(data, format!("message={message:?}"));
        };
        let fate = |task: usize| lines[task].split_once(": ").expect("a task's fate").1;
        panicked(fate(1), 1, "explicit panic", true);
        panicked(fate(3), 3, "task 3 does not like it", true);
        panicked(fate(4), 4, "(a payload that is no string)", true);
        panicked(fate(5), 5, "(a payload that is no string)", true);
        let seventh = fate(7);
        assert!(seventh.contains("message=\"capacity overflow\""), "{seventh}");
        for task in [0, 2, 6, 8] {
            assert_eq!(lines[task], format!("{task}: {task}"));
        }
        panicked(lines[9].strip_prefix("map: ").expect("a line"), 1, "explicit panic", true);
        assert_eq!(lines[10..], ["the workers live on"]);
    }
}

fn killed_idle_workers_cost_nothing(context: &str) {
    assert_eq!(scenario("idle-worker-killed", context, &[]).succeeded(), "killed 100\n");
}

fn values_that_cannot_cross_cost_one_task(context: &str) {
    for chunksize in ["1", "3", "8"] {
        let finished = scenario("odd-values", context, &[chunksize]);
        assert!(finished.status.success(), "{}", finished.stderr);
        // Panics of the caller's own process are printed as always: one each for arguments written,
        // results read, and the same with imap, and two for initializers.
        assert!(finished.stderr.matches("panicked at").count() <= 6, "{}", finished.stderr);
        let told = without("pid", &without_workers(&finished.stdout, 2));
        let at = " (worker W, pid P)";
        let arguments = format!(
            "0: 0\n\
             1: encode task=1 | task 1: the argument cannot be encoded: odd value 1 stays at home\n\
             2: 2\n\
             3: decode task=3 worker=W pid=P | task 3: the argument cannot be decoded: odd value 3 \
             is not recognized{at}\n\
             4: encode task=4 | task 4: the argument cannot be encoded: it panicked: odd value 4 \
             makes its writer panic\n\
             5: 5\n\
             6: decode task=6 worker=W pid=P | task 6: the argument cannot be decoded: it panicked: \
             odd value 6 makes its reader panic{at}\n\
             7: 7\n"
        );
        let results = format!(
            "0: Odd(0)\n\
             1: encode task=1 worker=W pid=P | task 1: the result cannot be encoded: odd value 1 \
             stays at home{at}\n\
             2: Odd(2)\n\
             3: decode task=3 worker=W pid=P | task 3: the result cannot be decoded: odd value 3 is \
             not recognized{at}\n\
             4: encode task=4 worker=W pid=P | task 4: the result cannot be encoded: it panicked: \
             odd value 4 makes its writer panic{at}\n\
             5: Odd(5)\n\
             6: decode task=6 worker=W pid=P | task 6: the result cannot be decoded: it panicked: \
             odd value 6 makes its reader panic{at}\n\
             7: Odd(7)\n"
        );
        let initializer = format!(
            "encode worker=W | the argument cannot be encoded: odd value 1 stays at home (worker W)\n\
             encode worker=W | the argument cannot be encoded: it panicked: odd value 4 makes its \
             writer panic (worker W)\n\
             initializer | the pool's initializer failed: the argument cannot be decoded: odd value \
             3 is not recognized{at}\n\
             initializer | the pool's initializer failed: the argument cannot be decoded: it \
             panicked: odd value 6 makes its reader panic{at}\n"
        );
        let expected = format!(
            "arguments\n{arguments}results\n{results}imap of arguments\n{arguments}\
             imap of results\n{results}initializer\n{initializer}the workers live on\n"
        );
        assert_eq!(told, expected, "chunksize {chunksize}");
    }
}

fn failing_initializer_is_believed(context: &str) {
    let place = "crates/proc-tests/src/failures.rs:L:C";
    for (way, data, text) in [
        (
            "panics",
            format!("message=\"no licence\" location={place}"),
            format!("panicked at {place}: no licence"),
        ),
        ("exits", "code=4".into(), "the process exited with code 4 before it had a result".into()),
        (
            "is killed",
            "signal=9".into(),
            format!("the process was killed by signal 9 (SIGKILL){HINT}"),
        ),
    ] {
        let finished = scenario("initializer-fails", context, &[way]);
        let told = without("pid", &without_workers(finished.succeeded(), 2));
        let told = without_place(&told);
        // Each of two workers is tried three times.
        let attempts = "attempt\n".repeat(6);
        let text = format!("the pool's initializer failed: {text} (worker W, pid P)");
        let (code, message) = match way {
            "panics" => (String::new(), format!(" {data}")),
            _ => (format!(" {data}"), String::new()),
        };
        let expected = format!(
            "{attempts}map: initializer{code}{message} | {text}\n\
             apply: initializer{code}{message} | {text}\n\
             0: initializer{code} task=0{message} | task 0: {text}\n\
             1: initializer{code} task=1{message} | task 1: {text}\n\
             join: initializer{code}{message} | {text}\n"
        );
        assert_eq!(told, expected, "{way}");
    }
}

/// Wipes line and column of places in the scenarios' files.
fn without_place(text: &str) -> String {
    without("rs:column", &without("rs:line", text))
}

fn initializer_may_fail_once(context: &str) {
    let finished = scenario("initializer-fails-once", context, &[]);
    assert_eq!(finished.succeeded(), "[0, 1, 2, 3, 4, 5, 6, 7]\n");
}

fn large_values_of_a_killed_worker_block_nobody(context: &str) {
    for chunksize in ["1", "10"] {
        let finished = scenario("large-in-flight", context, &[chunksize]);
        let told = without("pid", &without_workers(finished.succeeded(), 2));
        let expected = format!(
            "0: ()\n1: ()\n2: ()\n\
             3: death signal=9 task=3 worker=W pid=P | task 3: the process was killed by signal 9 \
             (SIGKILL){HINT} (worker W, pid P)\n\
             4: ()\n5: ()\n6: ()\n7: ()\n8: ()\n9: ()\nafterwards [2, 3]\n"
        );
        assert_eq!(told, expected);
    }
}
