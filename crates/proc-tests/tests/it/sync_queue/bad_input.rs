//! Items that cannot cross, and a lack of descriptors, address space or file sizes, are errors that
//! say what to do.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use proc_core::ipc::{self, IpcSender};
use proc_core::sync::{Connection, Lock, Queue, Value, pipe};
use proc_core::{Error, ErrorKind, Limits, Process, Shared, StartMethod};
use serde_bytes::ByteBuf;

use super::shared_memory;
use crate::support::descriptors::{count_descriptors, leave_descriptors};
use crate::support::odd_value::{
    Odd, PANICS_WHEN_READ, PANICS_WHEN_WRITTEN, UNREADABLE, UNWRITABLE,
};
use crate::support::{Arguments, SOON, describe, run};

programs![
    refuse_bounds,
    put_handles,
    put_odd_items,
    lack_descriptors,
    lack_address_space,
    #[without_init]
    limit_file_sizes,
    make_many
];

tests! {
    senseless_bounds_are_refused;
    items_with_handles_are_refused;
    items_that_fail_to_cross_are_errors;
    queue_without_descriptors_is_an_error;
    items_beyond_the_address_space_are_errors: forkserver spawn;
    items_beyond_the_limit_of_file_sizes_are_errors;
    queues_and_pipes_leave_nothing;
}

#[track_caller]
fn expect_kind<T>(result: Result<T, Error>, kind: ErrorKind) -> String {
    let error = result.map(drop).expect_err("it must fail");
    assert_eq!(error.kind(), kind, "{}", describe(&error));
    describe(&error)
}

fn refuse_bounds(_: &Arguments) {
    for items in [0, (1 << 31) + 1, usize::MAX] {
        let text = expect_kind(Queue::<u32>::bounded(items), ErrorKind::Invalid);
        assert!(text.contains("use Queue::new() for one without a bound"), "{text}");
    }
    let largest = Queue::bounded(1 << 31).expect("it is allowed");
    largest.put(1).expect("there is room");
    println!("refused");
}

fn senseless_bounds_are_refused() {
    assert_eq!(run(refuse_bounds, StartMethod::Forkserver, &[]).succeeded(), "refused\n");
}

fn refuse<T>(what: &str, make: impl Fn() -> T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
{
    let descriptors = count_descriptors();
    for queue in [Queue::new(), Queue::bounded(1)].map(|queue| queue.expect("there is memory")) {
        for result in [
            queue.put(make()),
            queue.try_put(make()).map(drop),
            queue.put_timeout(make(), SOON).map(drop),
            queue.put_all([make(), make()]),
        ] {
            let text = expect_kind(result, ErrorKind::Encode);
            let why = "a queue or a pipe carries no channel ends, shared memory or other shared state: send \
                       them as an argument, or with `with`";
            assert!(text.contains(why), "{what}: {text}");
        }
        assert!(queue.is_empty(), "{what}");
    }
    let (one, _other) = pipe::<T, ()>().expect("there is memory");
    expect_kind(one.send(make()), ErrorKind::Encode);
    drop((one, _other));
    let left = count_descriptors();
    assert!(left <= descriptors + 2, "{what}: {left} descriptors, and {descriptors} before");
}

fn put_handles(_: &Arguments) {
    refuse("a channel end", || ipc::channel::<u32>().expect("a channel").0);
    refuse("an end within", || vec![Some(ipc::channel::<u32>().expect("a channel").0)]);
    refuse::<Option<IpcSender<u32>>>("an end", || Some(ipc::channel().expect("a channel").0));
    refuse("shared memory", || Shared::from_slice(&[1_u32; 1000]).expect("there is memory"));
    refuse("a lock", || Lock::new().expect("there is memory"));
    refuse("a value", || (1, Value::new(1_u32).expect("there is memory")));
    refuse("a queue", || Queue::<u32>::new().expect("there is memory"));
    refuse("a connection", || pipe::<u32, u32>().expect("there is memory").0);
    println!("refused");
}

fn items_with_handles_are_refused() {
    assert_eq!(run(put_handles, StartMethod::Forkserver, &[]).succeeded(), "refused\n");
}

/// Items whose encoding or decoding fails or panics.
fn put_odd_items(_: &Arguments) {
    std::panic::set_hook(Box::new(|_| {}));
    let queue = Queue::<Odd>::bounded(10).expect("there is memory");
    for odd in [UNWRITABLE, PANICS_WHEN_WRITTEN] {
        println!("put {odd}: {}", expect_kind(queue.put(Odd(odd)), ErrorKind::Encode));
        expect_kind(queue.try_put(Odd(odd)), ErrorKind::Encode);
        expect_kind(queue.put_all([Odd(10), Odd(odd), Odd(11)]), ErrorKind::Encode);
        assert_eq!(queue.len(), 1, "what comes before it is put");
        assert_eq!(queue.get().expect("it is there").0, 10);
    }
    for odd in [UNREADABLE, PANICS_WHEN_READ] {
        queue.put_all([Odd(odd), Odd(10)]).expect("it is open");
        println!("get {odd}: {}", expect_kind(queue.get(), ErrorKind::Decode));
        assert_eq!(queue.get().expect("the next one").0, 10, "the first one is taken");
        queue.put_all([Odd(odd), Odd(10)]).expect("it is open");
        for _ in 0..3 {
            expect_kind(queue.lease(), ErrorKind::Decode);
            assert_eq!(queue.len(), 2, "it goes back");
        }
        expect_kind(queue.get(), ErrorKind::Decode);
        assert_eq!(queue.get().expect("the next one").0, 10);
        assert!(queue.join_timeout(SOON).expect("it can wait"));
    }
    let (one, other) = pipe::<Odd, ()>().expect("there is memory");
    expect_kind(one.send(Odd(UNWRITABLE)), ErrorKind::Encode);
    expect_kind(one.send(Odd(PANICS_WHEN_WRITTEN)), ErrorKind::Encode);
    one.send(Odd(UNREADABLE)).expect("it is open");
    one.send(Odd(10)).expect("it is open");
    expect_kind(other.recv(), ErrorKind::Decode);
    assert_eq!(other.recv().expect("the next one").0, 10);
}

fn items_that_fail_to_cross_are_errors() {
    let finished = run(put_odd_items, StartMethod::Forkserver, &[]);
    let output = finished.succeeded();
    for why in [
        "put 1: encode",
        "odd value 1 stays at home",
        "put 4: encode",
        "odd value 4 makes its writer panic",
        "get 3: decode",
        "odd value 3 is not recognized",
        "get 6: decode",
        "odd value 6 makes its reader panic",
    ] {
        assert!(output.contains(why), "{why}: {output}");
    }
}

/// There is no descriptor to make a queue or a pipe, or to send a queue.
fn lack_descriptors(arguments: &Arguments) {
    let queue = Queue::<u32>::new().expect("there are descriptors");
    let process = |()| {
        let process = Process::new(|queue: Queue<u32>| queue.put(1).is_ok(), queue.clone());
        process.start_method(arguments.start_method).start().and_then(proc_core::Child::join)
    };
    assert!(process(()).expect("it returns"));
    for count in 0..3 {
        let used = leave_descriptors(count);
        let made = (0..2).map(|_| Queue::<u32>::new()).collect::<Vec<_>>();
        if count == 0 {
            assert!(made.iter().all(Result::is_err));
        }
        for error in made.into_iter().filter_map(Result::err) {
            assert_eq!(error.kind(), ErrorKind::Start, "{}", describe(&error));
        }
        let ends = pipe::<u32, u32>();
        assert!(count == 2 || ends.is_err());
        drop(ends);
        let started = process(());
        assert!(count == 2 || started.is_err(), "{count}");
        queue.put(2).expect("it needs no descriptor");
        drop(used);
        assert!(process(()).expect("it returns"));
    }
    println!("refused");
}

fn queue_without_descriptors_is_an_error() {
    assert_eq!(run(lack_descriptors, StartMethod::Forkserver, &[]).succeeded(), "refused\n");
}

const MIB: usize = 1 << 20;

/// Puts larger and larger items until one is too large for this process. Then tries to take the
/// first item, which is too large too. Returns both errors.
fn use_little(queue: Queue<ByteBuf>) -> (Error, Error) {
    let put = |len| queue.try_put(ByteBuf::from(vec![1; len]));
    let too_large = (64..).map(|mib| put(mib * MIB)).find_map(Result::err).expect("it ends");
    // The first item is too large to take: it stays.
    (too_large, queue.get().map(drop).expect_err("there is no address space"))
}

fn lack_address_space(arguments: &Arguments) {
    let queue = Queue::<ByteBuf>::new().expect("there is memory");
    queue.put(ByteBuf::from(vec![7; 700 * MIB])).expect("there is memory");
    let process = Process::new(use_little, queue.clone());
    let limits = Limits::new().address_space(800 << 20);
    let process = process.limits(limits).start_method(arguments.start_method).start();
    let (put, got) = process.and_then(proc_core::Child::join).expect("it returns");
    assert_eq!((put.kind(), got.kind()), (ErrorKind::Start, ErrorKind::Start), "{put} {got}");
    assert_eq!(queue.get().expect("it stayed").len(), 700 * MIB);
    while let Some(item) = queue.try_get().expect("it is open") {
        assert!(item.iter().all(|byte| *byte == 1));
    }
    // What could not be put takes no chunk.
    for _ in 0..10 {
        queue.put(ByteBuf::from(vec![7; MIB])).expect("there is memory");
        assert_eq!(queue.get().expect("it was put").len(), MIB);
    }
    assert!(shared_memory() < 32 << 20, "{}", shared_memory());
    println!("refused");
}

fn items_beyond_the_address_space_are_errors(start_method: StartMethod) {
    assert_eq!(run(lack_address_space, start_method, &[]).succeeded(), "refused\n");
}

/// Files of this process may have one mebibyte: a queue takes what fits.
fn limit_file_sizes(_: &Arguments) {
    let (_, most) = getrlimit(Resource::RLIMIT_FSIZE).expect("it can be read");
    setrlimit(Resource::RLIMIT_FSIZE, MIB as u64, most).expect("less is allowed");
    proc_core::init();
    let queue = Queue::<ByteBuf>::new().expect("it fits");
    let text = expect_kind(queue.put(ByteBuf::from(vec![1; 2 * MIB])), ErrorKind::Start);
    println!("{text}");
    for _ in 0..3 {
        let mut put = 0;
        let error = loop {
            match queue.try_put(ByteBuf::from(vec![put; 10_000])) {
                Ok(None) => put += 1,
                Ok(Some(_)) => panic!("it has no bound"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Start, "{}", describe(&error));
        assert!(put > 30, "{put} items fit");
        for number in 0..put {
            assert_eq!(queue.get().expect("it was put")[9999], number);
        }
    }
    setrlimit(Resource::RLIMIT_FSIZE, 1000, most).expect("less is allowed");
    for text in [
        expect_kind(Queue::<u32>::new(), ErrorKind::Start),
        expect_kind(pipe::<u32, u32>(), ErrorKind::Start),
    ] {
        assert!(text.contains("ulimit -f"), "{text}");
    }
    queue.put(ByteBuf::from(vec![1; 1000])).expect("there is room");
    setrlimit(Resource::RLIMIT_FSIZE, most.min(1 << 40), most).expect("it may be raised again");
}

fn items_beyond_the_limit_of_file_sizes_are_errors() {
    let finished = run(limit_file_sizes, StartMethod::Forkserver, &[]);
    assert!(finished.succeeded().contains("start"), "{}", finished.stdout);
}

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted").lines().count()
}

fn make_many(_: &Arguments) {
    const QUEUES: usize = 20_000;
    const PIPES: usize = 5000;
    let make = |count: usize, make: &dyn Fn()| (0..count).for_each(|_| make());
    let queue = || {
        let queue = Queue::<u32>::new().expect("there are descriptors");
        queue.put(1).expect("there is memory");
        drop(queue.lease().expect("it was put"));
    };
    let pipes = || {
        let (one, other): (Connection<u32, ()>, _) = pipe().expect("there are descriptors");
        one.send(1).expect("there is memory");
        assert_eq!(other.recv_timeout(Duration::ZERO).expect("it is open"), Some(1));
    };
    make(100, &queue);
    make(100, &pipes);
    let before = (count_descriptors(), mappings(), shared_memory());
    let memory = crate::support::procfs::anonymous_memory(std::process::id());
    make(QUEUES, &queue);
    make(PIPES, &pipes);
    let (descriptors, maps, shared) = (count_descriptors(), mappings(), shared_memory());
    assert!(descriptors <= before.0 && maps <= before.1 + 5 && shared <= before.2, "{before:?}");
    let grown = crate::support::procfs::anonymous_memory(std::process::id()).saturating_sub(memory);
    assert!(grown < 2 << 20, "{grown} bytes more");
    println!("flat");
}

fn queues_and_pipes_leave_nothing() {
    assert_eq!(run(make_many, StartMethod::Forkserver, &[]).succeeded(), "flat\n");
}
