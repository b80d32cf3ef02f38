//! Processes or threads? The same work both ways, measured on this machine.
//!
//! Run it: `cargo run -p q2-processes-vs-threads`, or longer, for steadier figures:
//! `cargo run --release -p q2-processes-vs-threads -- --seconds 8`.
//! `cargo run -p q2-processes-vs-threads -- --help` lists what can be set.

mod both_ways;
mod command_line;
mod cost;
mod crash;
mod deadlock;
mod fate;
mod global;
mod ping_pong;
mod race;
mod work;

use std::time::Duration;

use crate::command_line::Options;
use crate::fate::Fate;

fn main() -> anyhow::Result<()> {
    command_line::end_without_reader();
    proc_core::init();
    let Options { seconds, workers } =
        command_line::options();
    let budget = Duration::from_secs_f64(seconds);
    let cores = std::thread::available_parallelism()
        .map_or(1, |n| n.get());
    let workers = workers.map_or(
        cores.min(command_line::MAX_WORKERS),
        usize::from,
    );

    println!(
        "Processes or threads? The same work both ways. Cores here: {cores}"
    );
    memory()?;
    costs(budget)?;
    sharing_work(budget, workers)?;
    failures(budget)
}

fn memory() -> anyhow::Result<()> {
    title("MEMORY", ["thread", "process"]);
    let (thread, process) = (
        global::by_thread(1000),
        global::by_process(1000)?,
    );
    row(
        "a global is, here",
        [thread.before, process.before],
    );
    row(
        "the other adds 1000 and then sees",
        [thread.joined, process.joined],
    );
    row("it is now, here", [thread.after, process.after]);
    row(
        "what join gave back",
        [thread.joined, process.joined],
    );
    Ok(())
}

fn costs(budget: Duration) -> anyhow::Result<()> {
    title("COST OF ONE", ["thread", "process"]);
    let share = budget / 20;
    let thread =
        cost::median(share, &mut cost::start_thread)?;
    let process =
        cost::median(share, &mut cost::start_process)?;
    compare("start and join", thread, process);
    let process = ping_pong::between_processes(share)?;
    compare(
        "ping-pong: mpsc and ipc-channel",
        ping_pong::between_threads_by_mpsc(share)?,
        process,
    );
    compare(
        "ping-pong: ipc-channel in both",
        ping_pong::between_threads(share)?,
        process,
    );
    let (thread, process) = (
        cost::memory_of_thread()?,
        cost::memory_of_process()?,
    );
    let ratio = thread
        .zip(process)
        .map(|(thread, process)| process / thread);
    row_with_ratio(
        "memory while idle",
        [size(thread), size(process)],
        ratio,
    );
    Ok(())
}

fn sharing_work(
    budget: Duration,
    workers: usize,
) -> anyhow::Result<()> {
    title(
        &format!("WORK SHARED BY {workers}"),
        ["threads", "processes"],
    );
    for (what, runs) in [
        (
            "computing",
            work::computing(budget / 5, workers)?,
        ),
        ("waiting", work::waiting(budget / 10, workers)?),
    ] {
        anyhow::ensure!(
            runs.threads.sum == runs.serial.sum
                && runs.processes.sum == runs.serial.sum,
            "{what}: one alone has another result"
        );
        let [alone, threads, processes] =
            [&runs.serial, &runs.threads, &runs.processes]
                .map(|run| run.time.as_secs_f64());
        row(
            &format!("{what}: one alone needs"),
            [millis(alone), millis(alone)],
        );
        row(
            "  shared, it takes",
            [millis(threads), millis(processes)],
        );
        row(
            "  speed-up",
            [
                times(alone / threads),
                times(alone / processes),
            ],
        );
        row(
            "  result",
            [runs.threads.sum, runs.processes.sum],
        );
    }
    Ok(())
}

fn failures(budget: Duration) -> anyhow::Result<()> {
    println!(
        "\nWHEN A PART FAILS, what becomes of the program it is part of"
    );
    let patience = budget / 20;
    for (what, threads, processes) in [
        (
            "it panics",
            crash::panic_in_thread(),
            crash::panic_in_process(),
        ),
        (
            "it aborts",
            crash::abort_in_thread(),
            crash::abort_in_process(),
        ),
        (
            "two wait for each other",
            deadlock::of_threads(patience),
            deadlock::of_processes(patience),
        ),
        (
            "two read a shared value, then write it plus 1",
            race::in_threads(race::lose).map(sum),
            race::in_processes(race::lose).map(sum),
        ),
        (
            "two add 1 to a shared value in one step",
            race::in_threads(race::keep).map(sum),
            race::in_processes(race::keep).map(sum),
        ),
    ] {
        println!("{what}");
        tell("thread", threads?);
        tell("process", processes?);
    }
    println!(
        "\nRust has no global interpreter lock: threads compute at the same time too."
    );
    println!(
        "What only processes give is the isolation above, at the cost above."
    );
    Ok(())
}

fn sum(sum: u64) -> Fate {
    Fate::WentOn(format!("the sum is {sum}"))
}

fn tell(side: &str, fate: Fate) {
    match fate {
        Fate::WentOn(how) => {
            println!("  {side:<8} it goes on: {how}")
        }
        Fate::Died(status) => println!(
            "  {side:<8} it is dead, all of it: {status}"
        ),
    }
}

fn title(text: &str, columns: [&str; 2]) {
    println!();
    row(text, columns);
}

fn row(what: &str, cells: [impl std::fmt::Display; 2]) {
    let [thread, process] =
        cells.map(|cell| cell.to_string());
    println!("{what:<40}{thread:>14}{process:>14}");
}

/// Prints a row. `ratio` is the figure of the process, divided
/// by that of the thread.
fn row_with_ratio(
    what: &str,
    cells: [String; 2],
    ratio: Option<f64>,
) {
    let [thread, process] = cells;
    let ratio = ratio.map(times).unwrap_or_default();
    println!(
        "{what:<40}{thread:>14}{process:>14}{ratio:>9}"
    );
}

fn compare(
    what: &str,
    thread: Duration,
    process: Duration,
) {
    let ratio =
        process.as_secs_f64() / thread.as_secs_f64();
    row_with_ratio(
        what,
        [thread, process].map(micros),
        Some(ratio),
    );
}

fn micros(time: Duration) -> String {
    format!("{:.1} µs", time.as_secs_f64() * 1e6)
}

fn millis(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}

fn times(ratio: f64) -> String {
    format!("{ratio:.1} x")
}

fn size(kib: Option<f64>) -> String {
    kib.map_or("not measured".into(), |kib| {
        format!("{kib:.1} KiB")
    })
}
