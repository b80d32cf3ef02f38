//! Pipes carry items both ways. When one end goes, the other one is told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proc_core::sync::{Connection, Event, pipe};
use proc_core::{ErrorKind, Process, StartMethod};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::ByteBuf;

use super::child;
use crate::support::{Arguments, SOON, describe, run, signal_self, wait_until};

programs![talk, lose_the_peer, send_twice, time_out];

tests! {
    ends_of_a_pipe_talk: forkserver spawn fork;
    end_whose_peer_is_gone_is_told: forkserver spawn fork;
    end_can_be_sent_once: forkserver spawn fork;
    calls_with_a_timeout_outlast_a_stopped_peer: forkserver spawn fork;
}

const MOMENT: Duration = Duration::from_millis(50);

fn echo_lengths(peer: Connection<usize, ByteBuf>) -> usize {
    let mut count = 0;
    while let Ok(bytes) = peer.recv() {
        peer.send(bytes.len()).expect("the peer waits for it");
        count += 1;
    }
    count
}

fn exchange(here: Connection<ByteBuf, usize>) {
    for len in [0, 1, 1000, 1 << 20, 20 << 20, 3] {
        here.send(ByteBuf::from(vec![7; len])).expect("the peer is there");
        assert_eq!(here.recv().expect("the peer is there"), len);
    }
    // Many at once.
    for _ in 0..500 {
        here.send(ByteBuf::from(vec![7; 10])).expect("the peer is there");
    }
    for _ in 0..500 {
        assert_eq!(here.recv().expect("the peer is there"), 10);
    }
    assert!(!here.poll());
}

/// Sends the other end to a process, within another value to a process, and to a task.
fn talk(arguments: &Arguments) {
    let (here, there) = pipe().expect("there is memory");
    let process = child(arguments, echo_lengths, there);
    exchange(here);
    assert_eq!(process.join().expect("it returns"), 506);
    let (here, there) = pipe().expect("there is memory");
    type Two = (Option<String>, Vec<Connection<usize, ByteBuf>>);
    let second = |(_, mut ends): Two| echo_lengths(ends.pop().expect("there is one"));
    let process = child(arguments, second, (Some("with".to_owned()), vec![there]));
    exchange(here);
    assert_eq!(process.join().expect("it returns"), 506);
    // Between two other processes.
    let (one, other) = pipe::<ByteBuf, usize>().expect("there is memory");
    let processes = (child(arguments, echo_lengths, other), child(arguments, exchange, one));
    processes.1.join().expect("it returns");
    assert_eq!(processes.0.join().expect("it returns"), 506);
    let pool = arguments.pool(1);
    let (here, there) = pipe().expect("there is memory");
    let task = pool.apply_async(echo_lengths, there).expect("the pool is open");
    exchange(here);
    assert_eq!(task.get().expect("nothing fails"), 506);
    // Between two threads.
    let (one, other) = pipe::<ByteBuf, usize>().expect("there is memory");
    std::thread::scope(|scope| {
        scope.spawn(|| exchange(one));
        assert_eq!(echo_lengths(other), 506);
    });
    println!("talked");
}

fn ends_of_a_pipe_talk(start_method: StartMethod) {
    assert_eq!(run(talk, start_method, &[]).succeeded(), "talked\n");
}

fn send_and_go((peer, way): (Connection<u32, u32>, String)) {
    for number in 0..3 {
        peer.send(number).expect("the peer is there");
    }
    let _ = peer.recv().expect("the peer tells when");
    match way.as_str() {
        "drop" => {
            drop(peer);
            nix::unistd::pause();
        }
        "exit" => std::process::exit(3),
        "kill" => signal_self(Signal::SIGKILL),
        _ => {}
    }
}

/// The peer goes, in several ways: what it has sent comes first.
fn lose_the_peer(arguments: &Arguments) {
    for way in ["return", "drop", "exit", "kill"] {
        let (here, there) = pipe::<u32, u32>().expect("there is memory");
        let process = child(arguments, send_and_go, (there, way.to_owned()));
        here.send(1).expect("the peer is there");
        for number in 0..3 {
            assert_eq!(here.recv().expect("it was sent"), number);
        }
        let error = here.recv().expect_err("the peer is gone");
        assert_eq!(error.kind(), ErrorKind::Closed, "{}", describe(&error));
        if let "exit" | "kill" = way {
            assert_eq!(error.pid(), Some(process.pid()), "{way}: {}", describe(&error));
        }
        let again = here.recv_timeout(MOMENT).expect_err("the peer is gone");
        assert_eq!(again.kind(), ErrorKind::Closed, "{}", describe(&again));
        let send = here.send(2).expect_err("the peer is gone");
        assert_eq!(send.kind(), ErrorKind::Closed, "{}", describe(&send));
        let send = here.send_timeout(2, MOMENT).expect_err("the peer is gone");
        assert_eq!(send.kind(), ErrorKind::Closed, "{}", describe(&send));
        println!("{way}: {}", error.to_string().replace(&process.pid().to_string(), "PID"));
        let _ = process.kill();
        drop(process);
    }
    // A sender that waits for room is told too.
    for way in ["drop", "kill"] {
        let (here, there) = pipe::<u32, u32>().expect("there is memory");
        let (full, go) = (Event::new().expect("there is memory"), Event::new().expect("memory"));
        let hold = |(peer, way, go): (Connection<u32, u32>, String, Event)| {
            go.wait();
            match way.as_str() {
                "drop" => drop(peer),
                _ => signal_self(Signal::SIGKILL),
            }
        };
        let process = child(arguments, hold, (there, way.to_owned(), go.clone()));
        let sender = std::thread::spawn({
            let full = full.clone();
            move || {
                for number in 0..1024 {
                    here.send(number).expect("there is room");
                }
                full.set();
                here.send(1024)
            }
        });
        full.wait();
        go.set();
        let error = sender.join().expect("it does not panic").expect_err("the peer is gone");
        assert_eq!(error.kind(), ErrorKind::Closed, "{way}: {}", describe(&error));
        let _ = process.join();
    }
}

fn end_whose_peer_is_gone_is_told(start_method: StartMethod) {
    let finished = run(lose_the_peer, start_method, &[]);
    let output = finished.succeeded();
    assert!(output.contains("kill: ") && output.contains("signal 9"), "{output}");
    assert!(output.contains("drop: the other end of the pipe was dropped"), "{output}");
}

/// An end that stays at hand when it is sent.
#[derive(Clone)]
struct Kept(Arc<Mutex<Connection<u32, u32>>>);

impl Serialize for Kept {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.lock().expect("nothing panics").serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Kept, D::Error> {
        Connection::deserialize(deserializer).map(|end| Kept(Arc::new(Mutex::new(end))))
    }
}

fn send_five(ends: Vec<Kept>) {
    ends[0].0.lock().expect("nothing panics").send(5).expect("the peer is there");
}

/// An end that was sent is of no use here, and cannot be sent again.
fn send_twice(arguments: &Arguments) {
    let (here, there) = pipe::<u32, u32>().expect("there is memory");
    let kept = Kept(Arc::new(Mutex::new(there)));
    child(arguments, send_five, vec![kept.clone()]).join().expect("it returns");
    assert_eq!(here.recv().expect("it was sent"), 5);
    let moved = kept.0.lock().expect("nothing panics");
    for error in [
        moved.send(1).expect_err("it was moved"),
        moved.send_timeout(1, MOMENT).expect_err("it was moved"),
        moved.recv().expect_err("it was moved"),
        moved.recv_timeout(MOMENT).expect_err("it was moved"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{}", describe(&error));
    }
    drop(moved);
    let process = Process::new(send_five, vec![kept]).start_method(arguments.start_method);
    let error = process.start().map(drop).expect_err("it was moved");
    println!("{}", describe(&error));
    // Twice in one value.
    let (_here, there) = pipe::<u32, u32>().expect("there is memory");
    let kept = Kept(Arc::new(Mutex::new(there)));
    let process = Process::new(send_five, vec![kept.clone(), kept]);
    let error = process.start_method(arguments.start_method).start().map(drop);
    println!("{}", describe(&error.expect_err("it was moved")));
}

fn end_can_be_sent_once(start_method: StartMethod) {
    let finished = run(send_twice, start_method, &[]);
    let output = finished.succeeded();
    let why = "this end of the pipe was moved to another process";
    assert_eq!(output.matches(why).count(), 2, "{output}");
    assert!(output.lines().all(|line| line.starts_with("encode ")), "{output}");
}

/// The peer is stopped: calls with a timeout return, and the pipe works when it goes on.
fn time_out(arguments: &Arguments) {
    let (here, there) = pipe().expect("there is memory");
    let process = child(arguments, echo_lengths, there);
    here.send(ByteBuf::from(vec![1; 10])).expect("the peer is there");
    assert_eq!(here.recv().expect("the peer is there"), 10);
    let pid = Pid::from_raw(process.pid() as i32);
    kill(pid, Signal::SIGSTOP).expect("it lives");
    wait_until(|| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
        stat.contains(") T ")
    });
    let mut sent = 0;
    while here.send_timeout(ByteBuf::from(vec![1; sent]), MOMENT).expect("it lives").is_none() {
        sent += 1;
    }
    assert!(sent >= 1024 - 1, "{sent}");
    assert_eq!(here.recv_timeout(MOMENT).expect("it lives"), None);
    assert!(!here.poll());
    kill(pid, Signal::SIGCONT).expect("it lives");
    for len in 0..sent {
        assert_eq!(here.recv_timeout(SOON).expect("it lives"), Some(len));
    }
    drop(here);
    assert_eq!(process.join().expect("it returns"), sent + 1);
    println!("in time");
}

fn calls_with_a_timeout_outlast_a_stopped_peer(start_method: StartMethod) {
    assert_eq!(run(time_out, start_method, &[]).succeeded(), "in time\n");
}
