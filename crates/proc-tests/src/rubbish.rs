//! Workers that write to their report channel what no worker of ours writes.

use std::collections::HashSet;
use std::os::fd::RawFd;
use std::os::unix::process::parent_id;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};

use crate::life::children_of;
use crate::marks;
use crate::{Arguments, Scenario, describe, print_fates, work_for_ever};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[("rubbish", rubbish)];

/// How long a task may run whose rubbish is not told from what may be.
const SOON: Duration = Duration::from_secs(1);

/// How long a task may run that is ended for its rubbish, which must come first.
const LATE: Duration = Duration::from_secs(50);

/// Task 3 of 8 writes rubbish of the named kind, and stays; the others have nothing to do with it.
fn rubbish(arguments: &Arguments) {
    let pool = arguments.pool(2);
    pool.map(|x: u32| x, 0..100).expect("nothing fails");
    let task = |(task, kind): (u32, String)| {
        if task == 3 {
            write_rubbish(&kind);
        }
        task
    };
    let kind = arguments.word();
    let limit = if matches!(kind, "headless" | "flood") { SOON } else { LATE };
    let inputs = (0..8).map(|task| (task, kind.to_owned()));
    let results = pool.options().chunksize(1).timeout(limit).try_map(task, inputs);
    let pid = results[3].as_ref().err().and_then(proc_core::Error::pid);
    print_fates(results);
    if let Some(pid) = pid {
        // Nobody who writes such things is left to do more.
        marks::wait_until(|| !std::fs::exists(format!("/proc/{pid}")).expect("/proc is mounted"));
    }
    let sum: u64 = pool.map(|x: u64| 2 * x, 0..1000).expect("the pool goes on").iter().sum();
    println!("afterwards {sum}");
    // A callback is called by whoever attends the worker, and nobody looks for it.
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

/// The numbers of variants of proc-core's `Report`; what follows [`SAID`] are those of its `News`.
const EXITED: u8 = 3;
const SAID: u8 = 4;

fn write_rubbish(kind: &str) {
    let report = report_channel();
    // Its first number is that of no report.
    let noise = |len: u32| (0..len).map(|n| ((n * 7919) >> 3) as u8 | 128).collect::<Vec<u8>>();
    match kind {
        "nothing" => write(report, &[]),
        "noise" => write(report, &framed(&noise(1000))),
        "long" => write(report, &framed(&noise(100_000))),
        // Not even the carrier's own header: it waits for the rest.
        "headless" => write(report, &noise(1000)),
        "boast" => {
            let mut boast = framed(&[SAID, 0]);
            boast[8..16].copy_from_slice(&(1_u64 << 40).to_le_bytes());
            write(report, &boast);
        }
        "exit" => write(report, &framed(&[EXITED, 0, 0])),
        // Asks for channel ends, and results, of tickets and tasks that there are not.
        "numbers" => {
            for ticket in [&[0][..], &[200, 1], &[255, 255, 255, 255, 15]] {
                write(report, &framed(&[&[SAID, 4], ticket].concat()));
                for task in [&[0][..], &[7], &[255, 255, 255, 255, 15]] {
                    write(
                        report,
                        &framed(&[&[SAID, 5], ticket, task, &[0, 3, 1, 2, 3, 0]].concat()),
                    );
                }
            }
            return;
        }
        "news" => {
            for news in [&[0][..], &[3], &[2, 0], &[1, 0, 1, 9, 0]] {
                write(report, &framed(&[&[SAID], news].concat()));
            }
            write(report, &framed(&[0, 9]));
            write(report, &framed(&[2, 3, 65, 66, 67]));
            return;
        }
        "flood" => loop {
            write(report, &framed(&[SAID, 3]));
        },
        other => panic!("no such rubbish: {other}"),
    }
    work_for_ever();
}

/// A message as the carrier frames it: the length of the fragment, that of the whole, the whole.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let header = [bytes.len() as u64 + 16, bytes.len() as u64].map(u64::to_le_bytes);
    [&header.concat(), bytes].concat()
}

fn write(channel: RawFd, bytes: &[u8]) {
    loop {
        match send(channel, bytes, MsgFlags::MSG_NOSIGNAL) {
            Err(Errno::EINTR) => {}
            sent => return assert_eq!(sent, Ok(bytes.len())),
        }
    }
}

/// This worker's way to report: the socket that its fork server has as well, and no sibling.
fn report_channel() -> RawFd {
    let fork_server = parent_id();
    let this = std::process::id();
    let mut found = Vec::new();
    // A sibling that was forked just now still has copies of all that the fork server has.
    marks::wait_until(|| {
        let sibling = children_of(fork_server).into_iter().find(|pid| *pid != this);
        let others = sockets(sibling.expect("there are two workers"));
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
