//! Real-time signals kill processes, workers and fork servers. nix has no names for these signals.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;

use nix::libc::{SIGCONT, SIGKILL, SIGRTMAX, SIGRTMIN, SIGSTOP};
use proc_core::{Error, Process, StartMethod};

use crate::support::marker_files::{self, MarkerFiles};
use crate::support::procfs::{children, is_running};
use crate::support::{Arguments, raw, run, wait_until, work_forever};

programs![kill_processes, kill_workers, kill_fork_servers];

tests! {
    processes_killed_at_once_are_all_reported: forkserver spawn fork;
    workers_killed_at_once_are_all_replaced: forkserver spawn fork;
    processes_of_a_killed_fork_server_are_reported: forkserver spawn fork;
}

/// Signals that kill, with their names in errors: first the first and the last real-time signal.
fn deadly_signals() -> Vec<(i32, String)> {
    let (first, last) = (SIGRTMIN(), SIGRTMAX());
    let numbers = [first, last].into_iter().chain(first + 1..last);
    let real_time = numbers.map(|number| (number, format!("SIGRTMIN+{}", number - first)));
    real_time.chain([(SIGKILL, "SIGKILL".to_owned())]).collect()
}

/// Sends a signal to each process. The fork servers are stopped meanwhile, so that they see all
/// ends at once.
fn kill_at_once(doomed: &[u32], signals: &[(i32, String)]) {
    let fork_servers = children();
    fork_servers.iter().for_each(|pid| raw::send_signal(*pid, SIGSTOP));
    for (pid, (number, _)) in doomed.iter().zip(signals) {
        raw::send_signal(*pid, *number);
    }
    wait_until(|| doomed.iter().all(|pid| !is_running(*pid)));
    fork_servers.iter().for_each(|pid| raw::send_signal(*pid, SIGCONT));
}

fn assert_killed_by(error: &Error, (number, name): &(i32, String)) {
    let status = error.exit_status().expect("it was reaped");
    assert_eq!(status.signal(), Some(*number), "{error}");
    let told = format!("killed by signal {number} ({name})");
    assert!(error.is_death() && error.to_string().contains(&told), "{error}");
}

fn kill_processes(arguments: &Arguments) {
    let signals = deadly_signals();
    let process = || Process::new(|()| work_forever(), ()).start_method(arguments.start_method);
    let start = |_: &_| process().start().expect("it can be started");
    let doomed: Vec<_> = signals.iter().map(start).collect();
    let pids: Vec<u32> = doomed.iter().map(|child| child.pid()).collect();
    kill_at_once(&pids, &signals);
    for (child, signal) in doomed.into_iter().zip(&signals) {
        assert_killed_by(&child.join().expect_err("it was killed"), signal);
    }
}

fn processes_killed_at_once_are_all_reported(start_method: StartMethod) {
    run(kill_processes, start_method, &[]).succeeded();
}

fn kill_workers(arguments: &Arguments) {
    let signals = &deadly_signals()[..2];
    let pool = arguments.pool(signals.len());
    let marks = MarkerFiles::new();
    let task = |mark: PathBuf| {
        marker_files::create(&mark);
        work_forever();
    };
    let marks: Vec<_> = (0..signals.len()).map(|task| marks.path(&task.to_string())).collect();
    let tasks: Vec<_> = marks
        .iter()
        .map(|mark| pool.apply_async(task, mark.clone()).expect("it is open"))
        .collect();
    marks.iter().for_each(|mark| marker_files::wait_for(mark));
    let workers = pool.worker_pids();
    kill_at_once(&workers, signals);
    for task in tasks {
        let error = task.get().expect_err("its worker was killed");
        let worker = workers.iter().position(|pid| Some(*pid) == error.pid());
        assert_killed_by(&error, &signals[worker.expect("it names its worker")]);
    }
    assert_eq!(pool.map(|x: u32| x + 1, [1, 2]).expect("the pool goes on"), [2, 3]);
}

fn workers_killed_at_once_are_all_replaced(start_method: StartMethod) {
    run(kill_workers, start_method, &[]).succeeded();
}

fn kill_fork_servers(arguments: &Arguments) {
    for (number, _) in &deadly_signals()[..2] {
        let process = || Process::new(|()| work_forever(), ()).start_method(arguments.start_method);
        let child = process().start().expect("it can be started");
        children().iter().for_each(|fork_server| raw::send_signal(*fork_server, *number));
        wait_until(|| !is_running(child.pid()));
        let error = child.join().expect_err("it went with its fork server");
        assert!(error.is_death() && error.exit_status().is_none(), "{error}");
    }
}

fn processes_of_a_killed_fork_server_are_reported(start_method: StartMethod) {
    run(kill_fork_servers, start_method, &[]).succeeded();
}
