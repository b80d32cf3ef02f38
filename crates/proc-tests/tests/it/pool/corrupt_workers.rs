//! Workers that write corrupt messages to their report channel, or overwrite shared memory.

use std::collections::HashSet;
use std::os::fd::RawFd;
use std::os::unix::process::parent_id;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, send};
use proc_core::{Pool, Process, StartMethod};

use crate::support::procfs::children_of;
use crate::support::{
    Arguments, Finished, describe, print_results, raw, run, signal_self, wait_until, work_forever,
};

programs![
    write_corrupt_reports,
    write_a_corrupt_report_in_preload,
    overwrite_shared_memory_in_a_worker
];

tests! {
    corrupt_report_ends_its_worker: forkserver spawn fork;
    corrupt_report_that_looks_valid_is_harmless: forkserver spawn fork;
    endless_corrupt_report_is_ended_by_the_timeout: forkserver spawn fork;
    corrupt_report_of_a_preload_function_is_an_error: forkserver spawn;
    worker_that_overwrites_shared_memory_is_an_error: forkserver spawn fork;
}

/// The timeout of a task whose corrupt message is not noticed.
const SHORT_TIMEOUT: Duration = Duration::from_secs(1);

/// The timeout of a task that is ended for its corrupt message. The end must come much sooner.
const LONG_TIMEOUT: Duration = Duration::from_secs(50);

/// Task 3 of 8 writes corrupt messages of a kind. It returns only if these look valid. The other
/// tasks are harmless.
fn write_corrupt_reports(arguments: &Arguments) {
    let pool = arguments.pool(2);
    pool.map(|x: u32| x, 0..100).expect("nothing fails");
    let task = |(task, kind): (u32, String)| {
        if task == 3 {
            write_corrupt_report(&kind);
        }
        task
    };
    let kind = arguments.word();
    let limit = if matches!(kind, "headless" | "flood") { SHORT_TIMEOUT } else { LONG_TIMEOUT };
    let inputs = (0..8).map(|task| (task, kind.to_owned()));
    let results = pool.options().chunksize(1).timeout(limit).try_map(task, inputs);
    let pid = results[3].as_ref().err().and_then(proc_core::Error::pid);
    print_results(results);
    if let Some(pid) = pid {
        // A worker that writes corrupt messages is killed.
        wait_until(|| !std::fs::exists(format!("/proc/{pid}")).expect("/proc is mounted"));
    }
    let sum: u64 = pool.map(|x: u64| 2 * x, 0..1000).expect("the pool goes on").iter().sum();
    println!("afterwards {sum}");
    // No caller waits for these results, so only the thread that reads the worker's reports can
    // collect them.
    for round in 0..4 {
        let (sender, result) = std::sync::mpsc::channel();
        let task = pool.apply_async(|x: u32| x, round).expect("the pool is open");
        task.on_done(move |result| drop(sender.send(result)));
        match result.recv().expect("it is called") {
            Ok(value) => assert_eq!(value, round),
            Err(error) => println!("{}", describe(&error)),
        }
    }
    println!("called back");
}

/// The numbers of two variants of proc-core's `Report`. After [`SAID`] comes the number of a
/// variant of `FromWorker`.
const EXITED: u8 = 3;
const SAID: u8 = 4;

fn write_corrupt_report(kind: &str) {
    let report = report_channel();
    // Its first number is not the number of a report.
    let noise = |len: u32| (0..len).map(|n| ((n * 7919) >> 3) as u8 | 128).collect::<Vec<u8>>();
    match kind {
        "nothing" => send_all(report, &[]),
        "noise" => send_all(report, &framed(&noise(1000))),
        "long" => send_all(report, &framed(&noise(100_000))),
        // Not even ipc-channel's header is right: ipc-channel waits for the rest of a message.
        "headless" => send_all(report, &noise(1000)),
        "boast" => {
            let mut boast = framed(&[SAID, 0]);
            boast[8..16].copy_from_slice(&(1_u64 << 40).to_le_bytes());
            send_all(report, &boast);
        }
        // The status 0, no processor time (seconds and nanoseconds), no last words.
        "exit" => send_all(report, &framed(&[EXITED, 1, 0, 0, 0, 0])),
        // Names tickets that may be in use, that are not in use, and that do not exist.
        "numbers" => {
            for ticket in [&[0][..], &[200, 1], &[255, 255, 255, 255, 15]] {
                send_all(report, &framed(&[&[SAID, 4], ticket].concat()));
                for task in [&[0][..], &[7], &[255, 255, 255, 255, 15]] {
                    send_all(
                        report,
                        &framed(&[&[SAID, 5], ticket, task, &[0, 3, 1, 2, 3, 0]].concat()),
                    );
                }
            }
            return;
        }
        "news" => {
            for news in [&[0][..], &[3], &[2, 0], &[1, 0, 1, 9, 0]] {
                send_all(report, &framed(&[&[SAID], news].concat()));
            }
            // A request for no data. A request for data that nobody has, from a worker that says it
            // holds data that it does not hold. And a ticket that it did not claim.
            for data in [&[6, 0, 0][..], &[6, 1, 9, 1, 9], &[7, 200, 1, 0, 1, 9, 0]] {
                send_all(report, &framed(&[&[SAID], data].concat()));
            }
            send_all(report, &framed(&[0, 9]));
            send_all(report, &framed(&[2, 3, 65, 66, 67]));
            return;
        }
        "flood" => loop {
            send_all(report, &framed(&[SAID, 3]));
        },
        other => panic!("no such rubbish: {other}"),
    }
    work_forever();
}

/// A message as ipc-channel frames it: the length of the fragment, the length of the message, and
/// the message.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let header = [bytes.len() as u64 + 16, bytes.len() as u64].map(u64::to_le_bytes);
    [&header.concat(), bytes].concat()
}

fn send_all(channel: RawFd, bytes: &[u8]) {
    loop {
        match send(channel, bytes, MsgFlags::MSG_NOSIGNAL) {
            Err(Errno::EINTR) => {}
            sent => return assert_eq!(sent, Ok(bytes.len())),
        }
    }
}

/// The report channel of this process: the one socket that its fork server has too, but no sibling.
fn report_channel() -> RawFd {
    let fork_server = parent_id();
    let this = std::process::id();
    let mut found = Vec::new();
    // A sibling that was forked just now still has copies of all that the fork server has.
    wait_until(|| {
        let sibling = children_of(fork_server).into_iter().find(|pid| *pid != this);
        let others = sockets(sibling.expect("there are two processes"));
        let others: HashSet<String> = others.into_iter().map(|(_, name)| name).collect();
        let fork_servers = sockets(fork_server).into_iter().map(|(_, name)| name);
        let fork_servers: HashSet<String> = fork_servers.collect();
        found = sockets(this);
        found.retain(|(_, name)| fork_servers.contains(name) && !others.contains(name));
        found.len() == 1
    });
    found[0].0
}

fn sockets(pid: u32) -> Vec<(RawFd, String)> {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it is ours");
    let socket = |link: std::io::Result<std::fs::DirEntry>| {
        let link = link.ok()?;
        let target = std::fs::read_link(link.path()).ok()?.into_os_string().into_string().ok()?;
        let fd = link.file_name().to_str()?.parse().ok()?;
        target.starts_with("socket:").then_some((fd, target))
    };
    links.filter_map(socket).collect()
}

/// Returns the line of task 3, and asserts that all other lines are right.
fn fate(finished: &Finished) -> &str {
    // Panics inside ipc-channel are caught, but printed.
    assert!(finished.status.success(), "{}\n{}", finished.stdout, finished.stderr);
    let lines: Vec<&str> = finished.stdout.lines().collect();
    for (task, line) in lines.iter().enumerate().take(8).filter(|(task, _)| *task != 3) {
        assert_eq!(*line, format!("{task}: {task}"));
    }
    assert_eq!(lines[8..], ["afterwards 999000", "called back"]);
    lines[3]
}

fn corrupt_report_ends_its_worker(start_method: StartMethod) {
    for kind in ["nothing", "noise", "long", "boast"] {
        let finished = run(write_corrupt_reports, start_method, &[kind]);
        let fate = fate(&finished);
        assert!(fate.starts_with("3: death signal=9 task=3 "), "{kind}: {fate}");
    }
    // A worker that reports its own exit is believed.
    let finished = run(write_corrupt_reports, start_method, &["exit"]);
    let fate = fate(&finished);
    assert!(fate.starts_with("3: death code=0 task=3 "), "{fate}");
}

fn corrupt_report_that_looks_valid_is_harmless(start_method: StartMethod) {
    for kind in ["numbers", "news"] {
        assert_eq!(fate(&run(write_corrupt_reports, start_method, &[kind])), "3: 3", "{kind}");
    }
}

fn endless_corrupt_report_is_ended_by_the_timeout(start_method: StartMethod) {
    for kind in ["headless", "flood"] {
        let finished = run(write_corrupt_reports, start_method, &[kind]);
        let fate = fate(&finished);
        assert!(fate.starts_with("3: timeout task=3 "), "{kind}: {fate}");
    }
}

/// The process of a `preload` function writes a corrupt message. Another process of the same fork
/// server runs, so that [`report_channel`] finds the channel.
fn write_a_corrupt_report_in_preload(arguments: &Arguments) {
    let start_method = arguments.start_method;
    let other = Process::new(|()| work_forever(), ()).start_method(start_method).daemon(true);
    let other = other.start().expect("it is started");
    let preload = |()| {
        send_all(report_channel(), &framed(&[200; 1000]));
        work_forever();
    };
    let builder = Pool::builder().start_method(start_method).preload(preload, ());
    let error = builder.build().and_then(|pool| pool.map(increment, [1])).expect_err("it fails");
    println!("{}", describe(&error));
    other.kill().expect("it is running");
}

fn corrupt_report_of_a_preload_function_is_an_error(start_method: StartMethod) {
    let finished = run(write_a_corrupt_report_in_preload, start_method, &[]);
    let told = finished.succeeded();
    assert!(told.contains("signal=9"), "{told}");
}

fn increment(x: u32) -> u32 {
    x + 1
}

/// A worker overwrites all that it shares with others, and dies.
fn overwrite_shared_memory_in_a_worker(arguments: &Arguments) {
    let byte = u8::try_from(arguments.number()).expect("a byte comes after the start method");
    let pool = arguments.pool(2);
    pool.map(increment, 0..100).expect("nothing fails");
    let task = |(task, byte): (u32, u8)| {
        if task == 3 {
            raw::overwrite_shared_memory(byte);
            // Rust's own handler makes the first one harmless, unless it is a real fault.
            loop {
                signal_self(Signal::SIGSEGV);
            }
        }
        task
    };
    let results = pool.try_map(task, (0..20).map(|task| (task, byte)));
    // Other results may be corrupt too, as `crates/proc-core/src/pool/board/README.md` says.
    assert_eq!(results.len(), 20);
    assert!(results[3].is_err(), "{results:?}");
    println!("told");
    drop(pool);
    // This pool has the default start method.
    let pool = Pool::builder().processes(2).build().expect("it can be built");
    println!("{:?}", pool.map(increment, 0..3).expect("nothing fails"));
}

fn worker_that_overwrites_shared_memory_is_an_error(start_method: StartMethod) {
    for byte in [0, 1, 255] {
        let finished = run(overwrite_shared_memory_in_a_worker, start_method, &[&byte.to_string()]);
        assert_eq!(finished.succeeded(), "told\n[1, 2, 3]\n", "byte {byte}");
    }
}
