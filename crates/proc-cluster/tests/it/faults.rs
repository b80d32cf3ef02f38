//! Machines, workers, servers and connections that fail in the middle of the work.
//!
//! A machine is an agent's process group: killing it kills its workers, and nobody says goodbye.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{self, LEASE, Server, wait_for_workers, wait_until};
use proc_cluster::ErrorKind;

/// A task that tells that it runs, by a file, and then does something.
fn mark(directory: &str, name: &str) -> PathBuf {
    let file = PathBuf::from(directory).join(name);
    fs::write(&file, std::process::id().to_string()).expect("the directory is the test's");
    file
}

/// A task that leaves a file, one for each process that it ran in.
fn visit((directory, task): (String, u32)) -> u32 {
    mark(&directory, &format!("ran-{task}-{}", std::process::id()));
    task
}

/// Results in order, taken as many at a time as a test wants: what is not taken cannot all be done.
struct Taken<I>(std::iter::Zip<std::ops::RangeFrom<u32>, I>);

impl<I: Iterator<Item = Result<u32, proc_cluster::Error>>> Taken<I> {
    fn of(results: I) -> Taken<I> {
        Taken((0..).zip(results))
    }

    fn take(&mut self, count: usize) {
        for (task, result) in self.0.by_ref().take(count) {
            assert_eq!(result.expect("no task fails"), task);
        }
    }

    /// All that are left, and how many there were in all.
    fn count(mut self) -> usize {
        let mut last = 0;
        for (task, result) in self.0.by_ref() {
            assert_eq!(result.expect("no task fails"), task);
            last = task as usize + 1;
        }
        last
    }
}

/// The inputs of so many visits.
fn visits(directory: &str, count: u32) -> impl Iterator<Item = (String, u32)> {
    (0..count).map(move |task| (directory.to_owned(), task))
}

/// How many tasks have begun, anywhere.
fn begun(directory: &str) -> usize {
    fs::read_dir(directory).expect("the directory is the test's").count()
}

fn marks(server: &Server) -> String {
    let directory = server.path().join("marks");
    fs::create_dir_all(&directory).expect("the directory is ours");
    directory.to_str().expect("it is text").to_owned()
}

#[test]
fn a_lost_machine_s_work_runs_elsewhere() {
    let Some(server) = Server::start() else { return };
    let (cluster, mut agents) = server.fleet(2);
    let directory = marks(&server);
    let mut results = Taken::of(cluster.imap(visit, visits(&directory, 300)));
    results.take(50);
    agents.remove(0).kill();
    let killed = Instant::now();
    assert_eq!(results.count(), 300);
    assert!(killed.elapsed() < LEASE + Duration::from_secs(30), "{:?}", killed.elapsed());
    let twice = begun(&directory) - 300;
    assert!(twice <= 30, "{twice} of 300 tasks ran twice");
}

/// A hundred thousand tasks, and a machine that is lost when some 40 % have run.
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
    let options = chunksize.map_or(options, |tasks| options.chunksize(tasks));
    let task = options.map_async(run, inputs).expect("it is sent");
    let ran = || fs::metadata(&file).expect("it is there").len();
    wait_until("a good part has run", || ran() > TASKS * 2 / 5);
    agents.remove(0).kill();
    assert!(ran() < TASKS, "it was lost in the middle");
    let numbers = task.get().expect("no task fails");
    assert!(numbers.into_iter().eq(0..TASKS));
    let twice = ran() - TASKS;
    println!("{twice} of {TASKS} tasks ran twice");
    assert!(twice <= TASKS * 3 / 100, "{twice} of {TASKS} tasks ran twice");
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
fn machines_join_in_the_middle_and_leave_by_a_word() {
    let Some(server) = Server::start() else { return };
    let cluster = server.cluster();
    let directory = marks(&server);
    // Nobody is there yet.
    let mut results = Taken::of(cluster.options().imap(visit, visits(&directory, 400)));
    let mut first = server.agent(2);
    results.take(50);
    let _second = server.agent(2);
    wait_for_workers(&cluster, 4);
    kill(first.pid(), Signal::SIGTERM).expect("it is alive");
    assert!(first.wait().success(), "it leaves with a good word");
    assert_eq!(results.count(), 400);
    assert_eq!(begun(&directory), 400, "what a leaving machine has begun it finishes");
}

#[test]
fn a_machine_that_leaves_takes_nothing_more() {
    let Some(server) = Server::start() else { return };
    let mut leaving = server.agent(8);
    // A lease that nobody waits for.
    let cluster = server.builder().lease(support::LIMIT).connect().expect("it is there");
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
    // Its requests for more were at the server before those of any other.
    let group = |_: u32| nix::unistd::getpgrp().as_raw();
    let others = cluster.options().chunksize(1).map_async(group, 0..20).expect("it is sent");
    let staying = server.agent(1);
    let groups = others.get().expect("the other machine does them");
    assert_eq!(groups, [staying.pid().as_raw(); 20]);
    mark(&directory, "word");
    assert_eq!(last.get().expect("it finishes what it has begun"), leaving.pid().as_raw());
    assert!(leaving.wait().success(), "it leaves with a good word");
}

#[test]
fn workers_that_are_killed_cost_their_own_task() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(2);
    let fates = cluster.options().chunksize(5).try_map(
        |x: u32| {
            if x % 50 == 7 {
                kill(Pid::this(), Signal::SIGKILL).expect("it is us");
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

/// Kills the machine it runs on: the agent, its fork server and all workers.
fn poison((directory, task): (String, u32)) -> u32 {
    if task == 17 {
        mark(&directory, &format!("poisoned-{}", std::process::id()));
        nix::sys::signal::killpg(nix::unistd::getpgrp(), Signal::SIGKILL).expect("it is ours");
    }
    task
}

#[test]
fn a_task_that_takes_machines_down_fails_alone() {
    let Some(server) = Server::start() else { return };
    let directory = marks(&server);
    let (cluster, mut agents) = server.fleet(1);
    let inputs = (0..40).map(|task| (directory.clone(), task));
    let mut fates = Vec::new();
    std::thread::scope(|scope| {
        let map = scope.spawn(|| cluster.options().chunksize(10).try_map(poison, inputs));
        // What a supervisor does: a machine that went down comes back.
        while !map.is_finished() {
            let fallen = || begun(&directory) == agents.len();
            wait_until("it fell, or all is done", || fallen() || map.is_finished());
            agents.push(server.agent(2));
        }
        fates = map.join().expect("it does not panic");
    });
    for (task, fate) in (0..40).zip(&fates) {
        match fate {
            Ok(value) => assert_eq!(*value, task),
            Err(error) => {
                assert!(error.is_death() && task == 17, "{task}: {error}");
                assert!(error.to_string().contains("3 machines in turn"), "{error}");
            }
        }
    }
    assert!(fates[17].is_err());
    assert!(begun(&directory) <= 3, "it took {} machines down", begun(&directory));
}

/// Kills the machine it runs on, unless that is a safe one; there it waits for a word.
fn poison_elsewhere(directory: String) -> u32 {
    if std::env::var_os("SAFE").is_none() {
        mark(&directory, &format!("fell-{}", std::process::id()));
        nix::sys::signal::killpg(nix::unistd::getpgrp(), Signal::SIGKILL).expect("it is ours");
    }
    mark(&directory, "alone");
    support::wait_until("it may end", || fs::exists(format!("{directory}/word")).expect("a file"));
    17
}

#[test]
fn a_machine_with_one_alone_takes_nothing_and_loses_nothing() {
    let Some(server) = Server::start() else { return };
    let directory = marks(&server);
    let cluster = server.cluster();
    let suspect = cluster.apply_async(poison_elsewhere, directory.clone()).expect("it is sent");
    for fallen in 1..=2 {
        let _doomed = server.agent(1);
        wait_until("it fell", || begun(&directory) == fallen);
    }
    // It asks for as many chunks as it has workers: more than a chunk may be given back.
    let mut safe = server.agent_command(30);
    let _safe = support::Group::start(safe.env("SAFE", "1"));
    wait_until("the suspect runs alone", || begun(&directory) == 3);
    let innocent = cluster.apply_async(|x: u32| x, 1).expect("it is sent");
    // Were it given back again and again, that would be over before another machine is there.
    let _other = server.agent(1);
    assert_eq!(innocent.get().expect("it waited for a machine"), 1);
    mark(&directory, "word");
    assert_eq!(suspect.get().expect("it was not lost a third time"), 17);
}

#[test]
fn a_server_that_restarts_with_its_data_loses_nothing() {
    let Some(mut server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(2);
    let directory = marks(&server);
    let mut results = Taken::of(cluster.imap(visit, visits(&directory, 300)));
    for _ in 0..2 {
        results.take(50);
        server.kill();
        server.run();
    }
    assert_eq!(results.count(), 300);
}

#[test]
fn a_server_may_be_away_for_longer_than_calls_wait_for_agents() {
    let Some(mut server) = Server::start() else { return };
    let _agent = server.agent(2);
    let cluster = server.builder().patience(Duration::from_secs(1)).connect();
    let cluster = cluster.expect("it is there");
    wait_for_workers(&cluster, 2);
    server.kill();
    let mut task = cluster.map_async(|x: u32| x + 1, 0..100).expect("it is encoded");
    // Work counts as not confirmed after five seconds, and calls wait for one more.
    let early = task.get_timeout(Duration::from_secs(8)).expect("it waits");
    assert_eq!(early, None, "it did not wait");
    assert!(!task.is_ready());
    server.run();
    assert!(task.get().expect("all is well").into_iter().eq(1..=100));
}

/// A server that is killed may come back with what it was to deliver next and an empty queue that
/// counts from one again: all that is below is not delivered.
#[test]
fn a_server_that_has_lost_count_is_corrected() {
    let Some(mut server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    let directory = marks(&server);
    let mut results = Taken::of(cluster.imap(visit, visits(&directory, 200)));
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
fn what_a_server_has_lost_is_handed_out_anew() {
    let Some(mut server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(1);
    let directory = marks(&server);
    let mut results = Taken::of(cluster.imap(visit, visits(&directory, 200)));
    results.take(10);
    server.kill();
    fs::remove_dir_all(server.path().join("data")).expect("it was there");
    server.run();
    assert_eq!(results.count(), 200);
}

#[test]
fn what_a_server_has_lost_is_missed_while_other_results_come() {
    let Some(server) = Server::start() else { return };
    let cluster = server.cluster();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| {
            let started = Instant::now();
            let endless = cluster.options().chunksize(1).imap_unordered(|x: u32| x, 0..);
            // Two are sent before anybody is there.
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
        // Nobody is there to take it.
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

/// A line to a server that carries so many bytes a second to this side, and the address of its end.
fn slow_line(server: &Server, bytes: usize) -> String {
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
fn results_that_take_longer_than_a_lease_to_fetch_are_made_once() {
    let Some(server) = Server::start() else { return };
    let _agent = server.agent(2);
    // Five leases, of which a piece's way takes one.
    let line = slow_line(&server, 2 << 20);
    let cluster = proc_cluster::Cluster::builder(&line).lease(LEASE).connect();
    let cluster = cluster.expect("the line leads to the server");
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

/// A line to a server that can be cut.
struct Line {
    address: String,
    ends: Arc<Mutex<Vec<TcpStream>>>,
}

impl Line {
    fn to(server: &Server) -> Line {
        let end = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = format!("nats://{}", end.local_addr().expect("it is bound"));
        let (port, ends) = (server.port(), Arc::<Mutex<Vec<TcpStream>>>::default());
        let all = Arc::clone(&ends);
        std::thread::spawn(move || {
            for near in end.incoming() {
                let near = near.expect("it is accepted");
                // Where the server is away, the line ends at once.
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let clone = |end: &TcpStream| end.try_clone().expect("there are descriptors");
                    let (mut from, mut to) = (clone(from), clone(to));
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to); // until it is cut
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                all.lock().expect("nobody panics with it").push(near);
            }
        });
        Line { address, ends }
    }

    fn cut(&self) {
        for end in self.ends.lock().expect("nobody panics with it").drain(..) {
            let _ = end.shutdown(Shutdown::Both); // it may have gone
        }
    }
}

#[test]
fn everything_at_once() {
    let Some(mut server) = Server::start() else { return };
    let mut agents = vec![server.agent(2), server.agent(2)];
    let line = Line::to(&server);
    let cluster = proc_cluster::Cluster::builder(&line.address).lease(LEASE).connect();
    let cluster = cluster.expect("the line leads to the server");
    wait_for_workers(&cluster, 4);
    let directory = marks(&server);
    let deadly = |(directory, task): (String, u32)| {
        if task % 101 == 5 {
            kill(Pid::this(), Signal::SIGKILL).expect("it is us");
        }
        visit((directory, task))
    };
    let mut results = (0..).zip(cluster.imap(deadly, visits(&directory, 600)));
    let mut take = |count| {
        for (task, fate) in results.by_ref().take(count) {
            match fate {
                Ok(value) => assert_eq!(value, task),
                Err(error) => assert!(error.is_death() && task % 101 == 5, "{task}: {error}"),
            }
        }
    };
    for round in 1..4 {
        take(100);
        agents.remove(0).kill();
        agents.push(server.agent(2));
        line.cut();
        if round == 2 {
            server.kill();
            server.run();
        }
    }
    take(300);
    assert!(results.next().is_none(), "each input has one fate");
}

#[test]
fn an_agent_ends_when_it_is_told_to_also_without_a_server() {
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
    wait_until("its tasks are called off", || {
        let fleet = cluster.fleet();
        fleet.agents().iter().all(|agent| agent.in_flight == 0)
    });
    assert_eq!(cluster.apply(|x: u32| x + 1, 1).expect("the workers are free"), 2);
}

/// A server as far as a client sees before it works with it.
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
fn a_server_that_is_known_to_stall_is_refused() {
    let port = pretend_to_be("2.10.26").expect("a port is free");
    let refused = proc_cluster::Cluster::connect(&format!("nats://127.0.0.1:{port}"));
    let error = refused.map(drop).expect_err("it is too old");
    assert!(error.kind() == ErrorKind::Fleet, "{error}");
    let said = format!(
        "the server at nats://127.0.0.1:{port} is nats-server 2.10.26, which is known to stall: install \
         2.10.27 or newer"
    );
    assert!(error.to_string().contains(&said), "{error}");
}

#[test]
#[ignore = "the program of the test before"]
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
