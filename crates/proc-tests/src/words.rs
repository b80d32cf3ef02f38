//! Environments and values for which only good words help: what is told must say what to do.

use ipc_channel::ipc::{self, IpcSender};
use nix::errno::Errno;
use proc_core::{Child, Error, Limits, Pool, Process, Shared};
use serde::{Deserialize, Serialize};

use crate::hardships::leave_descriptors;
use crate::{Arguments, Scenario, describe, raw};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("words-use", words_use),
    ("hidden-directory", hidden_directory),
    ("refused-call", refused_call),
    ("self-describing", self_describing),
    ("few-descriptors", few_descriptors),
    ("few-descriptors-in-worker", few_descriptors_in_worker),
    ("daemon-after-init", daemon_after_init),
];

fn increment(x: u32) -> u32 {
    x + 1
}

/// A line that begins with "fine", or tells the error.
fn tell<T>(what: &str, result: Result<T, Error>) {
    match result {
        Ok(_) => println!("{what}: fine"),
        Err(error) => println!("{what}: {}", describe(&error)),
    }
}

/// A process, a pool, and shared memory.
fn words_use(arguments: &Arguments) {
    let child = Process::new(increment, 41).start_method(arguments.context).start();
    tell("process", child.and_then(Child::join));
    let pool = Pool::builder().processes(2).start_method(arguments.context).build();
    tell("pool", pool.and_then(|pool| pool.map(increment, 0..3)));
    tell("shared", Shared::from_slice(&[1, 2, 3]));
}

/// A directory is empty: from the beginning, or from a moment after `init`.
fn hidden_directory(arguments: &Arguments) {
    let [directory, order] = &arguments.rest[..] else { panic!("two words") };
    if order == "before" {
        raw::own_mounts();
        raw::hide(directory);
        proc_core::init();
    } else {
        // Mounts of one's own are a namespace of one's own; only the empty directory comes later.
        raw::own_mounts();
        proc_core::init();
        raw::hide(directory);
    }
    words_use(arguments);
}

/// The kernel refuses a system call: from the beginning, or from a moment after `init`.
fn refused_call(arguments: &Arguments) {
    let [call, errno, order] = &arguments.rest[..] else { panic!("three words") };
    let errno = match errno.as_str() {
        "EPERM" => Errno::EPERM,
        "ENOSYS" => Errno::ENOSYS,
        other => panic!("no such error: {other}"),
    };
    if order == "before" {
        raw::refuse(raw::number_of(call), errno);
        proc_core::init();
    } else {
        proc_core::init();
        raw::refuse(raw::number_of(call), errno);
    }
    words_use(arguments);
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "t")]
enum Tagged {
    A { x: u32 },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    A { x: u32 },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Inner {
    x: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Flat {
    name: String,
    #[serde(flatten)]
    inner: Inner,
}

/// Deep inside of what can cross.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Around {
    values: Vec<Option<Tagged>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    A { x: u32 },
}

/// This one can cross.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Plain {
    A { x: u32 },
}

/// Values whose serde attributes need a format that describes itself.
fn self_describing(arguments: &Arguments) {
    macro_rules! cross {
        ($($name:literal $kind:ty: $value:expr;)*) => {
            $( {
                let take = |_: $kind| ();
                let child = Process::new(take, $value).start_method(arguments.context).start();
                tell(concat!($name, " argument of a process"), child.and_then(Child::join));
                let make = |()| -> $kind { $value };
                let child = Process::new(make, ()).start_method(arguments.context).start();
                tell(concat!($name, " result of a process"), child.and_then(Child::join));
            } )*
            let pool = arguments.pool(1);
            $( {
                let take = |_: $kind| ();
                tell(concat!($name, " argument"), pool.apply(take, $value));
                let make = |()| -> $kind { $value };
                tell(concat!($name, " result"), pool.apply(make, ()));
                for result in pool.try_map(take, [$value; 1]) {
                    tell(concat!($name, " input"), result);
                }
            } )*
        };
    }
    cross! {
        "tagged" Tagged: Tagged::A { x: 1 };
        "untagged" Untagged: Untagged::A { x: 1 };
        "flat" Flat: Flat { name: "n".into(), inner: Inner { x: 1 } };
        "around" Around: Around { values: vec![None, Some(Tagged::A { x: 1 })] };
        "plain" Plain: Plain::A { x: 1 };
        "adjacent" Adjacent: Adjacent::A { x: 1 };
    }
}

/// Each call that needs descriptors, while this process has so many left.
fn few_descriptors(arguments: &Arguments) {
    let [way, count] = &arguments.rest[..] else { panic!("two words") };
    let count = count.parse().expect("it is a number");
    let (sender, _receiver) = ipc::channel::<u32>().expect("a channel can be made");
    let shared = Shared::from_slice(&[1, 2, 3]).expect("there is memory");
    let take_sender = |sender: IpcSender<u32>| drop(sender);
    let take_shared = |shared: Shared<u32>| drop(shared);
    let context = arguments.context;
    match way.as_str() {
        "process" => {
            // The first of a program may make a fork server.
            let first = Process::new(increment, 1).start_method(context).start();
            first.and_then(Child::join).expect("it returns");
            let _files = leave_descriptors(count);
            tell(
                way,
                Process::new(increment, 1).start_method(context).start().and_then(Child::join),
            );
        }
        "first process" => {
            let _files = leave_descriptors(count);
            tell(
                way,
                Process::new(increment, 1).start_method(context).start().and_then(Child::join),
            );
        }
        "sender of a process" => {
            let _files = leave_descriptors(count);
            let child = Process::new(take_sender, sender).start_method(context).start();
            tell(way, child.and_then(Child::join));
        }
        "build" => {
            let _files = leave_descriptors(count);
            let pool = Pool::builder().processes(2).start_method(context).build();
            tell(way, pool.and_then(|pool| pool.map(increment, 0..3)));
        }
        "share" => {
            let _files = leave_descriptors(count);
            tell(way, Shared::from_slice(&[1, 2, 3]));
        }
        _ => {
            let pool = arguments.pool(1);
            pool.map(increment, 0..100).expect("nothing fails");
            let files = leave_descriptors(count);
            match way.as_str() {
                "sender" => tell(way, pool.apply(take_sender, sender)),
                "shared" => tell(way, pool.apply(take_shared, shared)),
                "large" => tell(way, pool.apply(|v: Vec<u8>| v.len(), vec![1; 3 << 20])),
                "large result" => tell(way, pool.apply(|n: usize| vec![1_u8; n], 3 << 20)),
                "results" => {
                    let make = |_: u32| ipc::channel::<u32>().expect("it has enough").0;
                    let results = pool.try_map(make, 0..20);
                    results.into_iter().for_each(|result| tell(way, result));
                }
                "resize" => tell(way, pool.resize(4)),
                other => panic!("no such way: {other}"),
            }
            drop(files);
            assert_eq!(pool.map(increment, 0..3).expect("the pool goes on"), [1, 2, 3]);
        }
    }
}

/// Workers and processes that may open few files.
fn few_descriptors_in_worker(arguments: &Arguments) {
    let limits = || Limits::new().open_files(arguments.number() as u64);
    let make = |count: u32| -> Vec<IpcSender<u32>> {
        let made = (0..count).map_while(|_| ipc::channel().ok());
        made.map(|(sender, _)| sender).collect()
    };
    let take = |senders: Vec<IpcSender<u32>>| senders.len();
    let process = Process::new(increment, 1).limits(limits()).start_method(arguments.context);
    tell("process", process.start().and_then(Child::join));
    let process = Process::new(make, 50).limits(limits()).start_method(arguments.context);
    tell("process result", process.start().and_then(Child::join));
    let pool =
        Pool::builder().processes(1).limits(limits()).start_method(arguments.context).build();
    let pool = match pool {
        Ok(pool) => pool,
        Err(error) => return tell("pool", Err::<(), _>(error)),
    };
    tell("task", pool.apply(increment, 1));
    tell("argument", pool.apply(take, make(50)));
    tell("result", pool.apply(make, 50));
    let nested = |()| match Process::new(increment, 1).start().and_then(Child::join) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    match pool.apply(nested, ()) {
        Ok(why) if why.is_empty() => println!("nested: fine"),
        Ok(why) => println!("nested: {why}"),
        Err(error) => tell("nested", Err::<(), _>(error)),
    }
    tell("after", pool.apply(increment, 1));
}

/// The program has gone on as a copy of itself, in a session of its own, as daemons do.
fn daemon_after_init(arguments: &Arguments) {
    if raw::fork() {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).expect("Linux can");
        nix::unistd::setsid().expect("it leads no group");
        words_use(arguments);
        std::process::exit(0);
    }
    println!("daemon ended");
}
