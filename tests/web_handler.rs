//! The book's web handler, as a real process: 200 requests at once of which every tenth crashes its
//! worker, tasks that hang, and clients that hang up. And its Python original beside it.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use std::{env, thread};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use support::{adopt_orphans, members, program, python, settings};

/// The longest time that a server may run, on the slowest machine.
const LIMIT: Duration = Duration::from_secs(120);

/// The workers of the server.
const WORKERS: usize = 4;

/// How many tasks the server's pool takes at a time.
const MAX_PENDING: usize = 64;

/// How long a task may run.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A server in a process group of its own, which is killed when the test ends, or after [`LIMIT`].
struct Server {
    child: Child,
    address: String,
    /// Dropped when the server has ended, so that the watch ends too.
    _watch: Sender<()>,
}

impl Server {
    /// Starts a server, which prints its address first: `http://127.0.0.1:40123`.
    fn start(mut command: Command) -> Server {
        adopt_orphans();
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let group = pid(&child);
        let (watch, end) = mpsc::channel();
        thread::spawn(move || {
            if end.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                let alive = members(group);
                eprintln!("killed after {LIMIT:?}:\n{alive}");
                let _ = killpg(group, Signal::SIGKILL);
            }
        });
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("a readable pipe");
        let address = line.trim().strip_prefix("http://").expect("an address").to_owned();
        Server { child, address, _watch: watch }
    }

    /// How many of its processes are workers of a pool.
    fn workers(&self) -> usize {
        let members = members(pid(&self.child));
        members.lines().filter(|line| line.contains("(worker")).count()
    }

    /// Sends SIGTERM to the server alone, and waits until its whole group has ended.
    fn end(mut self) {
        let server = pid(&self.child);
        kill(server, Signal::SIGTERM).expect("it is alive");
        self.child.wait().expect("our child");
        // What it left is ours now. A process that did not end is killed after the limit.
        while waitpid(Pid::from_raw(-server.as_raw()), None) != Err(Errno::ECHILD) {}
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = killpg(pid(&self.child), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().expect("a pid"))
}

/// The web handler in Rust.
fn rust_server() -> Server {
    let test = env::current_exe().expect("a test has a file");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    Server::start(program(profile.join("web_handler")))
}

/// What a client gets.
#[derive(Debug)]
struct Response {
    status: u16,
    retry_after: Option<u64>,
    body: String,
}

/// Sends a request for the square of `n`.
fn send(stream: &mut TcpStream, n: u64) {
    let request = format!("GET /square/{n} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a server that reads");
}

/// Reads a response to its end. Returns `None` if there is none.
fn receive(stream: &mut TcpStream) -> Option<Response> {
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    let retry_after = lines.find(|(name, _)| name.eq_ignore_ascii_case("retry-after"));
    let retry_after = retry_after.and_then(|(_, seconds)| seconds.parse().ok());
    Some(Response { status, retry_after, body: body.to_owned() })
}

fn connect(address: &str) -> TcpStream {
    TcpStream::connect(address).expect("a server that listens")
}

fn get(address: &str, n: u64) -> Response {
    let mut stream = connect(address);
    send(&mut stream, n);
    receive(&mut stream).expect("a response")
}

/// A client of the crowd: what it asks for, and whether it waits for the response.
fn client(number: u64) -> (u64, bool) {
    match number % 10 {
        0 => (0, true),  // crashes its worker
        1 => (1, true),  // hangs
        2 => (1, false), // hangs, and its client hangs up
        _ => (number, true),
    }
}

#[test]
fn each_request_has_its_status_and_no_worker_is_lost() {
    const CLIENTS: u64 = 200;
    let server = rust_server();
    let all_connected = Arc::new(Barrier::new(CLIENTS as usize));
    let clients = (0..CLIENTS).map(|number| {
        let (address, all_connected) = (server.address.clone(), all_connected.clone());
        thread::spawn(move || {
            let mut stream = connect(&address);
            all_connected.wait();
            let (n, waits) = client(number);
            let mut refusals = 0;
            loop {
                send(&mut stream, n);
                if !waits {
                    return (number, refusals, None);
                }
                let response = receive(&mut stream).expect("a response");
                if response.status != 503 {
                    return (number, refusals, Some(response));
                }
                // The server is busy, and says when to come again.
                refusals += 1;
                assert_eq!(response.body, "too many requests");
                let seconds = response.retry_after.expect("a time");
                thread::sleep(Duration::from_secs(seconds));
                stream = connect(&address);
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    let mut refused = 0;
    for client in clients {
        let (number, refusals, response) = client.join().expect("no client fails");
        refused += refusals;
        let Some(Response { status, body, .. }) = response else { continue };
        let told = format!("client {number}: {status} {body}");
        match number % 10 {
            0 => {
                let crash = "the process was killed by signal 6 (SIGABRT)";
                assert!(status == 500 && body.contains(crash), "{told}");
            }
            1 => assert!(status == 504 && body.contains("no result within 1s"), "{told}"),
            _ => assert_eq!((status, body), (200, (number * number).to_string()), "{told}"),
        }
    }
    // The requests that hang need more time than all others need to arrive.
    assert!(refused > 0, "the pool has refused nothing");

    // If this takes too long, the watch kills the server. Then it has no processes, and this fails.
    while server.workers() != WORKERS {
        assert!(!members(pid(&server.child)).is_empty(), "the server has ended");
        thread::sleep(Duration::from_millis(10));
    }
    for number in 2..20 {
        let Response { status, body, .. } = get(&server.address, number);
        assert_eq!((status, body), (200, (number * number).to_string()));
    }
    server.end();
}

#[test]
fn a_client_that_hangs_up_cancels_its_task() {
    let server = rust_server();
    let mut streams: Vec<_> = (0..MAX_PENDING + WORKERS * 4)
        .map(|_| {
            let mut stream = connect(&server.address);
            send(&mut stream, 1);
            stream
        })
        .collect();
    // The last clients are refused: all tasks of the others are queued, or run.
    let (sender, responses) = mpsc::channel();
    let readers: Vec<_> = streams
        .iter_mut()
        .map(|stream| {
            let (mut stream, sender) = (stream.try_clone().expect("a descriptor"), sender.clone());
            thread::spawn(move || sender.send(receive(&mut stream)))
        })
        .collect();
    let is_refusal = |response: &Option<Response>| matches!(response, Some(r) if r.status == 503);
    responses.iter().find(is_refusal).expect("a refusal");
    let hung_up = Instant::now();
    for stream in &streams {
        // The server may have ended the connection.
        let _ = stream.shutdown(Shutdown::Both);
    }
    for reader in readers {
        let _ = reader.join().expect("a reader does not panic");
    }
    // Until there is room for one more task, and then until a worker has run it.
    let response = loop {
        let response = get(&server.address, 7);
        if response.status != 503 {
            break response;
        }
        thread::yield_now();
    };
    assert_eq!((response.status, response.body.as_str()), (200, "49"));
    // If they were not cancelled, the tasks of these clients would keep the workers busy for longer
    // than this.
    let time = TIMEOUT * (MAX_PENDING / WORKERS) as u32;
    let waited = hung_up.elapsed();
    assert!(waited < time / 2, "{waited:?} after all clients have hung up");
    server.end();
}

/// What a server answers to some requests, one after the other. Those in a group are sent at once.
fn session(server: &Server, groups: &[&[u64]]) -> String {
    let mut lines = String::new();
    for group in groups {
        let requests = group.iter().map(|n| {
            let (n, address) = (*n, server.address.clone());
            (n, thread::spawn(move || get(&address, n)))
        });
        for (n, request) in requests.collect::<Vec<_>>() {
            let Response { status, body, .. } = request.join().expect("a response");
            // The number and the pid of the worker may be any.
            let body = body.split(" (worker").next().unwrap_or_default();
            lines += &format!("square/{n}: {status} {body}\n");
        }
    }
    lines
}

/// Compares the answers with a snapshot. They hold nothing that differs from run to run.
fn check(name: &str, answers: &str) {
    let mut settings = settings();
    settings.set_filters(Vec::<(&str, &str)>::new());
    settings.bind(|| insta::assert_snapshot!(name, answers));
}

/// A task that crashes, and then tasks that do not.
const CRASH: &[&[u64]] = &[&[7], &[0], &[7]];

/// Tasks that hang, as many as there are workers, and then one that does not.
const HANGS: &[&[u64]] = &[&[7], &[1, 1, 1, 1], &[7]];

#[test]
fn after_a_crash_and_after_hangs() {
    for (name, requests) in [("crash", CRASH), ("hangs", HANGS)] {
        let server = rust_server();
        let answers = session(&server, requests);
        server.end();
        check(&format!("{name}_in_rust"), &answers);
    }
}

/// In Python, a crash breaks the pool, and a task that hangs keeps its worker.
#[test]
fn after_a_crash_and_after_hangs_in_python() {
    for (name, requests) in [("crash", CRASH), ("hangs", HANGS)] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/web_handler.py");
        let Some(command) = python(&file) else { return };
        // Its workers would go on after a SIGTERM to the server alone: they are killed.
        let server = Server::start(command);
        let answers = session(&server, requests);
        check(&format!("{name}_in_python"), &answers);
    }
}
