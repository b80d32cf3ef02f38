//! Machines, workers, servers and connections that fail in the middle of the work.
//!
//! A machine is the process group of an agent. When the group is killed, all its processes die at
//! once, and the agent sends no last message.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{self, LEASE, Server, begun, mark, marks, wait_for_workers, wait_until};
use proc_cluster::ErrorKind;

/// A task that makes a mark in each process in which it runs.
fn visit((directory, task): (String, u32)) -> u32 {
    mark(&directory, &format!("ran-{task}-{}", std::process::id()));
    task
}

/// The results of visits in order, which a test takes step by step. So a fault between two steps
/// comes before the last tasks: `imap` takes inputs only a window ahead of the results.
struct ResultsInOrder<I>(std::iter::Zip<std::ops::RangeFrom<u32>, I>);

impl<I: Iterator<Item = Result<u32, proc_cluster::Error>>> ResultsInOrder<I> {
    fn of(results: I) -> ResultsInOrder<I> {
        ResultsInOrder((0..).zip(results))
    }

    fn take(&mut self, count: usize) {
        for (task, result) in self.0.by_ref().take(count) {
            assert_eq!(result.expect("no task fails"), task);
        }
    }

    /// Takes all results that are left. Returns how many there were in all.
    fn count(mut self) -> usize {
        let mut last = 0;
        while let Some((task, result)) = self.0.next() {
            let result = result.expect("no task fails");
            // If the call has failed as a whole, later results come, and then its error.
            let mut error = || self.0.find_map(|(_, result)| result.err());
            assert!(result == task, "{result} came in place of {task}: {:?}", error());
            last = task as usize + 1;
        }
        last
    }
}

/// The inputs of `count` visits.
fn visits(directory: &str, count: u32) -> impl Iterator<Item = (String, u32)> {
    (0..count).map(move |task| (directory.to_owned(), task))
}

#[test]
fn the_work_of_a_lost_machine_runs_elsewhere() {
    let Some(server) = Server::start() else { return };
    let (cluster, mut agents) = server.fleet(2);
    let directory = marks(&server);
    let mut results = ResultsInOrder::of(cluster.imap(visit, visits(&directory, 300)));
    results.take(50);
    agents.remove(0).kill();
    let killed = Instant::now();
    assert_eq!(results.count(), 300);
    assert!(killed.elapsed() < LEASE + Duration::from_secs(30), "{:?}", killed.elapsed());
    let twice = begun(&directory) - 300;
    assert!(twice <= 30, "{twice} of 300 tasks ran twice");
}

/// Runs a hundred thousand tasks, and kills a machine when about 40 % have run.
fn a_machine_is_lost_among_many_tasks(chunksize: Option<usize>) {
    const TASKS: u64 = 100_000;
    let Some(server) = Server::start() else { return };
    let (cluster, mut agents) = server.fleet(2);
    let file = server.path().join("ran");
    fs::write(&file, "").expect("the directory is ours");
    // Each task that runs makes the file a byte longer.
    let run = |(file, task): (String, u64)| {
        let mut file = fs::OpenOptions::new().append(true).open(file).expect("it is there");
        std::io::Write::write_all(&mut file, b".").expect("there is room");
        task
    };
    let name = file.to_str().expect("it is text").to_owned();
    let inputs = (0..TASKS).map(|task| (name.clone(), task));
    let options = cluster.options();
    let options = chunksize.map_or(options.clone(), |tasks| options.chunksize(tasks));
    let task = options.map_async(run, inputs).expect("it is sent");
    let ran = || fs::metadata(&file).expect("it is there").len();
    wait_until("40 % have run", || ran() > TASKS * 2 / 5);
    agents.remove(0).kill();
    assert!(ran() < TASKS, "it was lost in the middle");
    let numbers = task.get().expect("no task fails");
    assert!(numbers.into_iter().eq(0..TASKS));
    let twice = ran() - TASKS;
    println!("{twice} of {TASKS} tasks ran twice");
    assert!(twice <= TASKS * 3 / 100, "{twice} of {TASKS} tasks ran twice");
}

#[test]
fn an_agent_survives_sigpipe() {
    let Some(server) = Server::start() else { return };
    let (cluster, agents) = server.fleet(1);
    kill(agents[0].pid(), Signal::SIGPIPE).expect("it is alive");
    let squares = cluster.map(|x: u32| x * x, 0..4).expect("the agent is there");
    assert_eq!(squares, [0, 1, 4, 9]);
}

#[test]
fn few_tasks_of_a_lost_machine_run_twice() {
    a_machine_is_lost_among_many_tasks(None);
}

#[test]
fn few_tasks_of_a_lost_machine_run_twice_at_chunksize_1() {
    a_machine_is_lost_among_many_tasks(Some(1));
}

#[test]
fn machines_join_and_leave_in_the_middle_of_a_call() {
    let Some(server) = Server::start() else { return };
    let cluster = server.cluster();
    let directory = marks(&server);
    // There is no agent yet.
    let mut results = ResultsInOrder::of(cluster.options().imap(visit, visits(&directory, 400)));
    let mut first = server.agent(2);
    results.take(50);
    let _second = server.agent(2);
    wait_for_workers(&cluster, 4);
    kill(first.pid(), Signal::SIGTERM).expect("it is alive");
    assert!(first.wait().success(), "it leaves in order");
    assert_eq!(results.count(), 400);
    assert_eq!(begun(&directory), 400, "a leaving machine finishes the tasks that it has begun");
}

#[test]
fn a_machine_that_leaves_takes_no_more_work() {
    let Some(server) = Server::start() else { return };
    let mut leaving = server.agent(8);
    // The lease is so long that it does not expire during the test.
    let cluster = server.builder().lease(support::LIMIT).connect().expect("it is there");
    // Without news of the machine, nobody could tell that it leaves.
    wait_for_workers(&cluster, 8);
    let directory = marks(&server);
    let last = |directory: String| {
        mark(&directory, "begun");
        support::wait_until("a word", || fs::exists(format!("{directory}/word")).expect("a file"));
        nix::unistd::getpgrp().as_raw()
    };
    let last = cluster.apply_async(last, directory.clone()).expect("it is sent");
    wait_until("it has begun", || begun(&directory) == 1);
    kill(leaving.pid(), Signal::SIGTERM).expect("it is alive");
    wait_until("it says so", || cluster.fleet().workers() == 0);
    // The requests of the leaving machine came to the server before those of other agents.
    let group = |_: u32| nix::unistd::getpgrp().as_raw();
    let others = cluster.options().chunksize(1).map_async(group, 0..20).expect("it is sent");
    let staying = server.agent(1);
    let groups = others.get().expect("the other machine does them");
    assert_eq!(groups, [staying.pid().as_raw(); 20]);
    mark(&directory, "word");
    assert_eq!(last.get().expect("it finishes what it has begun"), leaving.pid().as_raw());
    assert!(leaving.wait().success(), "it leaves in order");
}

#[test]
fn killed_workers_cost_only_their_own_tasks() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(2);
    let fates = cluster.options().chunksize(5).try_map(
        |x: u32| {
            if x % 50 == 7 {
                kill(Pid::this(), Signal::SIGKILL).expect("a process may signal itself");
            }
            x
        },
        0..500,
    );
    for (x, fate) in (0..500).zip(&fates) {
        match fate {
            Ok(value) => assert_eq!(*value, x),
            Err(error) => assert!(error.is_death() && x % 50 == 7, "{x}: {error}"),
        }
    }
    assert_eq!(fates.iter().filter(|fate| fate.is_err()).count(), 10);
}

#[test]
fn a_call_survives_restarts_of_its_server() {
    let Some(mut server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(2);
    let directory = marks(&server);
    let mut results = ResultsInOrder::of(cluster.imap(visit, visits(&directory, 300)));
    for _ in 0..2 {
        results.take(50);
        server.kill();
        server.run();
    }
    assert_eq!(results.count(), 300);
}

#[test]
fn a_server_may_be_absent_for_longer_than_calls_wait_for_agents() {
    let Some(mut server) = Server::start() else { return };
    let _agent = server.agent(2);
    let cluster = server.builder().patience(Duration::from_secs(1)).connect();
    let cluster = cluster.expect("it is there");
    wait_for_workers(&cluster, 2);
    server.kill();
    let mut task = cluster.map_async(|x: u32| x + 1, 0..100).expect("it is encoded");
    // The driver notices after five seconds at the latest that the server is away: if work was
    // sent, nobody confirms it in that time. A call waits one second for agents.
    let early = task.get_timeout(Duration::from_secs(8)).expect("it waits");
    assert_eq!(early, None, "it did not wait");
    assert!(!task.is_ready());
    server.run();
    assert!(task.get().expect("the server is back").into_iter().eq(1..=100));
}

/// A server that is killed may lose its messages, and still know the number of the message that it
/// must deliver next. It numbers new messages from one again, and does not deliver those with lower
/// numbers.
#[test]
fn a_server_that_numbers_messages_from_one_again_is_corrected() {
    let Some(mut server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    let directory = marks(&server);
    let mut results = ResultsInOrder::of(cluster.imap(visit, visits(&directory, 200)));
    results.take(100);
    let stream = server.path().join("data/jetstream/$G/streams/proc-default-tasks");
    let build = cluster.fleet().agents()[0].build.clone();
    let place = stream.join("obs").join(build).join("o.dat");
    wait_until("the server has noted its place, and has no more to note", || {
        let noted = fs::metadata(&place).and_then(|metadata| metadata.modified());
        let ago = noted.ok().and_then(|noted| noted.elapsed().ok());
        ago.is_some_and(|ago| ago > Duration::from_secs(1))
    });
    server.kill();
    for file in fs::read_dir(stream.join("msgs")).expect("it has messages") {
        fs::remove_file(file.expect("it is listed").path()).expect("it is there");
    }
    server.run();
    assert_eq!(results.count(), 200);
}

#[test]
fn work_that_a_server_has_lost_is_handed_out_again() {
    let Some(mut server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    let directory = marks(&server);
    let mut results = ResultsInOrder::of(cluster.imap(visit, visits(&directory, 200)));
    results.take(10);
    server.kill();
    fs::remove_dir_all(server.path().join("data")).expect("it was there");
    server.run();
    assert_eq!(results.count(), 200);
}

#[test]
fn lost_work_is_noticed_while_other_results_come() {
    let Some(server) = Server::start() else { return };
    let cluster = server.cluster();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| {
            let started = Instant::now();
            let endless = cluster.options().chunksize(1).imap_unordered(|x: u32| x, 0..);
            // Two tasks are sent before there is an agent.
            let mut firsts = 0;
            for result in endless {
                firsts += u32::from(result.expect("no task fails") < 2);
                if firsts == 2 {
                    return true;
                }
                if started.elapsed() > Duration::from_secs(60) {
                    return false;
                }
            }
            unreachable!("it is endless");
        });
        // There is no agent yet that could take the work.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let client = async_nats::connect(server.address()).await.expect("it listens");
            let context = async_nats::jetstream::new(client);
            let stream = context.get_stream("proc-default-tasks").await.expect("a driver made it");
            while stream.delete_message(1).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let _agent = server.agent(2);
        assert!(call.join().expect("it does not panic"), "one of the first is lost, others go on");
    });
}

/// Starts a proxy of a server, which passes on at most this number of bytes a second to the client.
/// Returns its address.
fn slow_proxy(server: &Server, bytes: usize) -> String {
    let end = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = format!("nats://{}", end.local_addr().expect("it is bound"));
    let port = server.port();
    std::thread::spawn(move || {
        for near in end.incoming() {
            let near = near.expect("it is accepted");
            let far = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
            let (mut up, mut down) = ((&near, &far), (&far, &near));
            std::thread::scope(|scope| {
                scope.spawn(|| std::io::copy(&mut up.0, &mut up.1));
                let mut piece = vec![0; bytes / 100];
                while let Ok(len @ 1..) = down.0.read(&mut piece)
                    && down.1.write_all(&piece[..len]).is_ok()
                {
                    std::thread::sleep(Duration::from_secs(1) * len as u32 / bytes as u32);
                }
                let _ = far.shutdown(Shutdown::Both); // both ends may have gone
                let _ = near.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

#[test]
fn a_task_runs_once_if_its_result_takes_longer_than_a_lease_to_fetch() {
    let Some(server) = Server::start() else { return };
    let _agent = server.agent(2);
    // The result takes as long as five leases. The driver fetches eight pieces of it at once, which
    // together take as long as one lease.
    let proxy = slow_proxy(&server, 2 << 20);
    let cluster = proc_cluster::Cluster::builder(&proxy).lease(LEASE).connect();
    let cluster = cluster.expect("the proxy leads to the server");
    let directory = marks(&server);
    let large = |directory: String| {
        let attempt = proc_cluster::attempt().expect("it is a task").number;
        mark(&directory, &format!("{attempt}"));
        serde_bytes::ByteBuf::from(vec![7_u8; 20 << 20])
    };
    let bytes = cluster.apply(large, directory.clone()).expect("it is fetched in the end");
    assert_eq!(bytes.len(), 20 << 20);
    assert_eq!(begun(&directory), 1, "it is not done again while its result is fetched");
}

/// A proxy of a server, whose connections a test can cut.
struct Proxy {
    address: String,
    ends: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    fn of(server: &Server) -> Proxy {
        let end = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = format!("nats://{}", end.local_addr().expect("it is bound"));
        let (port, ends) = (server.port(), Arc::<Mutex<Vec<TcpStream>>>::default());
        let all = Arc::clone(&ends);
        std::thread::spawn(move || {
            for near in end.incoming() {
                let near = near.expect("it is accepted");
                // While the server is absent, the connection ends at once.
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let clone = |end: &TcpStream| end.try_clone().expect("there are descriptors");
                    let (mut from, mut to) = (clone(from), clone(to));
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to); // until it is cut
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                all.lock().expect("no thread panics while it holds it").push(near);
            }
        });
        Proxy { address, ends }
    }

    fn cut(&self) {
        for end in self.ends.lock().expect("no thread panics while it holds it").drain(..) {
            let _ = end.shutdown(Shutdown::Both); // it may have gone
        }
    }
}

#[test]
fn all_faults_at_once() {
    let Some(mut server) = Server::start() else { return };
    let mut agents = vec![server.agent(2), server.agent(2)];
    let proxy = Proxy::of(&server);
    let cluster = proc_cluster::Cluster::builder(&proxy.address).lease(LEASE).connect();
    let cluster = cluster.expect("the proxy leads to the server");
    wait_for_workers(&cluster, 4);
    let directory = marks(&server);
    let deadly = |(directory, task): (String, u32)| {
        if task % 101 == 5 {
            kill(Pid::this(), Signal::SIGKILL).expect("a process may signal itself");
        }
        visit((directory, task))
    };
    let mut results = (0..).zip(cluster.imap(deadly, visits(&directory, 600)));
    let mut take = |count| {
        for _ in 0..count {
            match results.next().expect("each input has a fate") {
                (task, Ok(value)) => assert_eq!(value, task),
                (task, Err(error)) => {
                    assert!(error.is_death() && task % 101 == 5, "{task}: {error}");
                }
            }
        }
    };
    for round in 1..4 {
        take(100);
        agents.remove(0).kill();
        agents.push(server.agent(2));
        proxy.cut();
        if round == 2 {
            server.kill();
            server.run();
        }
    }
    take(300);
    assert!(results.next().is_none(), "each input has one fate");
}

#[test]
fn an_agent_without_a_server_ends_on_sigterm() {
    let Some(mut server) = Server::start() else { return };
    let (cluster, mut agents) = server.fleet(1);
    assert_eq!(cluster.apply(|x: u32| x + 1, 1).expect("nothing fails"), 2);
    server.kill();
    agents[0].signal(Signal::SIGTERM);
    assert!(agents[0].wait().success(), "it has nothing to finish");
}

#[test]
fn a_driver_that_is_killed_leaves_no_work_behind() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    let directory = marks(&server);
    let mut driver =
        std::process::Command::new(std::env::current_exe().expect("a test has a file"));
    driver.args(["--exact", "faults::a_driver_without_end", "--ignored", "--nocapture"]);
    driver.env("SERVER", server.address()).env("MARKS", &directory);
    driver.stdout(std::process::Stdio::null());
    let driver = support::Group::start(&mut driver);
    wait_until("its tasks have begun", || begun(&directory) >= 2);
    driver.kill();
    wait_until("its tasks are cancelled", || {
        let fleet = cluster.fleet();
        fleet.agents().iter().all(|agent| agent.in_flight == 0)
    });
    assert_eq!(cluster.apply(|x: u32| x + 1, 1).expect("the workers are free"), 2);
}

/// Starts a false server, which answers a client until the client has connected. Returns its port.
fn pretend_to_be(version: &str) -> std::io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let info = serde_json::json!({
        "server_id": "of a test", "server_name": "of a test", "host": "127.0.0.1", "port": port,
        "version": version, "go": "", "proto": 1, "max_payload": 1 << 20, "client_id": 1,
        "client_ip": "127.0.0.1", "headers": true, "jetstream": true,
    });
    std::thread::spawn(move || -> std::io::Result<()> {
        let (mut client, _) = listener.accept()?;
        client.write_all(format!("INFO {info}\r\n").as_bytes())?;
        let mut asked = Vec::new();
        while !asked.ends_with(b"PING\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte)?;
            asked.extend(byte);
        }
        client.write_all(b"PONG\r\n")?;
        client.read_to_end(&mut asked)?; // until it goes
        Ok(())
    });
    Ok(port)
}

#[test]
fn a_server_that_is_too_old_is_refused() {
    let port = pretend_to_be("2.10.26").expect("a port is free");
    let refused = proc_cluster::Cluster::connect(&format!("nats://127.0.0.1:{port}"));
    let error = refused.map(drop).expect_err("it is too old");
    assert!(error.kind() == ErrorKind::Fleet, "{error}");
    let said = format!(
        "the server at nats://127.0.0.1:{port} is nats-server 2.10.26, which may stall or lose work: \
         install 2.10.27 or newer"
    );
    assert!(error.to_string().contains(&said), "{error}");
}

#[test]
#[ignore = "the program of the test with a killed driver"]
fn a_driver_without_end() {
    let (Ok(server), Ok(directory)) = (std::env::var("SERVER"), std::env::var("MARKS")) else {
        return;
    };
    let cluster =
        proc_cluster::Cluster::builder(&server).lease(LEASE).connect().expect("it is there");
    let forever = |directory: String| {
        mark(&directory, &format!("{}", std::process::id()));
        loop {
            std::thread::park();
        }
    };
    let _: Vec<Result<(), _>> = cluster.try_map(forever, vec![directory; 10]);
}
