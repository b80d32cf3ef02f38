//! The pool's calls, on a fleet.

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use crate::support::{self, Server};
use proc_cluster::ErrorKind;

fn square(x: i64) -> i64 {
    x * x
}

#[test]
fn a_map_over_two_agents() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(2);
    let squares = cluster.map(square, 0..10_000).expect("nothing fails");
    assert!(squares.into_iter().eq((0..10_000).map(|x| x * x)));
    let fleet = cluster.fleet();
    assert_eq!(fleet.agents().len(), 2, "{fleet}");
}

#[test]
fn a_fleet_counts_done_and_failed_tasks() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    let odd = |x: u64| if x.is_multiple_of(2) { panic!("{x} is even") } else { x };
    let results = cluster.options().chunksize(2).try_map(odd, 0..9);
    assert_eq!(results.iter().filter(|result| result.is_err()).count(), 5);
    support::wait_until("the agent has sent its counts", || {
        let fleet = cluster.fleet();
        fleet.agents().iter().any(|agent| (agent.done, agent.failed, agent.in_flight) == (4, 5, 0))
    });
}

#[test]
fn a_panicked_task_is_tried_again_with_retries() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    let file = server.path().join("tried").to_str().expect("it is text").to_owned();
    let second = |file: String| {
        let first = fs::File::create_new(file).is_ok();
        assert!(!first, "not the first time");
    };
    let error = cluster.apply(second, format!("{file}-once")).expect_err("it is tried once");
    assert!(error.is_panic(), "{error}");
    let mut retried = Vec::new();
    let options = cluster.options().retries(1).progress(|progress| retried.push(progress.retried));
    options.map(second, [file]).expect("the second time it returns");
    drop(options);
    assert_eq!(retried, [0, 1, 1]); // at the beginning, with the result, and at the end
}

#[test]
fn a_task_that_is_asked_to_stop_has_time_to_return() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    let count_until_stopped = |()| {
        let mut count = 0_u64;
        while !proc_cluster::current().stop_requested() {
            count += 1;
        }
        count
    };
    let options = cluster.options().timeout(Duration::from_millis(100)).grace(support::LIMIT);
    assert!(options.apply(count_until_stopped, ()).expect("it returns in time") > 0);
    let impatient = cluster.options().timeout(Duration::from_millis(100));
    let late = impatient.apply(count_until_stopped, ()).expect_err("nobody asks it");
    assert!(late.is_timeout(), "{late}");
}

/// Returns when four processes have called it. Returns the pid of its process.
fn meet(directory: String) -> u32 {
    let pid = std::process::id();
    fs::write(Path::new(&directory).join(pid.to_string()), "").expect("the directory is there");
    let met = || fs::read_dir(&directory).expect("the directory is there").count() >= 4;
    support::wait_until("all have come", met);
    pid
}

#[test]
fn all_workers_of_all_agents_work_at_once() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(2);
    let directory = server.path().join("met");
    fs::create_dir(&directory).expect("the directory is ours");
    let directory = directory.to_str().expect("it is text").to_owned();
    let pids = cluster.options().chunksize(1).map(meet, vec![directory; 4]);
    let mut pids = pids.expect("nothing fails");
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 4, "two workers on each of two agents");
}

#[test]
fn a_task_knows_its_attempt() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    let tell = |numbers: Vec<f64>| {
        let this = proc_cluster::attempt().expect("it is a task");
        (this.job, this.task, this.number, numbers)
    };
    let mut jobs = Vec::new();
    for _ in 0..2 {
        let told = cluster.map(tell, (0..100).map(|n| vec![f64::from(n); 3])).expect("none fails");
        for (n, (job, task, number, numbers)) in told.iter().enumerate() {
            assert_eq!((*job, *task, *number, numbers[2]), (told[0].0, n, 0, n as f64));
        }
        jobs.push(told[0].0);
    }
    assert_ne!(jobs[0], jobs[1]);
    assert_eq!(proc_cluster::attempt(), None);
}

#[test]
fn a_callback_gets_the_result() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    let (sender, results) = mpsc::channel();
    let tell = sender.clone();
    let task = cluster.map_async(square, [4, 5]).expect("it is sent");
    task.on_done(move |squares| tell.send(squares).expect("the receiver is open"));
    let panics = |_: i64| -> i64 { panic!("as it should") };
    let task = cluster.map_async(panics, [1]).expect("it is sent");
    task.on_done(move |failed| sender.send(failed).expect("the receiver is open"));
    let (done, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(done[0].as_ref().ok(), Some(&vec![16, 25]));
    assert!(failed[0].as_ref().is_err_and(|error| error.is_panic()));
}

#[test]
fn a_closed_cluster_finishes_earlier_calls() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    assert!(cluster.join().is_err_and(|error| error.kind() == ErrorKind::Invalid), "it is open");
    let file = server.path().join("done");
    let name = file.to_str().expect("it is text").to_owned();
    let write = |file: String| fs::write(file, "done").expect("the directory is the test's");
    drop(cluster.apply_async(write, name).expect("it is sent")); // nobody waits for it
    let kept = cluster.map_async(square, 0..1000).expect("it is sent");
    cluster.close();
    assert!(
        cluster.apply(square, 1).is_err_and(|error| error.kind() == ErrorKind::Fleet),
        "it is closed"
    );
    cluster.join().expect("it is closed");
    assert!(file.exists(), "a task that was dropped runs all the same");
    assert_eq!(kept.get().expect("it was called before the close")[999], 999 * 999);
}

#[test]
fn a_terminated_cluster_cancels_open_calls() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    let forever = |()| {
        loop {
            std::thread::park();
        }
    };
    let task: proc_cluster::Task<()> = cluster.apply_async(forever, ()).expect("it is sent");
    cluster.terminate();
    assert!(task.get().is_err_and(|error| error.kind() == ErrorKind::Fleet));
    let other = server.cluster();
    assert_eq!(other.map(square, [1, 2]).expect("the workers are free"), [1, 4]);
}

#[test]
fn all_calls_of_a_pool() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    assert_eq!(cluster.apply(square, 5).expect("it returns"), 25);
    assert_eq!(cluster.map(square, Vec::new()).expect("nothing to do"), Vec::<i64>::new());
    let task = cluster.apply_async(square, 6).expect("it is sent");
    assert_eq!(task.get().expect("it returns"), 36);
    let mut task = cluster.map_async(square, [1, 2, 3]).expect("it is sent");
    let squares =
        task.get_timeout(Duration::from_secs(60)).map(|squares| squares.expect("in a minute"));
    assert_eq!(squares.expect("nothing fails"), [1, 4, 9]);
    let ordered: Result<Vec<i64>, _> = cluster.imap(square, 0..500).collect();
    assert!(ordered.expect("nothing fails").into_iter().eq((0..500).map(|x| x * x)));
    let some = cluster.imap_unordered(square, 0..).take(300).filter(Result::is_ok).count();
    assert_eq!(some, 300);
    let nothing = cluster.options().chunksize(0).map(square, [1]).expect_err("no chunk is empty");
    assert!(nothing.kind() == ErrorKind::Invalid, "{nothing}");
}

#[test]
fn errors_keep_kind_text_and_origin() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    let fates = cluster.options().timeout(Duration::from_secs(1)).try_map(
        |x: u32| match x {
            1 => panic!("one is too few"),
            2 => std::process::exit(7),
            3 => loop {
                std::thread::park();
            },
            _ => x,
        },
        0..6,
    );
    let errors: Vec<_> = fates.iter().map(|fate| fate.as_ref().err()).collect();
    let [None, Some(panic), Some(death), Some(late), None, None] = errors[..] else {
        panic!("{errors:?}")
    };
    assert_eq!(panic.panic_message(), Some("one is too few"));
    assert!(panic.panic_location().is_some_and(|place| place.contains("calls.rs")), "{panic}");
    assert_eq!(death.exit_status().and_then(|status| status.code()), Some(7));
    assert!(late.is_timeout(), "{late}");
    for (error, task) in [(panic, 1), (death, 2), (late, 3)] {
        assert_eq!(error.task(), Some(task));
        let host = nix::unistd::gethostname().expect("it has a name");
        assert_eq!(error.host(), host.to_str(), "{error}");
        assert!(error.pid().is_some() && error.worker().is_some(), "{error}");
    }
}

#[test]
fn values_that_cannot_cross_machines_are_refused() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    let (sender, _receiver) = ipc_channel::ipc::channel::<u8>().expect("there are descriptors");
    let fates = cluster.try_map(
        |(_, x): (Option<ipc_channel::ipc::IpcSender<u8>>, u8)| x,
        [(None, 1), (Some(sender), 2), (None, 3)],
    );
    assert_eq!(fates[0].as_ref().ok(), Some(&1));
    let refused = fates[1].as_ref().expect_err("it holds a channel end");
    assert!(
        refused.kind() == ErrorKind::Encode && refused.to_string().contains("this machine"),
        "{refused}"
    );
    assert_eq!(fates[2].as_ref().ok(), Some(&3));
    let result = cluster.apply(|()| ipc_channel::ipc::channel::<u8>().expect("a channel").0, ());
    let refused = result.expect_err("it holds a channel end");
    assert!(
        refused.kind() == ErrorKind::Encode && refused.to_string().contains("this machine"),
        "{refused}"
    );
}
