//! What a fleet guarantees beside results: calls share it fairly, the server holds a bounded number
//! of messages, nothing is left behind, and damaged messages do no harm.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{self, Server, wait_for_workers, wait_until};
use proc_cluster::{ErrorKind, Progress};

#[test]
fn large_values_go_through_and_leave_nothing() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(2);
    let large = serde_bytes::ByteBuf::from(vec![7_u8; 64 << 20]);
    let doubled = |bytes: serde_bytes::ByteBuf| {
        let mut bytes = bytes.into_vec();
        bytes.iter_mut().for_each(|byte| *byte *= 2);
        serde_bytes::ByteBuf::from(bytes)
    };
    let result = cluster.apply(doubled, large).expect("it fits");
    assert_eq!(result.len(), 64 << 20);
    assert!(result.iter().all(|byte| *byte == 14));
    let many = (0..12).map(|n| serde_bytes::ByteBuf::from(vec![n; 1 << 20]));
    let results = cluster.map(doubled, many).expect("they fit");
    assert!(
        results.iter().zip(0..12).all(|(bytes, n)| bytes.len() == 1 << 20 && bytes[9] == 2 * n)
    );
    server.wait_until_nothing_is_left();
}

#[test]
fn a_cancelled_task_stops_and_leaves_nothing() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    let file = server.path().join("running");
    let forever = |file: String| {
        fs::write(&file, std::process::id().to_string()).expect("the directory is the test's");
        loop {
            std::thread::park();
        }
    };
    let name = file.to_str().expect("it is text").to_owned();
    let task = cluster.map_async(forever, vec![name; 50]).expect("it is sent");
    wait_until("it runs", || fs::read_to_string(&file).is_ok_and(|pid| !pid.is_empty()));
    let pid = fs::read_to_string(&file).expect("it was there");
    assert!(task.cancel());
    let cancelled: Result<Vec<()>, _> = task.get();
    assert!(cancelled.expect_err("it was cancelled").is_cancelled());
    wait_until("its process is gone", || !fs::exists(format!("/proc/{pid}")).expect("/proc"));
    server.wait_until_nothing_is_left();
    let mut done = cluster.apply_async(|x: u8| x, 1).expect("it is sent");
    wait_until("its result is there", || done.is_ready());
    assert!(!done.cancel(), "it was done");
    assert_eq!(done.get().expect("it was done before"), 1);
}

#[test]
fn a_small_call_does_not_wait_for_the_end_of_a_large_one() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    let other = server.cluster();
    wait_for_workers(&other, 2);
    let slow = |x: u32| {
        std::thread::sleep(Duration::from_millis(5));
        x
    };
    let large = cluster.options().chunksize(1).map_async(slow, 0..1_000_000).expect("it is sent");
    // By then the large call has measured its tasks, and has its full window in flight.
    wait_until("the large one runs", || cluster.fleet().agents()[0].done > 100);
    for driver in [&cluster, &other] {
        let started = Instant::now();
        let small = driver.options().chunksize(1).map(slow, 0..20).expect("nothing fails");
        assert!(small.into_iter().eq(0..20));
        // The small call has two windows of chunks. Before each of them, the workers run tasks of
        // the large call for about 50 ms.
        let took = started.elapsed();
        assert!(took < Duration::from_secs(20), "{took:?}; the large call takes 5000 s");
    }
    assert!(large.cancel());
    server.wait_until_nothing_is_left();
}

#[test]
fn no_task_waits_behind_a_task_that_takes_long() {
    let Some(server) = Server::start() else { return };
    let _agents = [server.agent(1), server.agent(1)];
    let cluster = server.cluster();
    wait_for_workers(&cluster, 2);
    let word = server.path().join("word").to_str().expect("it is text").to_owned();
    let run = |(task, word): (u32, String)| match task {
        // By then the agent has long learned that tasks take some milliseconds.
        100 => wait_until("a word", || fs::exists(&word).expect("a file")),
        _ => std::thread::sleep(Duration::from_millis(5)),
    };
    let inputs = (0..300).map(|task| (task, word.clone()));
    let (mut results, mut done) = (cluster.options().chunksize(1).imap_unordered(run, inputs), 0);
    for result in results.by_ref().take(299) {
        result.expect("nothing fails");
        done += 1;
    }
    fs::write(&word, "").expect("the directory is ours");
    assert_eq!((done, results.count()), (299, 1), "all others end before it");
}

#[test]
fn an_endless_input_is_taken_a_window_at_a_time() {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    let endless = std::iter::from_fn(|| Some(TAKEN.fetch_add(1, Ordering::Relaxed) as u64));
    let mut results = cluster.imap(|x: u64| (x, vec![0_u8; 1000]), endless);
    let mut most = 0;
    for expected in 0..2000 {
        let (x, _) = results.next().expect("it is endless").expect("nothing fails");
        assert_eq!(x, expected);
        let ahead = TAKEN.load(Ordering::Relaxed) as u64 - expected;
        assert!(ahead <= 66, "{ahead} inputs ahead of result {expected}");
        if expected % 200 == 0 {
            most = most.max(server.count_messages().0);
        }
    }
    assert!(most <= 66, "{most} messages at the server");
    drop(results);
    server.wait_until_nothing_is_left();
}

#[test]
fn a_call_without_agents_fails_in_time_and_says_so() {
    let Some(server) = Server::start() else { return };
    let cluster = server.builder().patience(Duration::from_secs(3)).connect().expect("it is there");
    let begin = Instant::now();
    let error = cluster.apply(|x: u8| x, 1).expect_err("nobody is there");
    assert!(
        error.kind() == ErrorKind::Fleet && error.to_string().contains("PROC_CLUSTER_AGENT"),
        "{error}"
    );
    assert!(begin.elapsed() >= Duration::from_secs(3));
    // Each call waits for its own time, however long there was no agent before.
    let begin = Instant::now();
    let first = cluster.imap(|x: u8| x, 0..).next().expect("an error is an item");
    assert!(first.is_err_and(|error| error.kind() == ErrorKind::Fleet));
    assert!(begin.elapsed() >= Duration::from_secs(3));
    server.wait_until_nothing_is_left();
}

#[test]
fn another_build_gets_nothing_and_is_named() {
    let Some(server) = Server::start() else { return };
    // The same program with one more byte at its end is another build.
    let other = server.path().join("other-build");
    let mut bytes =
        fs::read(std::env::current_exe().expect("a test has a file")).expect("it is there");
    bytes.push(0);
    fs::write(&other, bytes).expect("the directory is ours");
    let executable: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&other, executable).expect("the file is ours");
    let mut command = std::process::Command::new(&other);
    command.env_clear().env("PROC_CLUSTER_AGENT", server.address());
    let _agent = support::Group::start(command.env("PROC_CLUSTER_WORKERS", "1"));
    let cluster = server.builder().patience(Duration::from_secs(5)).connect().expect("it is there");
    wait_until("the agent has sent a heartbeat", || !cluster.fleet().agents().is_empty());
    let agent = cluster.fleet().agents()[0].clone();
    assert!(!agent.same_build, "{agent:?}");
    let error = cluster.apply(|x: u8| x, 1).expect_err("no agent has this build");
    let text = error.to_string();
    assert!(
        error.kind() == ErrorKind::Fleet
            && text.contains(&agent.build)
            && text.contains(&agent.host),
        "{text}"
    );
    assert_eq!(cluster.fleet().agents()[0].done, 0);
}

#[test]
fn progress_is_reported() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    let mut seen: Vec<Progress> = Vec::new();
    let options = cluster.options().chunksize(10).progress(|progress| seen.push(progress));
    options.map(|x: u8| x, 0..100).expect("nothing fails");
    drop(options);
    assert!(seen.is_sorted_by_key(|progress| progress.done), "{seen:?}");
    assert_eq!(seen.first().map(|progress| progress.done), Some(0));
    assert_eq!(seen.iter().position(Progress::is_over), Some(seen.len() - 1));
    assert!(seen.iter().all(|progress| progress.all == 100));
    assert_eq!(seen.last().map(|progress| progress.done), Some(100));
}

/// Encodes a false reply about tasks in flight, as an agent that lies could send it to its driver.
///
/// The fields are those of `message::Reply`. `outcome` holds the bytes of the last field.
fn false_reply(job: u64, count: usize, outcome: &[u8]) -> Vec<u8> {
    let chunk = (0_usize, count, 0_u32, 0_u32, 0_u32);
    let reply = (job, chunk, 1_u64, "nowhere", "$JS.API.STREAM.DELETE.proc-default-tasks");
    let mut bytes = postcard::to_stdvec(&reply).expect("it can be encoded");
    bytes.extend(outcome);
    bytes
}

#[test]
fn an_agent_that_lies_about_its_work_does_no_harm() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(2);
    let word = server.path().join("word").to_str().expect("it is text").to_owned();
    let wait = |(word, x): (String, u8)| {
        while !fs::exists(&word).expect("the directory is there") {
            std::thread::sleep(Duration::from_millis(10));
        }
        x
    };
    let tasks = (0..10).map(|x| (word.clone(), x));
    let results = cluster.options().chunksize(5).map_async(wait, tasks).expect("it is sent");
    wait_until("it is at work", || cluster.fleet().agents().iter().any(|a| a.in_flight > 0));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let client = async_nats::connect(server.address()).await.expect("it listens");
        let mut heartbeats = client.subscribe("proc.default.driver").await.expect("it listens");
        let heartbeat =
            futures_util::StreamExt::next(&mut heartbeats).await.expect("a driver lives");
        let (driver, _) = postcard::take_from_bytes::<u64>(&heartbeat.payload).expect("its number");
        // The outcomes: a result in far too many stored pieces; a result that is cut off; work that
        // is given back; data that are lost, although there are none; an outcome that does not
        // exist; no outcome.
        let stored = [&[0, 1, 255, 255, 255, 255, 15][..], &[255; 9], &[1, 7, 0]].concat();
        for outcome in [&stored[..], &[0, 0, 255, 255, 3, 1], &[2], &[6, 9], &[77], &[]] {
            for (job, count) in [(1, 5), (1, 3), (1, usize::MAX), (9, 5), (u64::MAX, 0)] {
                let reply = false_reply(job, count, outcome);
                client
                    .publish(format!("proc.default.reply.{driver:016x}"), reply.into())
                    .await
                    .expect("it is sent");
            }
        }
        client.flush().await.expect("it is sent");
    });
    // The driver believes two false replies: that the work is given back, and that data are lost.
    // That does no harm.
    wait_until("the work that is said to be given back is handed out again", || {
        cluster.fleet().agents().iter().map(|agent| agent.redelivered).sum::<u64>() >= 5
    });
    fs::write(&word, "").expect("the directory is ours");
    assert_eq!(results.get().expect("all are done in the end"), (0..10).collect::<Vec<u8>>());
    server.wait_until_nothing_is_left();
}

#[test]
fn rubbish_in_messages_does_no_harm() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    let build = cluster.fleet().agents()[0].build.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let client = async_nats::connect(server.address()).await.expect("it listens");
        let mut heartbeats = client.subscribe("proc.default.driver").await.expect("it listens");
        let heartbeat =
            futures_util::StreamExt::next(&mut heartbeats).await.expect("a driver lives");
        let work = format!("proc.default.task.{build}.0.0");
        for length in 0..64_usize {
            let bytes: Vec<u8> = (0..length).map(|n| (n * 89 + length * 31) as u8).collect();
            let mut shifted = heartbeat.payload.to_vec();
            shifted.rotate_left(length % heartbeat.payload.len());
            for payload in [bytes, shifted] {
                for subject in ["proc.default.driver", "proc.default.agent", &work] {
                    let sent = client.publish(subject.to_owned(), payload.clone().into()).await;
                    sent.expect("it is sent");
                }
            }
        }
        // This work is well-formed except for its lease, which is longer than a clock can count.
        let chunk = (0_usize, 1_usize, 0_u32, 0_u32, 0_u32);
        let options =
            (None::<usize>, None::<Duration>, None::<Duration>, 0_u32, 0_i32, None::<u64>);
        let terms = (options, Duration::MAX, None::<u8>);
        let work = (&build, 7_u64, 1_u64, chunk, 0_u64, 0_u64, terms, (0_u8, vec![0_u8]));
        let bytes = postcard::to_stdvec(&work).expect("it can be encoded");
        client
            .publish(format!("proc.default.task.{build}.7.1"), bytes.into())
            .await
            .expect("it is sent");
        client.flush().await.expect("it is sent");
    });
    assert_eq!(cluster.map(|x: u8| x, 0..100).expect("nothing fails").len(), 100);
    server.wait_until_nothing_is_left();
}
