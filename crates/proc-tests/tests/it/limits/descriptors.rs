//! Too few file descriptors: in the program, in its workers, and on their way between them.

use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use ipc_channel::ipc::{self, IpcSender};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use proc_core::{Child, ErrorKind, Limits, Pool, Process, Shared, StartMethod};
use serde_bytes::ByteBuf;

use crate::support::descriptors::{descriptors, leave_descriptors};
use crate::support::marker_files::{self, MarkerFiles};
use crate::support::users::{become_unused_user, can_be_another_user};
use crate::support::{
    Arguments, assert_fine_or_contains, assert_snapshot, describe, print_result, run, signal_self,
    wait_until,
};

programs![
    descriptors_of_workers,
    call_with_few_descriptors,
    limit_descriptors_of_workers,
    replace_worker_without_descriptors,
    too_many_descriptors_in_flight
];

tests! {
    workers_inherit_nothing_of_their_siblings: forkserver spawn fork;
    too_few_descriptors_come_with_a_hint: forkserver spawn fork;
    too_few_descriptors_of_a_worker_come_with_a_hint: forkserver spawn fork;
    worker_is_replaced_when_there_are_descriptors_again: forkserver spawn;
    too_many_descriptors_in_flight_cost_no_worker: forkserver spawn fork;
}

/// Each worker prints its open descriptors.
fn descriptors_of_workers(arguments: &Arguments) {
    let pool = Pool::builder()
        .processes(arguments.number())
        .start_method(arguments.start_method)
        .initializer(|()| println!("{}", descriptors()), ())
        .build()
        .expect("the pool can be built");
    pool.close();
    pool.join().expect("the workers end");
}

fn workers_inherit_nothing_of_their_siblings(start_method: StartMethod) {
    let alone = run(descriptors_of_workers, start_method, &["1"]);
    let alone = alone.succeeded().trim_end();
    assert!(!alone.contains('\n'), "{alone}");
    for workers in [2, 8, 64] {
        let finished = run(descriptors_of_workers, start_method, &[&workers.to_string()]);
        let lines: Vec<&str> = finished.succeeded().lines().collect();
        assert_eq!(lines, vec![alone; workers]);
    }
}

fn increment(x: u32) -> u32 {
    x + 1
}

/// Makes a call that needs descriptors, while this process has only some left.
fn call_with_few_descriptors(arguments: &Arguments) {
    let [way, count] = &arguments.rest[..] else { panic!("two words") };
    let count = count.parse().expect("it is a number");
    let (sender, _receiver) = ipc::channel::<u32>().expect("a channel can be made");
    let shared = Shared::from_slice(&[1, 2, 3]).expect("there is memory");
    let take_sender = |sender: IpcSender<u32>| drop(sender);
    let take_shared = |shared: Shared<u32>| drop(shared);
    let start_method = arguments.start_method;
    match way.as_str() {
        "process" => {
            // The first process of a program may need a fork server.
            let first = Process::new(increment, 1).start_method(start_method).start();
            first.and_then(Child::join).expect("it returns");
            let _files = leave_descriptors(count);
            print_result(
                way,
                Process::new(increment, 1).start_method(start_method).start().and_then(Child::join),
            );
        }
        "first process" => {
            let _files = leave_descriptors(count);
            print_result(
                way,
                Process::new(increment, 1).start_method(start_method).start().and_then(Child::join),
            );
        }
        "sender of a process" => {
            let _files = leave_descriptors(count);
            let child = Process::new(take_sender, sender).start_method(start_method).start();
            print_result(way, child.and_then(Child::join));
        }
        "build" => {
            let _files = leave_descriptors(count);
            let pool = Pool::builder().processes(2).start_method(start_method).build();
            print_result(way, pool.and_then(|pool| pool.map(increment, 0..3)));
        }
        "share" => {
            let _files = leave_descriptors(count);
            print_result(way, Shared::from_slice(&[1, 2, 3]));
        }
        _ => {
            let pool = arguments.pool(1);
            pool.map(increment, 0..100).expect("nothing fails");
            let files = leave_descriptors(count);
            match way.as_str() {
                "sender" => print_result(way, pool.apply(take_sender, sender)),
                "shared" => print_result(way, pool.apply(take_shared, shared)),
                "large" => print_result(way, pool.apply(|v: Vec<u8>| v.len(), vec![1; 3 << 20])),
                "large result" => print_result(way, pool.apply(|n: usize| vec![1_u8; n], 3 << 20)),
                "results" => {
                    let make = |_: u32| ipc::channel::<u32>().expect("it has enough").0;
                    let results = pool.try_map(make, 0..20);
                    results.into_iter().for_each(|result| print_result(way, result));
                }
                "resize" => print_result(way, pool.resize(4)),
                other => panic!("no such way: {other}"),
            }
            drop(files);
            assert_eq!(pool.map(increment, 0..3).expect("the pool goes on"), [1, 2, 3]);
        }
    }
}

fn too_few_descriptors_come_with_a_hint(start_method: StartMethod) {
    let ways = [
        "process",
        "first process",
        "sender of a process",
        "build",
        "share",
        "sender",
        "shared",
        "large",
        "large result",
        "results",
        "resize",
    ];
    for (way, spare) in ways.iter().flat_map(|way| (0..12).map(move |spare| (way, spare))) {
        let finished = run(call_with_few_descriptors, start_method, &[way, &spare.to_string()]);
        assert_fine_or_contains(&finished, &["too many open files", "ulimit -n"]);
        assert!(*way == "results" || spare > 0 || finished.stdout.contains("ulimit -n"), "{way}");
    }
}

/// Workers and processes with a limit of open files.
fn limit_descriptors_of_workers(arguments: &Arguments) {
    let limits = || Limits::new().open_files(arguments.number() as u64);
    let make = |count: u32| -> Vec<IpcSender<u32>> {
        let made = (0..count).map_while(|_| ipc::channel().ok());
        made.map(|(sender, _)| sender).collect()
    };
    let take = |senders: Vec<IpcSender<u32>>| senders.len();
    let process = Process::new(increment, 1).limits(limits()).start_method(arguments.start_method);
    print_result("process", process.start().and_then(Child::join));
    let process = Process::new(make, 50).limits(limits()).start_method(arguments.start_method);
    print_result("process result", process.start().and_then(Child::join));
    let pool =
        Pool::builder().processes(1).limits(limits()).start_method(arguments.start_method).build();
    let pool = match pool {
        Ok(pool) => pool,
        Err(error) => return print_result("pool", Err::<(), _>(error)),
    };
    print_result("task", pool.apply(increment, 1));
    print_result("argument", pool.apply(take, make(50)));
    print_result("result", pool.apply(make, 50));
    let nested = |()| match Process::new(increment, 1).start().and_then(Child::join) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    match pool.apply(nested, ()) {
        Ok(why) if why.is_empty() => println!("nested: fine"),
        Ok(why) => println!("nested: {why}"),
        Err(error) => print_result("nested", Err::<(), _>(error)),
    }
    print_result("after", pool.apply(increment, 1));
}

fn too_few_descriptors_of_a_worker_come_with_a_hint(start_method: StartMethod) {
    for count in [4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64] {
        let finished = run(limit_descriptors_of_workers, start_method, &[&count.to_string()]);
        assert_fine_or_contains(&finished, &["open files"]);
    }
}

/// A worker dies while few descriptors are left. Later there are more again.
fn replace_worker_without_descriptors(arguments: &Arguments) {
    let count = arguments.number();
    let pool = arguments.pool(2);
    pool.map(increment, 0..100).expect("nothing fails");
    let marks = MarkerFiles::new();
    let meet = |(mine, other): (PathBuf, PathBuf)| {
        marker_files::create(&mine);
        marker_files::wait_for(&other);
        std::process::id()
    };
    let die = |x: u32| {
        if x == 0 {
            signal_self(Signal::SIGKILL);
        }
        x
    };
    let files = leave_descriptors(count);
    let results = pool.options().chunksize(1).try_map(die, 0..5);
    drop(files);
    let mut results = results.into_iter();
    let first = results.next().expect("there is one result for each task");
    assert!(first.expect_err("it killed its worker").is_death());
    for (result, task) in results.zip(1..) {
        match result {
            Ok(value) => assert_eq!(value, task),
            Err(error) => assert!(
                error.kind() == ErrorKind::Start || error.is_death(),
                "{}",
                describe(&error)
            ),
        }
    }
    // Both workers are needed for that.
    let (a, b) = (marks.path("a"), marks.path("b"));
    let both = [(a.clone(), b.clone()), (b, a)];
    let pids = pool.options().chunksize(1).map(meet, both).expect("nothing fails");
    assert_ne!(pids[0], pids[1]);
    println!("both");
}

fn worker_is_replaced_when_there_are_descriptors_again(start_method: StartMethod) {
    for spare in 0..=8 {
        let finished = run(replace_worker_without_descriptors, start_method, &[&spare.to_string()]);
        assert_eq!(finished.succeeded(), "both\n", "{spare} descriptors");
    }
}

/// The kernel bounds how many descriptors of a user may be in flight. When so many are, no memory
/// can be sent to workers.
fn too_many_descriptors_in_flight(arguments: &Arguments) {
    become_unused_user();
    let pool = arguments.pool(2);
    pool.map(increment, 0..100).expect("nothing fails");
    let before = pool.worker_pids();
    let (soft, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("it can be asked");
    setrlimit(Resource::RLIMIT_NOFILE, 100, most).expect("less is allowed");
    let (ours, theirs) = UnixStream::pair().expect("a pair can be made");
    let fds = [ours.as_raw_fd(); 50];
    for _ in 0..3 {
        let (bytes, rights) = ([IoSlice::new(b"x")], [ControlMessage::ScmRights(&fds)]);
        // Descriptors of starting processes are in flight for a moment.
        wait_until(|| {
            sendmsg::<()>(ours.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None).is_ok()
        });
    }
    let large = |bytes: ByteBuf| bytes.len();
    for result in
        pool.options().chunksize(1).try_map(large, vec![ByteBuf::from(vec![1; 9 << 20]); 4])
    {
        println!("{}", describe(&result.expect_err("no memory can be sent to a worker")));
    }
    drop((ours, theirs));
    setrlimit(Resource::RLIMIT_NOFILE, soft, most).expect("the hard limit stayed");
    assert_eq!(pool.worker_pids(), before, "no worker is to blame");
    println!("{}", pool.apply(large, ByteBuf::from(vec![1; 9 << 20])).expect("nothing fails"));
}

fn too_many_descriptors_in_flight_cost_no_worker(start_method: StartMethod) {
    if can_be_another_user() {
        let finished = run(too_many_descriptors_in_flight, start_method, &[]);
        assert_snapshot("descriptors_under_way", 2, finished.succeeded());
    }
}
