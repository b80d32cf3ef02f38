//! The pool's calls, on a fleet.

mod support;

use std::time::Duration;

use support::Server;

proc_cluster::init_tests!();

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
    let pids = cluster.options().chunksize(1).map(
        |()| {
            std::thread::sleep(Duration::from_millis(20)); // long enough for others to get some
            std::process::id()
        },
        [(); 40],
    );
    let mut pids = pids.expect("nothing fails");
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 4, "two workers on each of two agents");
}

#[test]
fn all_calls_of_a_pool() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    assert_eq!(cluster.apply(square, 5).expect("it returns"), 25);
    assert_eq!(cluster.map(square, Vec::new()).expect("nothing to do"), Vec::<i64>::new());
    let task = cluster.apply_async(square, 6).expect("it is sent");
    assert_eq!(task.get().expect("it returns"), 36);
    let task = cluster.map_async(square, [1, 2, 3]).expect("it is sent");
    let Ok(squares) = task.get_timeout(Duration::from_secs(60)) else { panic!("not in a minute") };
    assert_eq!(squares.expect("nothing fails"), [1, 4, 9]);
    let ordered: Result<Vec<i64>, _> = cluster.imap(square, 0..500).collect();
    assert!(ordered.expect("nothing fails").into_iter().eq((0..500).map(|x| x * x)));
    let some = cluster.imap_unordered(square, 0..).take(300).filter(Result::is_ok).count();
    assert_eq!(some, 300);
    let nothing = cluster.options().chunksize(0).map(square, [1]).expect_err("no chunk is empty");
    assert!(nothing.is_invalid(), "{nothing}");
}

#[test]
fn errors_keep_type_text_and_place() {
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
fn what_cannot_cross_machines_is_refused() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    let (sender, _receiver) = ipc_channel::ipc::channel::<u8>().expect("there are descriptors");
    let fates = cluster.try_map(
        |(_, x): (Option<ipc_channel::ipc::IpcSender<u8>>, u8)| x,
        [(None, 1), (Some(sender), 2), (None, 3)],
    );
    assert_eq!(fates[0].as_ref().ok(), Some(&1));
    let refused = fates[1].as_ref().expect_err("it holds a channel end");
    assert!(refused.is_encode() && refused.to_string().contains("this machine"), "{refused}");
    assert_eq!(fates[2].as_ref().ok(), Some(&3));
    let result = cluster.apply(|()| ipc_channel::ipc::channel::<u8>().expect("a channel").0, ());
    let refused = result.expect_err("it holds a channel end");
    assert!(refused.is_encode() && refused.to_string().contains("this machine"), "{refused}");
}
