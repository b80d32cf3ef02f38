//! Functions that borrow data (`with`): the data cross once, and are removed when nobody has them.
//!
//! To see what agents fetch, the tests count the requests that the server gets.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use proc_cluster::{Cluster, ErrorKind, Progress};
use proc_core::{Shared, ipc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::ByteBuf;

use crate::support::{self, Group, LEASE, Server, wait_for_workers, wait_until};

/// The bytes of a stored piece.
const PIECE: usize = 512 << 10;

/// Listens to the requests for stored pieces of data.
struct Requests {
    runtime: tokio::runtime::Runtime,
    client: async_nats::Client,
    requests: async_nats::Subscriber,
    marks: async_nats::Subscriber,
    seen: usize,
}

impl Requests {
    fn of(server: &Server) -> Requests {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (client, requests, marks) = runtime.block_on(async {
            let client = async_nats::connect(server.address()).await.expect("it listens");
            let pieces = "$JS.API.DIRECT.GET.proc-default-data.proc.default.data.in.*.with.>";
            let requests = client.subscribe(pieces).await.expect("it listens");
            let marks = client.subscribe("mark").await.expect("it listens");
            (client, requests, marks)
        });
        let mut requests = Requests { runtime, client, requests, marks, seen: 0 };
        requests.count(); // waits until the server listens for it
        requests
    }

    /// How many requests there were so far.
    fn count(&mut self) -> usize {
        let Requests { runtime, client, requests, marks, seen } = self;
        runtime.block_on(async {
            // The server sends the mark after the requests that came before.
            client.publish("mark", "".into()).await.expect("it is connected");
            marks.next().await.expect("it is connected");
            while let Some(Some(_)) = requests.next().now_or_never() {
                *seen += 1;
            }
        });
        *seen
    }
}

/// Bytes that count how often they are encoded and decoded in a process.
struct Counted(ByteBuf);

static ENCODED: AtomicUsize = AtomicUsize::new(0);
static DECODED: AtomicUsize = AtomicUsize::new(0);

impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ENCODED.fetch_add(1, Ordering::Relaxed);
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        DECODED.fetch_add(1, Ordering::Relaxed);
        ByteBuf::deserialize(deserializer).map(Counted)
    }
}

/// Returns when four processes have called it, so that all workers of two agents take part.
fn meet(_: &Counted, directory: String) {
    let pid = std::process::id().to_string();
    fs::write(PathBuf::from(&directory).join(pid), "").expect("the directory is there");
    let met = || fs::read_dir(&directory).expect("the directory is there").count() >= 4;
    wait_until("all have come", met);
}

/// Returns one of the bytes, and how often this process has decoded them.
fn byte_at(bytes: &Counted, at: usize) -> (u8, usize) {
    (bytes.0[at], DECODED.load(Ordering::Relaxed))
}

fn bytes(len: usize) -> ByteBuf {
    ByteBuf::from((0..len).map(|at| (at % 251) as u8).collect::<Vec<u8>>())
}

#[test]
fn data_are_encoded_once_fetched_once_by_each_agent_and_decoded_once_in_each_worker() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(2);
    let mut requests = Requests::of(&server);
    let directory = server.path().join("met");
    fs::create_dir(&directory).expect("the directory is ours");
    let with = cluster.options().chunksize(1).with(Counted(bytes(5 * PIECE + 1)));
    let directory = directory.to_str().expect("it is text").to_owned();
    with.map(meet, vec![directory; 4]).expect("nothing fails");
    for round in 0..5 {
        let results = with.map(byte_at, 0..1000).expect("nothing fails");
        let expected = (0..1000).map(|at| ((at % 251) as u8, 1));
        assert!(results.into_iter().eq(expected), "round {round}");
        assert_eq!(server.count_messages().1, 6, "they are stored once");
    }
    let last = 5 * PIECE;
    let one = with.apply(byte_at, last).expect("nothing fails");
    assert_eq!(one, ((last % 251) as u8, 1));
    assert_eq!(requests.count(), 2 * 6, "each agent has fetched each piece once");
    assert_eq!(ENCODED.load(Ordering::Relaxed), 1);
    drop(with);
    server.wait_until_nothing_is_left();
}

#[test]
fn small_data_travel_with_the_tasks() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(2);
    let mut requests = Requests::of(&server);
    let with = cluster.with((3_i64, "times".to_owned()));
    let multiply = |(factor, word): &(i64, String), x: i64| format!("{factor} {word} {x}");
    for _ in 0..3 {
        let texts = with.map(multiply, 0..100).expect("nothing fails");
        assert!(texts.into_iter().eq((0..100).map(|x| format!("3 times {x}"))));
    }
    assert_eq!((requests.count(), server.count_messages().1), (0, 0));
}

/// Data that leave a mark in each process that decodes them, and a mark in each process that drops
/// them, also in the one that made them.
#[derive(Serialize)]
struct Marked {
    directory: String,
    bytes: ByteBuf,
}

impl Marked {
    fn new(server: &Server, bytes: ByteBuf) -> Marked {
        let directory = server.path().join("marks");
        fs::create_dir_all(&directory).expect("the directory is ours");
        Marked { directory: directory.to_str().expect("it is text").to_owned(), bytes }
    }

    fn mark(&self, what: &str) {
        let file = format!("{}/{what}-{}", self.directory, std::process::id());
        fs::write(file, "").expect("the directory is the test's");
    }
}

/// How many marks there are whose names begin with `what`.
fn marks(server: &Server, what: &str) -> usize {
    let files = fs::read_dir(server.path().join("marks")).expect("the directory is the test's");
    let names = files.map(|file| file.expect("it is listed").file_name());
    names.filter(|name| name.to_string_lossy().starts_with(what)).count()
}

/// The fields of [`Marked`], for decoding. A value of this type leaves no mark itself.
#[derive(Serialize, Deserialize)]
struct Arrived {
    directory: String,
    bytes: ByteBuf,
}

impl<'de> Deserialize<'de> for Marked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Arrived { directory, bytes } = Arrived::deserialize(deserializer)?;
        let marked = Marked { directory, bytes };
        marked.mark("decoded");
        Ok(marked)
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        self.mark("dropped");
    }
}

/// Waits for this number of heartbeats of the only driver.
fn wait_for_heartbeats(server: &Server, count: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let client = async_nats::connect(server.address()).await.expect("it listens");
        let heartbeats = client.subscribe("proc.default.driver").await.expect("it listens");
        assert_eq!(heartbeats.take(count).count().await, count);
    });
}

fn length(data: &Marked, more: usize) -> usize {
    data.bytes.len() + more
}

#[test]
fn data_are_removed_when_nobody_has_them_any_more() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    let with = cluster.with(Marked::new(&server, bytes(PIECE + 1)));
    assert_eq!(server.count_messages().1, 0, "no call needs them yet");
    assert!(
        with.map(length, 0..100).expect("nothing fails").into_iter().eq(PIECE + 1..PIECE + 101)
    );
    let other = with.clone();
    drop(with);
    assert_eq!(other.apply(length, 1).expect("a clone has them"), PIECE + 2);
    let word = server.path().join("word").to_str().expect("it is text").to_owned();
    let wait = |data: &Marked, word: String| {
        support::wait_until("a word", || fs::exists(&word).expect("a file"));
        data.bytes.len()
    };
    let task = other.apply_async(wait, word.clone()).expect("it is sent");
    drop(other);
    // Agents drop what the driver's heartbeats do not name. The call needs the data.
    wait_for_heartbeats(&server, 3);
    assert_eq!(server.count_messages().1, 2, "the call has them");
    let here = std::process::id();
    let in_workers = |server: &Server| marks(server, "dropped") - 1; // one here
    assert!(
        fs::exists(format!("{}/marks/dropped-{here}", server.path().display())).expect("it is")
    );
    assert_eq!(in_workers(&server), 0);
    fs::write(&word, "").expect("the directory is ours");
    assert_eq!(task.get().expect("nothing fails"), PIECE + 1);
    server.wait_until_nothing_is_left();
    let decoded = marks(&server, "decoded");
    assert!((1..=2).contains(&decoded), "{decoded} workers have decoded them");
    wait_until("the workers have dropped them", || in_workers(&server) == decoded);
}

#[test]
fn the_end_of_a_cluster_removes_its_data() {
    let Some(server) = Server::start() else { return };
    let _agent = server.agent(1);
    let data = bytes(100_000);
    for terminates in [true, false] {
        let cluster = server.cluster();
        let with = cluster.with(data.clone());
        let sum = with.apply(|data, x: usize| data.len() + x, 1);
        assert_eq!(sum.expect("nothing fails"), 100_001);
        assert_eq!(server.count_messages().1, 1);
        if terminates {
            cluster.terminate();
        } else {
            cluster.close();
            cluster.join().expect("it is closed");
        }
        assert_eq!(server.count_messages(), (0, 0));
        let error = with.apply(|data, x: usize| data.len() + x, 1).expect_err("it is closed");
        assert_eq!(error.kind(), ErrorKind::Fleet);
    }
}

#[test]
fn lost_and_new_machines_get_the_data() {
    let Some(server) = Server::start() else { return };
    let (cluster, mut agents) = server.fleet(2);
    let mut requests = Requests::of(&server);
    let mut retried = 0;
    let show = |progress: Progress| retried = progress.retried;
    let with = cluster.options().progress(show).with(bytes(3 * PIECE));
    let slow = |data: &ByteBuf, at: usize| {
        std::thread::sleep(Duration::from_millis(5));
        data[at]
    };
    let mut results = (0..).zip(with.imap(slow, 0..2000));
    let mut take = |count| {
        for _ in 0..count {
            let (at, result) = results.next().expect("each input has a result");
            assert_eq!(result.expect("no task fails"), (at % 251) as u8);
        }
    };
    take(300);
    // Both agents have fetched the data: each of them each piece once.
    assert_eq!(requests.count(), 2 * 3);
    agents.remove(0).kill();
    agents.push(server.agent(2));
    take(1700);
    assert!(results.next().is_none());
    drop(results);
    drop(with);
    assert!(retried > 0, "some tasks of the lost machine were handed out again");
    assert_eq!(requests.count(), 3 * 3, "the new machine has fetched them, and no other again");
    server.wait_until_nothing_is_left();
}

#[test]
fn data_that_the_server_has_lost_are_stored_again() {
    let Some(server) = Server::start() else { return };
    let (cluster, mut agents) = server.fleet(1);
    let with = cluster.with(bytes(3 * PIECE));
    let sum = |data: &ByteBuf, _: u32| data.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    let expected = with.apply(sum, 0).expect("nothing fails");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let context = runtime.as_ref().expect("a runtime").block_on(async {
        let client = async_nats::connect(server.address()).await.expect("it listens");
        async_nats::jetstream::new(client)
    });
    for stream_is_lost in [false, true] {
        runtime.as_ref().expect("a runtime").block_on(async {
            if stream_is_lost {
                context.delete_stream("proc-default-data").await.expect("a driver made it");
            } else {
                let stream = context.get_stream("proc-default-data").await;
                stream.expect("a driver made it").purge().await.expect("it can be purged");
            }
        });
        assert_eq!(with.map(sum, 0..20).expect("the agent has them"), [expected; 20]);
        agents.remove(0).kill();
        agents.push(server.agent(2));
        assert_eq!(with.map(sum, 0..20).expect("they are stored again"), [expected; 20]);
        assert_eq!(server.count_messages().1, 3);
    }
    drop(with);
    server.wait_until_nothing_is_left();
}

#[test]
fn data_that_the_server_cannot_store_are_one_error_of_the_call() {
    let server = Server::with(|directory| {
        let text = "jetstream { store_dir: data, max_file_store: 2MB }";
        fs::write(directory.join("own.conf"), text).expect("the directory is ours");
        ["--config", "own.conf"].map(str::to_owned).to_vec()
    });
    let Some(server) = server else { return };
    let _agent = server.agent(1);
    let cluster = server.builder().patience(Duration::from_secs(2)).connect().expect("it is there");
    wait_for_workers(&cluster, 1);
    let with = cluster.with(bytes(8 * PIECE));
    let error = with.map(|data, at: usize| data[at], 0..1000).expect_err("there is no room");
    assert_eq!((error.kind(), error.task()), (ErrorKind::Fleet, None));
    let text = error.to_string();
    assert!(text.starts_with("the server did not store a value of 4194304 bytes: "), "{text}");
    drop(with);
    server.wait_until_nothing_is_left();
    let with = cluster.with(bytes(PIECE));
    let last = with.apply(|data, at: usize| data[at], PIECE - 1).expect("there is room for these");
    assert_eq!(last, ((PIECE - 1) % 251) as u8);
}

/// Data that cannot be decoded.
#[derive(Serialize)]
struct Unreadable(String, ByteBuf);

impl<'de> Deserialize<'de> for Unreadable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (directory, _) = <(String, ByteBuf)>::deserialize(deserializer)?;
        let mark = PathBuf::from(directory).join(std::process::id().to_string());
        fs::write(mark, "").expect("the directory is the test's");
        Err(serde::de::Error::custom("it is written in invisible ink"))
    }
}

#[test]
fn data_that_cannot_be_decoded_are_one_error_of_the_call() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(2);
    let directory = server.path().join("marks");
    fs::create_dir(&directory).expect("the directory is ours");
    let text = directory.to_str().expect("it is text").to_owned();
    let take = |_: &Unreadable, x: u32| x;
    for len in [10, 100_000] {
        let with = cluster.with(Unreadable(text.clone(), bytes(len)));
        let error = with.map(take, 0..1000).expect_err("they cannot be decoded");
        assert_eq!((error.kind(), error.task()), (ErrorKind::Decode, None));
        let host = nix::unistd::gethostname().expect("it has a name");
        assert_eq!(error.host(), host.to_str(), "{error}");
        let told = error.to_string();
        let why = "the data of `with` cannot be decoded: it is written in invisible ink";
        assert!(told.starts_with(why), "{told}");
        // An iterator has one error, and `try_map` one for each input, since each needs a result.
        assert_eq!(with.imap(take, 0..1000).filter(Result::is_err).count(), 1);
        let fates = with.try_map(take, 0..100);
        assert!(fates.into_iter().all(|fate| fate.is_err_and(|e| e.kind() == ErrorKind::Decode)));
        let task = with.map_async(take, 0..100).expect("it is sent");
        assert!(task.get().is_err_and(|error| error.kind() == ErrorKind::Decode));
    }
    // Eight calls have ended early. Workers that were at chunks of them may be stopped and
    // replaced, but no worker tries to decode the data for each task.
    let workers = fs::read_dir(&directory).expect("it is there").count();
    assert!(workers <= 8 * 4, "{workers} workers have tried it");
    assert_eq!(cluster.map(|x: u32| x, 0..10).expect("the agents go on").len(), 10);
    server.wait_until_nothing_is_left();
}

/// Data that cannot be encoded.
#[derive(Deserialize)]
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("the pen is dry"))
    }
}

#[test]
fn data_that_cannot_cross_machines_are_refused() {
    let Some(server) = Server::start() else { return };
    let cluster = server.cluster();
    let (sender, _receiver) = ipc::channel::<u8>().expect("there are descriptors");
    let channel_end = cluster.with(std::sync::Mutex::new(sender));
    let shared = cluster.with(Shared::from_slice(&[1_u64, 2]).expect("there is memory"));
    let unwritable = cluster.with(Unwritable);
    let ends_here = "the data of `with` cannot be encoded: it holds channel ends or shared memory, \
                     which end at this machine";
    for (error, text) in [
        (channel_end.apply(|_, x: u8| x, 1).expect_err("it holds a channel end"), ends_here),
        (shared.apply(|_, x: u8| x, 1).expect_err("it holds shared memory"), ends_here),
        (
            unwritable.apply(|_, x: u8| x, 1).expect_err("it cannot be encoded"),
            "the data of `with` cannot be encoded: the pen is dry",
        ),
    ] {
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Encode, text));
    }
    let fates = shared.try_map(|_, x: u8| x, [1, 2]);
    assert!(fates.iter().all(|fate| fate.as_ref().is_err_and(|e| e.kind() == ErrorKind::Encode)));
}

#[test]
fn an_agent_holds_a_bounded_number_of_data() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    let mut requests = Requests::of(&server);
    let first = |data: &ByteBuf, x: u8| data[0] + x;
    let all: Vec<_> = (0..66).map(|n| cluster.with(ByteBuf::from(vec![n as u8; 5000]))).collect();
    let use_data = |n: usize| {
        assert_eq!(all[n].apply(first, 1).expect("nothing fails"), n as u8 + 1);
    };
    (0..66).for_each(use_data);
    assert_eq!(requests.count(), 66);
    use_data(65);
    use_data(10);
    assert_eq!(requests.count(), 66, "they are held");
    use_data(0);
    assert_eq!(requests.count(), 67, "the data that were used least recently were dropped");
    use_data(1);
    use_data(10);
    assert_eq!(requests.count(), 68, "they are held");
    assert_eq!(server.count_messages().1, 66);
    drop(all);
    server.wait_until_nothing_is_left();
}

#[test]
fn agents_drop_the_data_of_a_driver_that_is_killed() {
    let Some(server) = Server::start() else { return };
    let (_cluster, _agents) = server.fleet(1);
    let data = Marked::new(&server, ByteBuf::new());
    let mut driver =
        std::process::Command::new(std::env::current_exe().expect("a test has a file"));
    driver.args(["--exact", "with::a_driver_with_data", "--ignored", "--nocapture"]);
    driver.env("SERVER", server.address()).env("MARKS", &data.directory);
    driver.stdout(std::process::Stdio::null());
    let driver = Group::start(&mut driver);
    wait_until("its tasks have run", || marks(&server, "ran") > 0);
    let (decoded, here) = (marks(&server, "decoded"), marks(&server, "dropped"));
    assert!(decoded > 0 && here == 1, "the driver has dropped its own value");
    driver.kill();
    wait_until("the workers have dropped them", || marks(&server, "dropped") == decoded + 1);
}

#[test]
#[ignore = "the program of the test before"]
fn a_driver_with_data() {
    let (Ok(server), Ok(directory)) = (std::env::var("SERVER"), std::env::var("MARKS")) else {
        return;
    };
    let cluster = Cluster::builder(&server).lease(LEASE).connect().expect("it is there");
    let with = cluster.with(Marked { directory: directory.clone(), bytes: bytes(100_000) });
    assert_eq!(with.map(length, 0..10).expect("nothing fails").len(), 10);
    fs::write(format!("{directory}/ran"), "").expect("the directory is the test's");
    loop {
        std::thread::park();
    }
}
